"""The guests of a set: its volumes given to ``mntapi.guests`` as candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mntapi.guests.finder import find_guests
from mntapi.guests.types import Candidate, Guest
from mntapi.types import FileSystem, Signature, Volume


def guests_on(
    volumes: Sequence[Volume],
    signature: Callable[[Volume], Signature | None],
    filesystem: Callable[[Volume], FileSystem],
) -> tuple[Guest, ...]:
    """All guests, in the order of the volumes that hold them. What cannot be read is among their reasons.

    Args:
        volumes: all of the set: a guest's mount points may be on any.
        signature: what the probe says of one.
        filesystem: opens its file system; the caller closes it.
    """
    return tuple(find_guests([Candidate(one, signature(one), partial(filesystem, one)) for one in volumes]))
