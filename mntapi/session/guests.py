"""The guests of a set: its volumes given to ``mntapi.guests`` as candidates, and what it has of their volumes' snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from mntapi.guests.finder import find_guests
from mntapi.guests.types import Candidate, Family, Guest, MountKind, PointInTime
from mntapi.session.guest_tree.snapshots import base_of, moment_of
from mntapi.types import FileSystem, Signature, Volume

MAX_SNAPSHOTS = 5_000
"""Snapshots of volumes that are listed with a guest, as many as its tree has."""


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
    guests = find_guests([Candidate(one, signature(one), partial(filesystem, one)) for one in volumes])
    of: dict[str, list[Volume]] = {}
    for volume in volumes:
        if (base := base_of(volume)) is not None:
            of.setdefault(base, []).append(volume)
    return tuple(replace(guest, snapshots=(*guest.snapshots, *_of_volumes(guest, of))) for guest in guests)


def _of_volumes(guest: Guest, snapshots: Mapping[str, Sequence[Volume]]) -> Iterator[PointInTime]:
    """What was made of the volumes that a guest mounts, for each mount point."""
    root = PointInTime("/", guest.volume)
    shown = {} if guest.family is Family.WINDOWS else {"/": root}
    for mount in guest.mounts:
        shown.pop(mount.path, None)  # it is mounted over
        if mount.kind is MountKind.VOLUME and mount.volume is not None:
            shown[mount.path] = PointInTime(mount.path, mount.volume, mount.folder, mount.subvolume)
    found = (
        replace(one, volume=snapshot.id, time_ns=moment_of(snapshot), description=snapshot.name)
        for one in shown.values()
        for snapshot in snapshots.get(one.volume, ())
    )
    return islice(found, MAX_SNAPSHOTS)
