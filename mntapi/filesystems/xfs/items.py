"""The items of a transaction: the first region of each says what is changed, and where.

Source: XFS Algorithms & Data Structures, chapter "Journaling Log"; Linux fs/xfs/libxfs/xfs_log_format.h; fs/xfs/xfs_buf_item.h
for the types of buffers; fs/xfs/libxfs/xfs_log_recover.h for the order within a transaction.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.moves import owners_of
from mntapi.filesystems.xfs.transactions import Item, Region
from mntapi.units import SECTOR

CHUNK = 128
"""Bytes of a buffer that one bit of its map stands for."""
_MAX_BUFFER = 1 << 16
_MAX_CHUNKS = _MAX_BUFFER // CHUNK
_BUFFER = struct.Struct("<4x2HqI")
_INODE = struct.Struct("<4xI2H4xQ16sq2i")
_INODE_SHORT = struct.Struct("<4xI2HQ16sq2i")
"""As 32-bit machines write it, without the gap."""
_CREATED = struct.Struct(">4x6I")
"""Big-endian, unlike all others."""
_ID = struct.Struct("<8xQ")
_EXCHANGED = struct.Struct("<16x2Q")
_ATTRIBUTE = struct.Struct("<16xQI")
_PARENTS = (4, 5, 6)
"""Changes of an attribute that is a pointer to a folder, which nobody is shown."""


class Kind(enum.IntEnum):
    """The first two bytes of an item."""

    EFI = 0x1236
    EFD = 0x1237
    INODE = 0x123B
    BUFFER = 0x123C
    DQUOT = 0x123D
    QUOTAOFF = 0x123E
    CREATED = 0x123F
    RUI = 0x1240
    RUD = 0x1241
    CUI = 0x1242
    CUD = 0x1243
    BUI = 0x1244
    BUD = 0x1245
    ATTRI = 0x1246
    ATTRD = 0x1247
    XMI = 0x1248
    XMD = 0x1249
    EFI_REALTIME = 0x124A
    EFD_REALTIME = 0x124B
    RUI_REALTIME = 0x124C
    RUD_REALTIME = 0x124D
    CUI_REALTIME = 0x124E
    CUD_REALTIME = 0x124F


_KNOWN = frozenset(map(int, Kind))
BEGUN = {Kind.BUI: Kind.BUD, Kind.ATTRI: Kind.ATTRD, Kind.XMI: Kind.XMD}
"""Changes of files in several transactions: what announces one, and what says that it was done."""
DONE = {done: begun for begun, done in BEGUN.items()}


class BufferFlag(enum.IntFlag):
    """What is special about a buffer."""

    UNLINKED = 0x1
    """Only the list of removed inodes is changed, which runs through the inodes in the buffer."""
    CANCELLED = 0x2
    """It became free: what older transactions have for it is void."""


class InodeFlag(enum.IntFlag):
    """What of an inode was logged."""

    DATA = 0x002
    EXTENTS = 0x004
    TREE = 0x008
    DEVICE = 0x010
    ATTRIBUTES = 0x040
    ATTRIBUTE_EXTENTS = 0x080
    ATTRIBUTE_TREE = 0x100
    OWNER = 0x200
    ATTRIBUTE_OWNER = 0x400


_CONTENTS = int(InodeFlag.DATA | InodeFlag.EXTENTS | InodeFlag.TREE)
_ATTRIBUTES = int(InodeFlag.ATTRIBUTES | InodeFlag.ATTRIBUTE_EXTENTS | InodeFlag.ATTRIBUTE_TREE)


class Buffer(NamedTuple):
    """Metadata that is changed by pieces. ``sector`` and ``sectors`` are of the volume."""

    sector: int
    sectors: int
    flags: int
    pieces: list[tuple[int, Region]]
    """Where in the buffer, in bytes, and what is there now."""

    @property
    def key(self) -> tuple[int, int]:
        """By which one that became free is recognised."""
        return self.sector, self.sectors


def buffer_flags(item: Item) -> int:
    """What is special about the buffer that an item is about."""
    return int(_BUFFER.unpack_from(_whole(item, _BUFFER))[0])


def parse_buffer(item: Item) -> Buffer:
    """What a buffer item says. Raises Corrupt where its regions are not those of its map."""
    raw = _whole(item, _BUFFER)
    flags, sectors, sector, words = _BUFFER.unpack_from(raw)
    chunks = raw[_BUFFER.size : _BUFFER.size + 4 * words]
    if sector < 0 or not 0 < sectors <= _MAX_BUFFER // SECTOR or len(chunks) != 4 * words or words > _MAX_CHUNKS // 32 + 1:
        raise Corrupt("an impossible buffer in the log", found=f"{sectors} sectors at {sector}")
    if flags & BufferFlag.CANCELLED:
        return Buffer(sector, sectors, flags, [])
    pieces = list(_pieces(item.regions[1:], int.from_bytes(chunks, "little")))
    if any(at + len(content) > sectors * SECTOR for at, content in pieces):
        raise Corrupt("a buffer in the log is too small for what is changed in it", found=f"{sectors} sectors at {sector}")
    return Buffer(sector, sectors, flags, pieces)


def _pieces(regions: list[Region], chunks: int) -> Iterator[tuple[int, Region]]:
    """Each region with its place: where the next bits of the map are set, as many as it has chunks."""
    at = 0
    for region in regions:
        skipped = (chunks & -chunks).bit_length() - 1 if chunks else 0
        count = len(region) // CHUNK
        mask = (1 << count) - 1
        chunks >>= skipped
        if not count or len(region) % CHUNK or chunks & mask != mask:
            raise Corrupt("a buffer in the log is not as its map says", found=f"{len(region)} bytes")
        yield (at + skipped) * CHUNK, region
        chunks >>= count
        at += skipped + count
    if chunks:
        raise Corrupt("a buffer in the log is not as its map says", found="regions are missing")


class LoggedInode(NamedTuple):
    """An inode that is changed. ``sector`` and ``sectors`` are of the buffer it is in, ``offset`` its byte there."""

    flags: int
    number: int
    device: bytes
    sector: int
    sectors: int
    offset: int
    core: Region
    contents: Region | None
    attributes: Region | None

    @property
    def at(self) -> int:
        """Its byte on the volume."""
        return self.sector * SECTOR + self.offset


def parse_inode_item(item: Item) -> LoggedInode:
    """What an inode item says. Raises Corrupt where it has not the regions that it should have."""
    layout = _INODE_SHORT if len(item.regions[0]) == _INODE_SHORT.size else _INODE
    raw = _whole(item, layout)
    flags, _, _, number, union, sector, sectors, offset = layout.unpack_from(raw)
    has_contents, has_attributes = bool(flags & _CONTENTS), bool(flags & _ATTRIBUTES)
    regions = item.regions
    if len(regions) < 2 + has_contents + has_attributes:
        raise Corrupt("an inode in the log is cut off", found=f"inode {number}")
    if sector < 0 or not 0 < sectors <= _MAX_BUFFER // SECTOR or not 0 <= offset < sectors * SECTOR:
        raise Corrupt("an inode in the log has an impossible place", found=f"inode {number}")
    contents = regions[2] if has_contents else None
    attributes = regions[2 + has_contents] if has_attributes else None
    return LoggedInode(flags, number, union[:4], sector, sectors, offset, regions[1], contents, attributes)


class Created(NamedTuple):
    """A chunk of new inodes: ``block`` in its allocation group, all in blocks."""

    group: int
    block: int
    inodes: int
    inode_size: int
    blocks: int
    generation: int


def parse_created(item: Item) -> Created:
    """What an item of new inodes says."""
    return Created(*_CREATED.unpack_from(_whole(item, _CREATED)))


def id_of(item: Item) -> int:
    """By which what was done is matched with what was announced."""
    return int(_ID.unpack_from(_whole(item, _ID))[0])


def inodes_of(item: Item) -> set[int]:
    """Which inodes an announced change is about; none if nobody is shown what it changes."""
    raw = item.regions[0]
    if item.kind == Kind.BUI:
        return owners_of(raw)
    if item.kind == Kind.XMI:
        return set(_EXCHANGED.unpack_from(_whole(item, _EXCHANGED)))
    number, operation = _ATTRIBUTE.unpack_from(_whole(item, _ATTRIBUTE))
    return set() if operation & 0xFF in _PARENTS else {number}


def ordered(items: list[Item]) -> list[Item]:
    """In the order in which those of one transaction are replayed: buffers, inodes and the rest, what became free."""
    return sorted(items, key=_rank)


def _rank(item: Item) -> int:
    if item.kind == Kind.BUFFER:
        flags = buffer_flags(item)
        return 3 if flags & BufferFlag.CANCELLED else 2 if flags & BufferFlag.UNLINKED else 0
    if item.kind == Kind.CREATED:
        return 0
    if item.kind in _KNOWN:
        return 1
    raise Unsupported("the log has a change of a kind that is not known", found=hex(item.kind), reason="log-item")


def _whole(item: Item, layout: struct.Struct) -> Region:
    """The first region, as long as it has to be. Raises Corrupt."""
    raw = item.regions[0]
    if len(raw) < layout.size:
        raise Corrupt("an item of the log is cut off", expected=f"{layout.size} bytes", found=f"{len(raw)} bytes")
    return raw
