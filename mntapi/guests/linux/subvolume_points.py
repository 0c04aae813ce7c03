"""Earlier states that are subvolumes of btrfs: Timeshift's, and read-only snapshots of what is mounted, whoever made them.

Snapper's are found by its own records (``snapshots.py``). A snapshot that can be written is not an earlier state for sure, so
without such records it is left alone.

Source: Timeshift's ``src/Core/Main.vala`` and ``Snapshot.vala`` on ``timeshift-btrfs``; btrfs-subvolume(8) on ``parent_uuid``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from mntapi.guests.files import GuestFiles
from mntapi.guests.linux.snapshots import MAX_INFO, Info, first_ones, parse_json
from mntapi.guests.subvolumes import Catalog, name_of
from mntapi.guests.types import MountKind, MountPoint, PointInTime
from mntapi.types import FileSystem

_TIMESHIFT = re.compile(r"(timeshift-btrfs/snapshots/[^/]+)/([^/]+)")


def subvolume_points(
    mounts: Sequence[MountPoint],
    catalogs: Mapping[str, Catalog],
    filesystems: Mapping[str, FileSystem],
    known: Sequence[PointInTime],
    reasons: list[str],
) -> Iterator[PointInTime]:
    """What the mounted subvolumes were before, each once, beside the first mount point that it belongs to.

    Args:
        mounts: the guest's, their subvolumes by path.
        catalogs: by volume.
        filesystems: by volume; Timeshift keeps its descriptions where the root is.
        known: points in time that are not to be told again.
        reasons: gets why there may be more.
    """
    taken = {(point.volume, point.subvolume) for point in known}
    taken |= {(mount.volume or "", mount.subvolume) for mount in mounts}
    live = [(mount, catalogs[mount.volume or ""]) for mount in mounts if mount.volume in catalogs and _is_whole(mount)]
    for point in (*_by_timeshift(live, filesystems, reasons), *_read_only(live, reasons)):
        if (point.volume, point.subvolume) not in taken:
            taken.add((point.volume, point.subvolume))
            yield point


_Live = Sequence[tuple[MountPoint, Catalog]]


def _is_whole(mount: MountPoint) -> bool:
    return mount.kind is MountKind.VOLUME and mount.folder == "/"


def _by_timeshift(live: _Live, filesystems: Mapping[str, FileSystem], reasons: list[str]) -> Iterator[PointInTime]:
    """Copies of the subvolume of that name, in a folder for each time."""
    first = {(mount.volume or "", mount.subvolume): mount for mount, _ in reversed(live)}
    for volume, catalog in {mount.volume or "": catalog for mount, catalog in live}.items():
        dated = ((one, _TIMESHIFT.fullmatch(one.path or "")) for one in catalog.all)
        matching = ((one, match) for one, match in dated if match)
        for one, match in first_ones(matching, "Timeshift", reasons):
            mount = first.get((volume, match[2]))
            if mount is not None:
                info = _described(match[1], [filesystems[volume], filesystems[live[0][0].volume or ""]])
                time_ns = one.created_ns if info.time_ns is None else info.time_ns
                yield PointInTime(mount.path, volume, "/", name_of(one), time_ns, info.description)


def _described(folder: str, filesystems: Sequence[FileSystem]) -> Info:
    for fs in filesystems:
        text = GuestFiles(fs).text(f"{folder}/info.json", MAX_INFO)
        if text is not None:
            return parse_json(text).info
    return Info(None, None)


def _read_only(live: _Live, reasons: list[str]) -> Iterator[PointInTime]:
    beside: dict[tuple[str, UUID | int], MountPoint] = {}
    for mount, catalog in live:
        shown = catalog.find(mount.subvolume)
        if shown is not None:
            beside.setdefault((mount.volume or "", catalog.lines[shown.id]), mount)
    for volume, catalog in {mount.volume or "": catalog for mount, catalog in live}.items():
        like = ((one, beside.get((volume, catalog.lines[one.id]))) for one in catalog.all if one.is_read_only)
        placed = ((one, near) for one, near in like if near is not None)
        for one, near in first_ones(placed, "btrfs", reasons):
            yield PointInTime(near.path, volume, "/", name_of(one), one.created_ns, one.path)
