"""Finding guests: every family is asked, and the first that knows a volume has it.

A family is a module with ``find(candidates) -> Iterator[Guest]``. What is wrong in one candidate is a reason of its guest, or
that candidate is left out; the others are not affected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Protocol, cast

from mntapi.errors import MntapiError, NotFound
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

_SYSTEM_FOLDERS = (
    "etc", "usr", "bin", "sbin", "nix", "ostree", "System", "system", "build.prop", "default.prop", "boot.cfg", "BOOT.CFG",
)  # fmt: skip
"""A volume with none of them at its top holds no system but Windows, and its set does not pay for looking; of btrfs, its
subvolumes do."""

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
    for name in FAMILIES if any(map(_has_system_folder, candidates)) else FAMILIES[:1]:
        known = {guest.volume for guest in found}
        family = cast(FamilyModule, import_module(name))
        found += [guest for guest in islice(family.find(candidates), MAX_GUESTS) if guest.volume not in known]
    return sorted(found, key=lambda guest: order[guest.volume])


def _has_system_folder(candidate: Candidate) -> bool:
    """Whether something that systems other than Windows have is at the top; true where that cannot be told."""
    try:
        filesystem = candidate.filesystem()
    except MntapiError:
        return False
    return filesystem.kind == "btrfs" or any(_is_there(filesystem, name) for name in _SYSTEM_FOLDERS)


def _is_there(filesystem: FileSystem, name: str) -> bool:
    try:
        filesystem.lookup(filesystem.root, name)
    except NotFound:
        return False
    except MntapiError:
        return True
    return True


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
    return volume.kind == "vss" or "base" in volume.details or volume.details.get("segments") == "snapshot"
