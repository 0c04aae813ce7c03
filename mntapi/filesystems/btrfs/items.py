"""The contents of items: inodes, names, subvolumes, extents.

Source: include/uapi/linux/btrfs_tree.h; btrfs documentation, "On-disk Format"; fs/btrfs/tree-checker.c for the limits.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mntapi.crc32c import crc32c_raw
from mntapi.errors import Corrupt
from mntapi.filesystems.btrfs.pointer import MAX_LEVEL, Pointer
from mntapi.filesystems.btrfs.tree import Item
from mntapi.filesystems.kinds import KIND_OF_ENTRY, kind_of_mode
from mntapi.types import FileKind
from mntapi.units import KIB


class Type(enum.IntEnum):
    """Types of items, the middle of a key."""

    INODE_ITEM = 1
    INODE_REF = 12
    XATTR_ITEM = 24
    DIR_ITEM = 84
    DIR_INDEX = 96
    EXTENT_DATA = 108
    EXTENT_CSUM = 128
    ROOT_ITEM = 132
    ROOT_REF = 156


class InodeFlag(enum.IntFlag):
    """Flags of an inode that change what a reader does."""

    NODATASUM = 0x1


class Stored(enum.IntEnum):
    """How the bytes of an extent are stored."""

    INLINE = 0
    REGULAR = 1
    PREALLOCATED = 2


_SECOND = 1_000_000_000
_INODE = struct.Struct("<16x 2Q 8x 4I 2Q 40x qI qI qI qI")
_DIR = struct.Struct("<QBQ 8x 2HB")
_INODE_REF = struct.Struct("<QH")
_ROOT_REF = struct.Struct("<2QH")
_ROOT = struct.Struct("<Q 8x Q 24x QI 17x x B")
_ROOT_MORE = struct.Struct("<Q 16s 16s 16s 32x 12x qI")
_EXTENT = struct.Struct("<8x Q 2B H B")
_PLACE = struct.Struct("<4Q")
_READ_ONLY = 0x1
MAX_LOGICAL = (1 << 64) - 1
MAX_COMPRESSED = 128 * KIB
"""Bytes of a compressed extent, packed and unpacked."""


class Inode(NamedTuple):
    """``stored`` is bytes on disk; ``rdev`` is as the kernel has device numbers, the minor's 20 bits lowest."""

    kind: FileKind
    size: int
    stored: int
    links: int
    uid: int
    gid: int
    mode: int
    rdev: int
    flags: int
    atime_ns: int
    ctime_ns: int
    mtime_ns: int
    otime_ns: int


def parse_inode(item: Item) -> Inode:
    """Raises Corrupt: it is cut off, of no known kind, or of impossible size."""
    _whole(item, _INODE.size, "an inode")
    size, stored, links, uid, gid, mode, rdev, flags, access, a_ns, change, c_ns, write, m_ns, birth, o_ns = _INODE.unpack_from(
        item.raw
    )
    kind = kind_of_mode(mode)
    if kind is None:
        raise Corrupt("an inode of no known kind", offset=item.at + 52, found=oct(mode))
    if size >> 63:
        raise Corrupt("an inode with an impossible size", offset=item.at + 16, expected="less than 2^63", found=size)
    return Inode(
        kind,
        size,
        stored,
        links,
        uid,
        gid,
        mode,
        rdev,
        flags,
        atime_ns=_time_ns(access, a_ns),
        ctime_ns=_time_ns(change, c_ns),
        mtime_ns=_time_ns(write, m_ns),
        otime_ns=_time_ns(birth, o_ns),
    )


def _time_ns(seconds: int, part: int) -> int:
    return seconds * _SECOND + (part if part < _SECOND else 0)


class Name(NamedTuple):
    """A name in a folder, or an attribute: ``data`` is its value. ``number`` and ``type`` begin the key that it stands for."""

    name: bytes
    number: int
    type: int
    kind: FileKind
    data: bytes


def parse_names(item: Item) -> Iterator[Name]:
    """The names in a DIR_INDEX, DIR_ITEM or XATTR_ITEM: one, or those whose hash is the same.

    Raises:
        Corrupt: one is cut off; those before it were yielded.
    """
    raw, at = item.raw, 0
    while at < len(raw):
        end = at + _DIR.size
        if end > len(raw):
            raise Corrupt("a directory entry is cut off", offset=item.at + at)
        number, kind, _, data_length, name_length, file_kind = _DIR.unpack_from(raw, at)
        if end + name_length + data_length > len(raw):
            raise Corrupt("a name is longer than its item", offset=item.at + at, expected=f"at most {len(raw) - end}")
        name, data = raw[end : end + name_length], raw[end + name_length : end + name_length + data_length]
        yield Name(name, number, kind, KIND_OF_ENTRY.get(file_kind, FileKind.FILE), data)
        at = end + name_length + data_length


def name_hash(name: bytes) -> int:
    """The offset of the key of the DIR_ITEM or XATTR_ITEM that has the name."""
    return crc32c_raw(0xFFFFFFFE, name)


def parse_inode_ref(item: Item) -> bytes:
    """The first name that the folder which is the key's offset has for the inode. Raises Corrupt: it is cut off."""
    _whole(item, _INODE_REF.size, "a back reference")
    _, length = _INODE_REF.unpack_from(item.raw)
    _whole(item, _INODE_REF.size + length, "a back reference")
    return item.raw[_INODE_REF.size : _INODE_REF.size + length]


