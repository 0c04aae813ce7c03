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


def parse_superblock(raw: bytes, at: int = 0) -> Superblock:
    """The superblock from its first ``SIZE`` bytes, which are those at byte ``at`` of the volume.

    Raises:
        Corrupt: its numbers contradict each other.
        Unsupported: a layout this version does not know.
    """
    fields = _FIELDS.unpack_from(raw)
    magic, block_size, blocks, uuid, log_start, root, ag_blocks, ag_count, log_blocks = fields[:9]
    version, sector_size, inode_size, inodes_per_block = fields[9:13]
    block_log, sector_log, inode_log, inodes_per_block_log, ag_block_log, in_progress = fields[13:19]
    inodes, free_inodes, free_blocks, directory_log, features, bad_features, _, incompat = fields[19:27]
    log_incompat, meta_uuid = fields[27:]
    number = version & 0xF

    expect = _expecting(at)
    expect(magic == MAGIC, "magic number of a superblock", 0, magic)
    _check_features(number, version, incompat, at)
    expect(9 <= block_log <= 16 and block_size == 1 << block_log, "block size", 4, block_size)
    expect(9 <= sector_log <= 15 and sector_size == 1 << sector_log, "sector size", 102, sector_size)
    expect(8 <= inode_log <= 11 and inode_size == 1 << inode_log <= block_size, "inode size", 104, inode_size)
    expect(
        inodes_per_block == block_size // inode_size == 1 << inodes_per_block_log, "inodes in a block", 106, inodes_per_block
    )
    expect(ag_blocks > 1 and ag_block_log == (ag_blocks - 1).bit_length(), "size of an allocation group", 84, ag_blocks)
    expect((ag_count - 1) * ag_blocks < blocks <= ag_count * ag_blocks, "number of blocks", 8, blocks)
    expect(block_log + directory_log <= 16, "size of directory blocks", 192, directory_log)
    expect(at > 0 or in_progress == 0, "state: its making was never finished", 126, in_progress)
    if ag_count << ag_block_log + inodes_per_block_log > MAX_INODE:
        raise Unsupported("an XFS with inode numbers too large", offset=at + 88, expected=f"at most {MAX_INODE}")
    return Superblock(
        version=number,
        block_size=block_size,
        blocks=blocks,
        uuid=meta_uuid if number == 5 and incompat & Incompat.META_UUID else uuid,
        root=root,
        volume_uuid=uuid,
        ag_blocks=ag_blocks,
        ag_count=ag_count,
        ag_block_log=ag_block_log,
        sector_size=sector_size,
        inode_size=inode_size,
        inodes_per_block_log=inodes_per_block_log,
        log_start=log_start,
        log_blocks=log_blocks if log_start else 0,
        log_incompat=log_incompat if number == 5 else 0,
        needs_repair=number == 5 and bool(incompat & Incompat.NEEDS_REPAIR),
        has_lazy_counters=bool((features | bad_features) & LAZY_COUNTERS),
        inodes=inodes,
        free_inodes=free_inodes,
        free_blocks=free_blocks,
        directory_block_size=block_size << directory_log,
        has_kinds=bool(incompat & Incompat.FTYPE) if number == 5 else bool((features | bad_features) & FTYPE2),
        folds_case=bool(version & Version.BORG),
    )


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
