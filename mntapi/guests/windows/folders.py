"""Volumes that are mounted in folders of others (``mountvol``): reparse points to ``\\\\?\\Volume{...}``.

NTFS keeps an index of all reparse points. Where there is none or it is damaged, folders are looked through, two deep, without
those that are Windows's own: ``C:\\Data`` and ``C:\\ExchangeDatabases\\DB01`` are found, a mount point that lies deeper is not.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter

from mntapi.errors import MntapiError, NotFound
from mntapi.filesystems.ntfs.filesystem import NtfsFileSystem
from mntapi.guests.files import GuestFiles
from mntapi.guests.types import MountPoint
from mntapi.guests.windows.drives import Drives
from mntapi.types import FileKind, FileSystem, Node

MAX_DEPTH = 2
MAX_NAMES = 2000
"""Names looked at on one volume; reading an entry of NTFS takes 60 µs. In the index, links: a Windows has some dozens."""
MAX_VOLUMES = 256
"""Volumes looked through for one guest."""

_TARGET = re.compile(
    r"(?:[\\/]{2}[?.][\\/]|[\\/]\?\?[\\/])?Volume\{([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\}[\\/]?", re.IGNORECASE
)
_DELETED = frozenset({"$recycle.bin", "recycler", "system volume information", "windows.old"})
_SKIPPED = _DELETED | {"windows", "winnt", "$extend"}


def folder_mounts(drives: Drives, files: GuestFiles) -> list[MountPoint]:
    """The mount points in folders of all volumes that have a drive letter, and in those of the volumes found there.

    What cannot be read is a reason in ``files``.
    """
    found: list[MountPoint] = []
    todo = deque(drives.mounts)
    seen: set[str] = set()
    while todo and len(seen) < MAX_VOLUMES:
        place = todo.popleft()
        if place.volume is None or place.volume in seen:
            continue
        seen.add(place.volume)
        for path, guid in _mounted_in(drives, place, files):
            mount = drives.mount_point(path, drives.named(guid), guid)
            found.append(mount)
            todo.append(mount)
    return found


def _mounted_in(drives: Drives, place: MountPoint, files: GuestFiles) -> Iterator[tuple[str, str]]:
    """The paths of the mount points on one volume, each with the GUID of what is there."""
    try:
        filesystem = drives.places.candidates[place.volume or ""].filesystem()
    except MntapiError:
        return  # the volume itself is listed with the reason
    if filesystem.kind != "ntfs":
        return
    try:
        for count, (path, target) in enumerate(_links(filesystem, place.path.removesuffix("\\"), files)):
            if count == MAX_NAMES:
                files.note(MntapiError(f"mount points are looked for in the first {MAX_NAMES} names only"), place.path)
                return
            match = _TARGET.fullmatch(target)
            if match:
                yield path, match[1].lower()
    except MntapiError as error:
        files.note(error, place.path)


def _links(filesystem: FileSystem, top: str, files: GuestFiles) -> Iterator[tuple[str, str]]:
    """Every link below the drive ``top`` that can be a mount point, with its target; perhaps other names, with nothing."""
    points = _indexed(filesystem, top, files)
    if points is None:
        return _names(filesystem, filesystem.root, top, 1)
    kept = [point for point in points if point[0].partition("/")[0].lower() not in _DELETED]
    return (("\\".join((top, *path.split("/"))), _target(filesystem, node)) for path, node in kept)


def _indexed(filesystem: FileSystem, top: str, files: GuestFiles) -> list[tuple[str, Node]] | None:
    """What the volume's index has, sorted; None where there is none or it cannot be used, which is noted."""
    if not isinstance(filesystem, NtfsFileSystem):
        return None
    try:
        return sorted(islice(filesystem.mount_points(), MAX_NAMES + 1), key=itemgetter(0))
    except NotFound:
        return None
    except MntapiError as error:
        files.note(error, f"{top}\\$Extend\\$Reparse")
        return None


def _target(filesystem: FileSystem, node: Node) -> str:
    return filesystem.readlink(node) if node.kind is FileKind.SYMLINK else ""


def _names(filesystem: FileSystem, folder: Node, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every name, each with the target of a link, or nothing: a folder's before those in it."""
    for name, node in filesystem.scan(folder):
        below = f"{path}\\{name}"
        yield below, _target(filesystem, node)
        if node.kind is FileKind.DIRECTORY and depth < MAX_DEPTH and name.lower() not in _SKIPPED:
            yield from _names(filesystem, node, below, depth + 1)
