"""Volumes that are mounted in folders of others (``mountvol``): reparse points to ``\\\\?\\Volume{...}``.

NTFS keeps an index of all reparse points (``$Extend\\$Reparse``), which the file system's reader does not offer. So folders are
looked through, two deep, without those that are Windows's own: ``C:\\Data`` and ``C:\\ExchangeDatabases\\DB01`` are found,
a mount point that lies deeper is not.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from mntapi.errors import MntapiError
from mntapi.guests.files import GuestFiles
from mntapi.guests.types import MountPoint
from mntapi.guests.windows.drives import Drives
from mntapi.types import FileKind, FileSystem, Node

MAX_DEPTH = 2
MAX_NAMES = 2000
"""Names looked at on one volume; reading an entry of NTFS takes 60 µs."""
MAX_VOLUMES = 256
"""Volumes looked through for one guest."""

_TARGET = re.compile(
    r"(?:[\\/]{2}[?.][\\/]|[\\/]\?\?[\\/])?Volume\{([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\}[\\/]?", re.IGNORECASE
)
_SKIPPED = frozenset({"windows", "winnt", "$recycle.bin", "recycler", "system volume information", "windows.old", "$extend"})


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
        for count, (path, target) in enumerate(_names(filesystem, filesystem.root, place.path.removesuffix("\\"), 1)):
            if count == MAX_NAMES:
                files.note(MntapiError(f"mount points are looked for in the first {MAX_NAMES} names only"), place.path)
                return
            match = _TARGET.fullmatch(target)
            if match:
                yield path, match[1].lower()
    except MntapiError as error:
        files.note(error, place.path)


def _names(filesystem: FileSystem, folder: Node, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every name, each with the target of a link, or nothing: a folder's before those in it."""
    for name, node in filesystem.scan(folder):
        below = f"{path}\\{name}"
        yield below, filesystem.readlink(node) if node.kind is FileKind.SYMLINK else ""
        if node.kind is FileKind.DIRECTORY and depth < MAX_DEPTH and name.lower() not in _SKIPPED:
            yield from _names(filesystem, node, below, depth + 1)
