"""The superblock: sizes, features, and the arithmetic from XFS's numbers to bytes of the volume.

Block and inode numbers are sparse: the allocation group in the high bits, the place in it in the low ones.

Source: XFS Algorithms & Data Structures, chapter "Superblocks"; Linux fs/xfs/libxfs/xfs_format.h ``struct xfs_dsb``;
fs/xfs/libxfs/xfs_sb.c ``xfs_validate_sb_common``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.blocks import read
from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.types import Blocks

MAGIC = b"XFSB"
SIZE = 512
"""Bytes of the smallest sector, which hold all of it."""
CHECKSUM_AT = 224
MAX_INODE = (1 << 47) - 2
"""The largest inode number a file system may have here: a tree of several volumes keeps the bits above."""
_FIELDS = struct.Struct(">4sIQ16x16sQQ20xII4xI4H12x5BxBx3Q40xB7x2I4x3I24x16s")
"""The gaps are fields no reader needs."""


class Version(enum.IntFlag):
    """Bits of ``sb_versionnum`` beside the number itself."""

    DIRV2 = 0x2000
    BORG = 0x4000
    """Names that differ in the case of ASCII letters only are the same."""
    MOREBITS = 0x8000


LAZY_COUNTERS = 0x2
"""Bit of ``sb_features2``: the counts of the superblock are written at unmount only."""
FTYPE2 = 0x200
"""Bit of ``sb_features2`` in version 4: folders tell the kind of each file."""


class Incompat(enum.IntFlag):
    """Features that a reader must know (version 5)."""

    FTYPE = 0x1
    SPARSE_INODES = 0x2
    META_UUID = 0x4
    BIGTIME = 0x8
    NEEDS_REPAIR = 0x10
    NREXT64 = 0x20
    EXCHANGE_RANGE = 0x40
    PARENT = 0x80
    METADIR = 0x100
    ZONED = 0x200
    ZONE_GAPS = 0x400


UNREADABLE = Incompat.METADIR | Incompat.ZONED | Incompat.ZONE_GAPS
"""Layouts around a realtime device."""
KNOWN = sum(int(flag) for flag in Incompat) & ~int(UNREADABLE)


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a reader needs of it. Sizes in bytes, the rest in the units the names say."""

    version: int
    block_size: int
    blocks: int
    uuid: bytes
    """What metadata carries: the volume's own UUID, or the one it had before somebody changed that."""
    volume_uuid: bytes
    """The volume's own, which records of its log carry."""
    root: int
    ag_blocks: int
    ag_count: int
    ag_block_log: int
    sector_size: int
    inode_size: int
    inodes_per_block_log: int
    log_start: int
    """Block number, 0 where it is on another volume."""
    log_blocks: int
    """Of the log in this volume; 0 where it is on another."""
    log_incompat: int
    """Features that whoever replays the log must know."""
    needs_repair: bool
    """Whether xfs_repair was begun and not finished."""
    has_lazy_counters: bool
    """Whether the counts below are only right after an unmount."""
    inodes: int
    free_inodes: int
    free_blocks: int
    directory_block_size: int
    has_kinds: bool
    """Whether folders tell the kind of each file."""
    folds_case: bool

    def block_at(self, block: int, count: int = 1) -> int | None:
        """Byte of a block on the volume; None unless ``count`` blocks from it on lie in one allocation group."""
        group, within = block >> self.ag_block_log, block & (1 << self.ag_block_log) - 1
        first = group * self.ag_blocks
        if not 0 <= group < self.ag_count or within + count > min(self.ag_blocks, self.blocks - first):
            return None
        return (first + within) * self.block_size

    def inode_at(self, number: int) -> int:
        """Byte of an inode on the volume. Raises NotFound for a number that no inode of this volume can have."""
        at = self.block_at(number >> self.inodes_per_block_log) if number > 0 else None
        if not at:
            raise NotFound(f"there is no inode {number}", found=number)
        return at + (number & (1 << self.inodes_per_block_log) - 1) * self.inode_size