class RootRef(NamedTuple):
    """Where a subvolume is: under ``name`` in folder ``folder`` (an inode) of subvolume ``parent``."""

    parent: int
    folder: int
    name: bytes


def parse_root_ref(item: Item) -> RootRef:
    """A ROOT_REF. Raises Corrupt: it is cut off."""
    _whole(item, _ROOT_REF.size, "a subvolume's place")
    folder, _, length = _ROOT_REF.unpack_from(item.raw)
    _whole(item, _ROOT_REF.size + length, "a subvolume's place")
    return RootRef(item.key[0], folder, item.raw[_ROOT_REF.size : _ROOT_REF.size + length])


class Root(NamedTuple):
    """A tree that the root tree has. UUIDs are None where there is none, ``created_ns`` where it is not recorded."""

    number: int
    pointer: Pointer
    generation: int
    references: int
    is_read_only: bool
    uuid: bytes | None = None
    parent_uuid: bytes | None = None
    received_uuid: bytes | None = None
    created_ns: int | None = None


def parse_root(item: Item) -> Root:
    """A ROOT_ITEM. What newer kernels know of a subvolume counts only if none that does not wrote it last.

    Raises:
        Corrupt: it is cut off, or the tree too high.
    """
    _whole(item, _INODE.size + _ROOT.size, "a tree's root")
    generation, logical, flags, references, level = _ROOT.unpack_from(item.raw, _INODE.size)
    if level > MAX_LEVEL:
        raise Corrupt("a tree is too high", offset=item.at + _INODE.size + 78, expected=f"at most {MAX_LEVEL}", found=level)
    pointer = Pointer(logical, level, generation, item.key[0], item.at + _INODE.size + 16)
    root = Root(item.key[0], pointer, generation, references, bool(flags & _READ_ONLY))
    start = _INODE.size + _ROOT.size
    if len(item.raw) < start + _ROOT_MORE.size:
        return root
    again, uuid, parent, received, seconds, nanoseconds = _ROOT_MORE.unpack_from(item.raw, start)
    if again != generation:
        return root
    created = _time_ns(seconds, nanoseconds)
    return root._replace(uuid=_uuid(uuid), parent_uuid=_uuid(parent), received_uuid=_uuid(received), created_ns=created or None)


def _uuid(raw: bytes) -> bytes | None:
    return raw if any(raw) else None


class FileExtent(NamedTuple):
    """A part of a file. ``start`` and ``length``: of the file. What is stored at logical address ``stored`` (0: nothing) is
    ``stored_length`` bytes, unpacked ``unpacked``; the part begins at byte ``within`` of that. ``content``: if inline."""

    kind: int
    start: int
    length: int
    compression: int
    encoding: int
    """Encryption and the like; 0 is none."""
    unpacked: int
    stored: int
    stored_length: int
    within: int
    content: bytes
    at: int
    """Byte of the item on the volume."""

    @property
    def end(self) -> int:
        """The first byte of the file after it."""
        return self.start + self.length

    @property
    def is_zeros(self) -> bool:
        """Whether nothing of it was ever written."""
        return self.kind == Stored.PREALLOCATED or (self.kind == Stored.REGULAR and not self.stored)


def parse_extent(item: Item, sector_size: int) -> FileExtent:
    """An EXTENT_DATA item.

    Raises:
        Corrupt: it is cut off, or its numbers contradict each other.
    """
    _whole(item, _EXTENT.size, "an extent")
    unpacked, compression, encryption, other, kind = _EXTENT.unpack_from(item.raw)
    start, encoding = item.key[2], encryption | other << 8
    if compression and unpacked > MAX_COMPRESSED:
        raise _too_large(item, unpacked)
    if kind == Stored.INLINE:
        content = item.raw[_EXTENT.size :]
        if start or (not compression and not encoding and len(content) != unpacked):
            raise Corrupt("inline data at an impossible place, or of the wrong length", offset=item.at, expected=unpacked)
        return FileExtent(kind, 0, unpacked, compression, encoding, unpacked, 0, 0, 0, content, item.at)
    if kind not in (Stored.REGULAR, Stored.PREALLOCATED):
        raise Corrupt("an extent of unknown kind", offset=item.at + 20, expected="0 to 2", found=kind)
    _whole(item, _EXTENT.size + _PLACE.size, "an extent")
    stored, stored_length, within, length = _PLACE.unpack_from(item.raw, _EXTENT.size)
    if compression and stored_length > MAX_COMPRESSED:
        raise _too_large(item, stored_length)
    room = unpacked if compression else stored_length
    if (
        not length
        or any(number % sector_size for number in (start, length, stored, stored_length, within))
        or start + length > 1 << 63
        or stored + stored_length > MAX_LOGICAL
        or (stored and within + length > room)
    ):
        raise Corrupt(
            "an extent with impossible numbers",
            offset=item.at,
            found=f"{length} bytes at {start}, from byte {within} of {room}, stored at {stored}",
        )
    return FileExtent(kind, start, length, compression, encoding, unpacked, stored, stored_length, within, b"", item.at)


def _too_large(item: Item, size: int) -> Corrupt:
    return Corrupt("a compressed extent of impossible size", offset=item.at, expected=f"at most {MAX_COMPRESSED}", found=size)


def _whole(item: Item, size: int, what: str) -> None:
    if len(item.raw) < size:
        raise Corrupt(f"{what} is cut off", offset=item.at, expected=f"{size} bytes", found=len(item.raw))
