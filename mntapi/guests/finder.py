"""Finding guests: every family is asked, and the first that knows a volume has it.

A family is a module with ``find(candidates) -> Iterator[Guest]``. What is wrong in one candidate is a reason of its guest, or
that candidate is left out; the others are not affected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Protocol, cast

from mntapi.errors import MntapiError
from mntapi.guests.types import Candidate, Guest
from mntapi.types import FileSystem, Volume

FAMILIES = (
    "mntapi.guests.windows",
    "mntapi.guests.esxi",
    "mntapi.guests.macos",
    "mntapi.guests.android",
    "mntapi.guests.bsd",
    "mntapi.guests.linux",
)
"""In the order in which they are asked. Linux is last, for others too have an os-release, an fstab or a folder ``etc``."""

MAX_GUESTS = 64
"""Systems of one family that are looked into."""


class FamilyModule(Protocol):
    """What a family's module offers."""

    def find(self, candidates: Sequence[Candidate]) -> Iterable[Guest]:
        """Every guest of this family. The whole set is given, for a guest's mount points may be on any of it."""


def find_guests(candidates: Sequence[Candidate]) -> list[Guest]:
    """All guests on the volumes of a set, in the order of those that hold them.

    Args:
        candidates: every volume of the set; snapshots too, in which no guest is looked for.
    """
    order = {candidate.volume.id: place for place, candidate in enumerate(candidates)}
    found: list[Guest] = []
    for name in FAMILIES:
        known = {guest.volume for guest in found}
        family = cast(FamilyModule, import_module(name))
        found += [guest for guest in islice(family.find(candidates), MAX_GUESTS) if guest.volume not in known]
    return sorted(found, key=lambda guest: order[guest.volume])


def readable(candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, FileSystem]]:
    """The candidates that can hold a guest: not snapshots, and with a file system that is read. For the families."""
    for candidate in candidates:
        if is_snapshot(candidate.volume):
            continue
        try:
            filesystem = candidate.filesystem()
        except MntapiError:
            continue  # the volume itself is listed with the reason
        yield candidate, filesystem


def is_snapshot(volume: Volume) -> bool:
    """Whether the volume shows another one as it was: a shadow copy, a snapshot of LVM. It has the other's UUIDs."""
    return volume.kind == "vss" or volume.details.get("segments") == "snapshot"