def find_superblock(volume: Blocks) -> Superblock:
    """The superblock at the start of the volume, or, where its checksum is wrong, one of its copies.

    Raises:
        Corrupt: its numbers contradict each other, or checksums are wrong everywhere.
        Unsupported: a layout this version does not know.
    """
    if volume.size < SIZE:
        raise Corrupt("too small for an XFS superblock", expected=f"{SIZE} bytes", found=volume.size)
    found = parse_superblock(read(volume, 0, SIZE))
    if found.version < 5 or _is_sound(volume, 0, found.sector_size):
        return found
    for group in {found.ag_count - 1, (found.ag_count - 1) // 2} - {0}:  # those that mkfs and growfs keep complete
        at = group * found.ag_blocks * found.block_size
        if _is_sound(volume, at, found.sector_size):
            copy = parse_superblock(read(volume, at, SIZE), at)
            if copy.uuid == found.uuid:
                return copy
    raise Corrupt("the checksum of the superblock and of its copies is wrong", offset=CHECKSUM_AT, reason="checksum")


def _is_sound(volume: Blocks, at: int, sector_size: int) -> bool:
    if at + sector_size > volume.size:
        return False
    raw = bytearray(read(volume, at, sector_size))
    (stored,) = struct.unpack_from("<I", raw, CHECKSUM_AT)
    raw[CHECKSUM_AT : CHECKSUM_AT + 4] = bytes(4)
    return crc32c(bytes(raw)) == int(stored)


class _Stored(NamedTuple):
    """The fields of ``_FIELDS``."""

    magic: bytes
    block_size: int
    blocks: int
    uuid: bytes
    log_start: int
    root: int
    ag_blocks: int
    ag_count: int
    log_blocks: int
    version: int
    sector_size: int
    inode_size: int
    inodes_per_block: int
    block_log: int
    sector_log: int
    inode_log: int
    inodes_per_block_log: int
    ag_block_log: int
    in_progress: int
    inodes: int
    free_inodes: int
    free_blocks: int
    directory_log: int
    features: int
    bad_features: int
    read_only_features: int
    incompat: int
    log_incompat: int
    meta_uuid: bytes


def parse_superblock(raw: bytes, at: int = 0) -> Superblock:
    """The superblock from its first ``SIZE`` bytes, which are those at byte ``at`` of the volume.

    Raises:
        Corrupt: its numbers contradict each other.
        Unsupported: a layout this version does not know.
    """
    sb = _Stored(*_FIELDS.unpack_from(raw))
    number = sb.version & 0xF
    _check(sb, number, at)
    return Superblock(
        version=number,
        block_size=sb.block_size,
        blocks=sb.blocks,
        uuid=sb.meta_uuid if number == 5 and sb.incompat & Incompat.META_UUID else sb.uuid,
        root=sb.root,
        volume_uuid=sb.uuid,
        ag_blocks=sb.ag_blocks,
        ag_count=sb.ag_count,
        ag_block_log=sb.ag_block_log,
        sector_size=sb.sector_size,
        inode_size=sb.inode_size,
        inodes_per_block_log=sb.inodes_per_block_log,
        log_start=sb.log_start,
        log_blocks=sb.log_blocks if sb.log_start else 0,
        log_incompat=sb.log_incompat if number == 5 else 0,
        needs_repair=number == 5 and bool(sb.incompat & Incompat.NEEDS_REPAIR),
        has_lazy_counters=bool((sb.features | sb.bad_features) & LAZY_COUNTERS),
        inodes=sb.inodes,
        free_inodes=sb.free_inodes,
        free_blocks=sb.free_blocks,
        directory_block_size=sb.block_size << sb.directory_log,
        has_kinds=bool(sb.incompat & Incompat.FTYPE) if number == 5 else bool((sb.features | sb.bad_features) & FTYPE2),
        folds_case=bool(sb.version & Version.BORG),
    )


def _check(sb: _Stored, number: int, at: int) -> None:
    expect = _expecting(at)
    expect(sb.magic == MAGIC, "magic number of a superblock", 0, sb.magic)
    _check_features(number, sb.version, sb.incompat, at)
    expect(9 <= sb.block_log <= 16 and sb.block_size == 1 << sb.block_log, "block size", 4, sb.block_size)
    expect(9 <= sb.sector_log <= 15 and sb.sector_size == 1 << sb.sector_log, "sector size", 102, sb.sector_size)
    expect(8 <= sb.inode_log <= 11 and sb.inode_size == 1 << sb.inode_log <= sb.block_size, "inode size", 104, sb.inode_size)
    expect(
        sb.inodes_per_block == sb.block_size // sb.inode_size == 1 << sb.inodes_per_block_log,
        "inodes in a block",
        106,
        sb.inodes_per_block,
    )
    expect(
        sb.ag_blocks > 1 and sb.ag_block_log == (sb.ag_blocks - 1).bit_length(), "size of an allocation group", 84, sb.ag_blocks
    )
    expect((sb.ag_count - 1) * sb.ag_blocks < sb.blocks <= sb.ag_count * sb.ag_blocks, "number of blocks", 8, sb.blocks)
    expect(sb.block_log + sb.directory_log <= 16, "size of directory blocks", 192, sb.directory_log)
    expect(at > 0 or sb.in_progress == 0, "state: its making was never finished", 126, sb.in_progress)
    if sb.ag_count << sb.ag_block_log + sb.inodes_per_block_log > MAX_INODE:
        raise Unsupported("an XFS with inode numbers too large", offset=at + 88, expected=f"at most {MAX_INODE}")


def _expecting(at: int) -> Callable[[bool, str, int, object], None]:
    """A check of fields of the superblock at byte ``at``: whether it is right, what it is, where, and what it says."""

    def expect(right: bool, what: str, field: int, found: object) -> None:
        if not right:
            raise Corrupt(f"impossible {what}", offset=at + field, found=found)

    return expect


def _check_features(number: int, version: int, incompat: int, at: int) -> None:
    if number not in (4, 5):
        raise Unsupported(f"XFS version {number}", offset=at + 100, expected="4 or 5", reason="xfs-feature")
    if not version & Version.DIRV2:
        raise Unsupported("XFS with folders of version 1", offset=at + 100, reason="xfs-feature")
    unknown = incompat & ~KNOWN if number == 5 else 0
    if unknown:
        names = [flag.name.lower().replace("_", "-") for flag in Incompat if flag & unknown and flag.name]
        rest = unknown & ~int(UNREADABLE)
        told = ", ".join([*names, *([hex(rest)] if rest else [])])
        raise Unsupported(f"XFS with the feature {told}", offset=at + 216, reason="xfs-feature")
