"""btrfs subvolumes: which one a guest means, which are snapshots of one another, and the folder in which one begins.

A guest means a subvolume by its path from the top-level one, by its id, or the default one by saying nothing (mount options
``subvol`` and ``subvolid``). Here these are ``@home``, ``id:258`` and None; ``/`` is the top-level one itself. Readers are not
known here: a file system that has subvolumes is one with the methods of ``Subvolumed``.

Source: btrfs(5); btrfs-subvolume(8) ("set-default", "snapshot"); fs/btrfs/super.c ``mount_subvol`` and ``btrfs_parse_options``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard
from uuid import UUID

from mntapi.errors import MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.guests.files import Below, find
from mntapi.types import FileSystem, Node

TOP = "/"
"""The top-level subvolume, as guests write it."""
TOP_LEVEL = 5
"""Its id."""
_BY_ID = re.compile(r"id:([0-9]{1,20})")


class Subvolume(Protocol):
    """What is known of one. Times are nanoseconds since 1970 UTC."""

    @property
    def id(self) -> int: ...
    @property
    def path(self) -> str | None:
        """Names from the top-level one, "" for that itself; None where it lies nowhere."""

    @property
    def parent(self) -> int | None:
        """The one it lies in."""

    @property
    def uuid(self) -> UUID | None: ...
    @property
    def parent_uuid(self) -> UUID | None:
        """The one of which it is a snapshot."""

    @property
    def created_ns(self) -> int | None: ...
    @property
    def is_read_only(self) -> bool: ...


class Subvolumed(FileSystem, Protocol):
    """A file system whose root is the top-level subvolume, and in which the others are folders."""

    @property
    def default_subvolume(self) -> int:
        """The id of the one that is mounted where nobody says which. Raises Corrupt, ReadFailed."""

    def subvolumes(self) -> Sequence[Subvolume]:
        """All, the top-level one first."""

    def subvolume_root(self, subvolume: int) -> Node:
        """The top folder of the one with this id. Raises NotFound."""


def has_subvolumes(fs: FileSystem) -> TypeGuard[Subvolumed]:
    """Whether the file system is one that has any."""
    return callable(getattr(fs, "subvolume_root", None))


def top_of(fs: FileSystem, subvolume: str | None) -> Node:
    """The folder in which a subvolume begins; the root where a file system has none and none is asked for.

    Raises:
        Unsupported: there is no such subvolume (reason ``missing-subvolume``), or none at all (``subvolume``). Not NotFound:
            what should be mounted is not to look like an empty folder.
        MntapiError: it cannot be told, or not be read.
    """
    try:
        return _top_of(fs, subvolume)
    except (NotFound, NotADirectory) as error:
        raise Unsupported(f"there is no subvolume {subvolume or 'by default'}", reason="missing-subvolume") from error


def _top_of(fs: FileSystem, subvolume: str | None) -> Node:
    if not has_subvolumes(fs):
        if subvolume not in (None, TOP):
            raise Unsupported(f"{fs.kind} has no subvolume {subvolume}", reason="subvolume")
        return fs.root
    if subvolume is None:
        return fs.subvolume_root(fs.default_subvolume)
    match = _BY_ID.fullmatch(subvolume)
    return fs.subvolume_root(int(match[1]) or TOP_LEVEL) if match else find(fs, subvolume)


def shown_by(fs: FileSystem, subvolume: str | None, folder: str = "/") -> FileSystem:
    """What is mounted: a folder of a subvolume as a file system of its own. Raises as ``top_of`` and ``find`` do."""
    top = top_of(fs, subvolume)
    whole = fs if top.inode == fs.root.inode else Below(fs, top)
    shown = find(whole, folder)
    return whole if shown.inode == whole.root.inode else Below(fs, shown)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The subvolumes of one volume.

    ``default`` is the id of the one that is mounted where nobody says which, None if that cannot be told. ``lines`` say, by id,
    what a subvolume, its snapshots and theirs have in common: the first of them, which may be gone.
    """

    all: tuple[Subvolume, ...]
    default: int | None
    by_id: Mapping[int, Subvolume]
    by_path: Mapping[str, Subvolume]
    lines: Mapping[int, UUID | int]

    def find(self, name: str | None) -> Subvolume | None:
        """The one that a guest means."""
        if name is None:
            return None if self.default is None else self.by_id.get(self.default)
        match = _BY_ID.fullmatch(name)
        return self.by_id.get(int(match[1]) or TOP_LEVEL) if match else self.by_path.get(name.strip("/"))

    def split(self, path: str) -> tuple[Subvolume | None, str]:
        """A path from the top of the volume: the subvolume that it leads into, and the folder in that."""
        names = [name for name in path.split("/") if name]
        for count in range(len(names), -1, -1):
            found = self.by_path.get("/".join(names[:count]))
            if found is not None:
                return found, "/" + "/".join(names[count:])
        return None, path


def name_of(one: Subvolume) -> str:
    """What a mount point calls it: its path, if it has one."""
    return f"id:{one.id}" if one.path is None else one.path or TOP


def catalog_of(fs: FileSystem) -> Catalog | None:
    """The subvolumes of a file system; None if it has none. Raises as its ``subvolumes`` does."""
    if not has_subvolumes(fs):
        return None
    found = tuple(fs.subvolumes())
    try:
        default = fs.default_subvolume
    except MntapiError:
        default = None  # whoever mounts it is told why
    by_path = {one.path: one for one in found if one.path is not None}
    return Catalog(found, default, {one.id: one for one in found}, by_path, _lines(found))


def _lines(found: Sequence[Subvolume]) -> dict[int, UUID | int]:
    by_uuid = {one.uuid: one for one in found if one.uuid is not None}
    lines: dict[int, UUID | int] = {}
    for one in found:
        chain: dict[int, None] = {}
        above: Subvolume | None = one
        while above is not None and above.id not in lines and above.id not in chain:
            chain[above.id] = None
            one = above
            above = by_uuid.get(one.parent_uuid) if one.parent_uuid is not None else None
        line = one.parent_uuid or one.uuid or one.id
        if above is not None and above.id in lines:
            line = lines[above.id]
        lines.update(dict.fromkeys(chain, line))
    return lines
