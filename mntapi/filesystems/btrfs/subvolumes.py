"""Subvolumes: which there are, where in the top-level one they lie, and how their inodes are told apart.

Every subvolume counts its inodes from 256. So a node's number is the inode's times the count of subvolumes, plus the position
of its own among them (in the order of their ids, the top-level one first): the same in every process that reads the volume.

A subvolume has one place, the one that the root tree names. A snapshot of the folder around it keeps the name alone: the kernel
shows an empty folder there, and so is it here. So no subvolume can be in itself.

Source: include/uapi/linux/btrfs_tree.h ``btrfs_root_ref``; fs/btrfs/inode.c ``fixup_tree_root_location``, ``new_simple_dir``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.filesystems.btrfs.items import (
    Root,
    RootRef,
    Type,
    name_hash,
    parse_inode_ref,
    parse_names,
    parse_root,
    parse_root_ref,
)
from mntapi.filesystems.btrfs.pointer import HIGHEST
from mntapi.filesystems.btrfs.tree import FIRST_FREE, LAST_FREE, TOP_LEVEL, Tree
from mntapi.filesystems.names import presentable

MAX_SUBVOLUMES = 1 << 16
"""Subvolumes and snapshots; beyond some thousands btrfs itself becomes slow."""
MAX_ITEMS = 1 << 20
"""Items of the root tree that are looked through."""
MAX_FOLDERS = 1 << 17
"""Folders that are looked up to tell where subvolumes lie: each can lie in two of its own, or many in the same."""
MAX_PATHS = 1 << 23
"""Characters of all these folders' and subvolumes' paths."""
NUMBER_BITS = 46
"""Bits of a node's number."""
_EMPTY = 1 << NUMBER_BITS - 1
ROOT_FOLDER = 256
"""The inode of every subvolume's top folder."""
_TOP_FOLDER = 6
"""The object of the root tree that has the name of the default subvolume."""
_PLACE = struct.Struct("<2Q")


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A subvolume or snapshot. Times are nanoseconds since 1970 UTC.

    ``path``: names from the top-level subvolume, separated by ``/``, "" for that itself; None where it lies nowhere, and for
    those that come after ``MAX_FOLDERS`` or do not fit into ``MAX_PATHS``.
    ``parent``: the subvolume it lies in. ``parent_uuid``: that of which it is a snapshot.
    """

    id: int
    path: str | None
    parent: int | None
    uuid: UUID | None
    parent_uuid: UUID | None
    received_uuid: UUID | None
    created_ns: int | None
    is_read_only: bool
    generation: int


class Numbers:
    """Numbers of nodes: as small as can be, because others put what they know of a node beside them. The upper half of what
    ``NUMBER_BITS`` can say is for empty folders."""

    def __init__(self, count: int) -> None:
        """``count``: of subvolumes."""
        self._count = count

    def join(self, position: int, inode: int) -> int:
        """Raises Unsupported: the inode's number is so large that there is no room for the subvolume's."""
        number = inode * self._count + position
        if number >= _EMPTY:
            raise Unsupported(
                f"inode {inode} of {self._count} subvolumes cannot be numbered",
                expected=f"less than {_EMPTY // self._count}",
                reason="inode-too-large",
            )
        return number

    def split(self, number: int) -> tuple[int, int]:
        """Position and inode. Raises NotFound: no subvolume has it."""
        if not 0 <= number < _EMPTY:
            raise NotFound(f"there is no inode {number}")
        inode, position = divmod(number, self._count)
        return position, inode

    def empty(self, subvolume: int, folder: int, name: bytes) -> int:
        """The number of the empty folder that is under this name. It stands for nothing, so that it need not be found again."""
        told = hashlib.blake2b(_PLACE.pack(subvolume, folder) + name, digest_size=8).digest()
        return _EMPTY + int.from_bytes(told, "little") % _EMPTY

    def is_empty(self, number: int) -> bool:
        """Whether the number is that of an empty folder."""
        return _EMPTY <= number < 2 * _EMPTY


@dataclass(frozen=True, slots=True)
class Roots:
    """The subvolumes, in the order of their ids, and where each is. ``positions``: indexes of ``all`` by id."""

    all: tuple[Root, ...]
    positions: Mapping[int, int]
    places: Mapping[int, RootRef]

    def crossing(self, subvolume: int, folder: int, name: bytes, target: int) -> int | None:
        """Position of the subvolume ``target`` if its place is under this name; None if there is nothing behind the name."""
        if target in self.positions and self.places.get(target) == RootRef(subvolume, folder, name):
            return self.positions[target]
        return None


def read_roots(root_tree: Tree, at: int) -> Roots:
    """All subvolumes that are not being deleted. What lies in a damaged part of the root tree is left out.

    Args:
        root_tree: the tree.
        at: the byte on the volume that says where it is, for errors.

    Raises:
        Unsupported: there are too many.
        Corrupt, ReadFailed: the top-level one is not among them; says why, if a part of the tree is damaged.
    """
    damage: list[MntapiError] = []
    found: dict[int, Root] = {}
    places: dict[int, RootRef] = {}
    items = root_tree.items((TOP_LEVEL, Type.ROOT_ITEM, 0), (LAST_FREE, Type.ROOT_REF, HIGHEST), damage)
    for count, item in enumerate(items):
        if count >= MAX_ITEMS or len(found) > MAX_SUBVOLUMES:
            raise Unsupported("too many subvolumes", expected=f"at most {MAX_SUBVOLUMES}", reason="too-many-subvolumes")
        number, kind, offset = item.key
        if number != TOP_LEVEL and number < FIRST_FREE:
            continue
        try:
            if kind == Type.ROOT_ITEM:
                found[number] = parse_root(item)
            elif kind == Type.ROOT_REF:
                places.setdefault(offset, parse_root_ref(item))
        except Corrupt as error:
            damage.append(error)
    if TOP_LEVEL not in found:
        raise damage[0] if damage else Corrupt("the root tree has no top-level subvolume", offset=at)
    kept = tuple(found[number] for number in sorted(found) if found[number].references or number == TOP_LEVEL)
    return Roots(kept, {root.number: position for position, root in enumerate(kept)}, places)


def read_default(root_tree: Tree) -> int:
    """The id of the subvolume that is mounted where nobody says which. Raises Corrupt, ReadFailed: the root tree is damaged."""
    item = root_tree.get((_TOP_FOLDER, Type.DIR_ITEM, name_hash(b"default")))
    for entry in parse_names(item) if item is not None else ():
        if entry.name == b"default":
            return entry.number
    return TOP_LEVEL


class Paths:
    """Where subvolumes are, by name. ``trees`` are in the order of ``roots.all``.

    Each folder is looked up once, however many subvolumes lie below it.
    """

    def __init__(self, roots: Roots, trees: Sequence[Tree]) -> None:
        self._roots = roots
        self._trees = trees
        self._known: dict[int, str | None] = {TOP_LEVEL: ""}
        self._folders: dict[tuple[int, int], str | None] = {}
        """By the position of their subvolume and their inode; paths begin below the subvolume's top folder."""
        self._left = MAX_PATHS

    def of(self, subvolume: int) -> str | None:
        """Its path, or None where it cannot be told: it, or one around it, has no place, lies in itself, or is too much."""
        chain: dict[int, RootRef] = {}
        while subvolume not in self._known:
            place = self._roots.places.get(subvolume)
            if place is None or place.parent not in self._roots.positions or subvolume in chain:
                self._known[subvolume] = None
                break
            chain[subvolume] = place
            subvolume = place.parent
        path = self._known[subvolume]
        for number, place in reversed(chain.items()):
            path = None if path is None else self._within(path, self._folder(place), presentable(place.name))
            self._known[number] = path
        return path

    def _folder(self, place: RootRef) -> str | None:
        """The path in its subvolume of the folder of the place, or None where it cannot be told."""
        position, inode = self._roots.positions[place.parent], place.folder
        names: dict[int, str] = {}
        while inode != ROOT_FOLDER and (position, inode) not in self._folders:
            is_too_much = len(self._folders) + len(names) >= MAX_FOLDERS
            found = None if is_too_much or inode in names else self._above(position, inode)
            if found is None:
                self._folders[position, inode] = None
                break
            above, names[inode] = found
            inode = above
        path = "" if inode == ROOT_FOLDER else self._folders[position, inode]
        for number, name in reversed(names.items()):
            path = self._folders[position, number] = None if path is None else self._within(path, name)
        return path

    def _above(self, position: int, inode: int) -> tuple[int, str] | None:
        """The folder that a folder is in, and its name there; None where it is in none, or that is damaged."""
        try:
            item = self._trees[position].floor((inode, Type.INODE_REF, HIGHEST))
            if item is None or item.key[:2] != (inode, Type.INODE_REF):
                return None
            return item.key[2], presentable(parse_inode_ref(item))
        except (Corrupt, ReadFailed):
            return None

    def _within(self, above: str, *names: str | None) -> str | None:
        """The path of these names, some of which may be empty, below another: if all are known and there is room for it."""
        known = [name for name in (above, *names) if name]
        length = sum(map(len, known)) + len(known)
        if None in names or length > self._left:
            return None
        self._left -= length
        return "/".join(known)


def described(roots: Roots, paths: Paths) -> tuple[Subvolume, ...]:
    """All of them."""
    return tuple(
        Subvolume(
            id=root.number,
            path=paths.of(root.number),
            parent=roots.places[root.number].parent if root.number in roots.places else None,
            uuid=_uuid(root.uuid),
            parent_uuid=_uuid(root.parent_uuid),
            received_uuid=_uuid(root.received_uuid),
            created_ns=root.created_ns,
            is_read_only=root.is_read_only,
            generation=root.generation,
        )
        for root in roots.all
    )


def _uuid(raw: bytes | None) -> UUID | None:
    return UUID(bytes=raw) if raw is not None else None
