"""The superblock and the group descriptors: where inodes are.

Source: Linux Documentation/filesystems/ext4/super.rst, group_descr.rst; fs/ext4/super.c ``descriptor_loc``.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from mntapi.crc32c import crc32c_raw
from mntapi.errors import Corrupt, Unsupported

SUPERBLOCK_AT = 1024
SUPERBLOCK_SIZE = 1024
MAGIC = 0xEF53
DYNAMIC_REVISION = 1
_FIELDS = struct.Struct("<11I 12x H 18x I 8x H 2x 3I 120x I 26x H 4x I 72x I 4x I 240x 2I")
"""The gaps are fields no reader needs."""
_U32 = struct.Struct("<I")
_CREATOR_AT, _LINUX = 72, 0
"""Other systems do not keep the checksums."""
_UUID_AT = 104
_SEED_AT = 624
"""With ``CSUM_SEED``: so that the UUID can be changed without writing all metadata anew."""


class Incompat(enum.IntFlag):
    """Features that a reader must know."""

    COMPRESSION = 0x1
    FILETYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEV = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    BIT64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    DIRDATA = 0x1000
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


KNOWN = sum(int(flag) for flag in Incompat)
UNREADABLE = Incompat.COMPRESSION | Incompat.JOURNAL_DEV | Incompat.DIRDATA
"""Those no kernel release reads either, and a journal on a device of its own, which is no file system."""
SPARSE_SUPER2 = 0x200
"""Compatible: superblock copies only in the two groups that the superblock names."""


class ReadOnlyCompat(enum.IntFlag):
    """Features that only a writer, and a careful reader, must know."""

    SPARSE_SUPER = 0x1
    """Superblock copies only in groups 0, 1 and the powers of 3, 5 and 7."""
    HUGE_FILE = 0x8
    BIGALLOC = 0x200
    METADATA_CSUM = 0x400


READ_ONLY_KNOWN = sum(int(flag) for flag in ReadOnlyCompat)


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a reader needs of it. Sizes in bytes, the rest in the units the names say."""

    inodes: int
    blocks: int
    free_blocks: int
    free_inodes: int
    first_block: int
    block_size: int
    cluster_size: int
    blocks_per_group: int
    inodes_per_group: int
    inode_size: int
    compat: int
    incompat: Incompat
    read_only_compat: ReadOnlyCompat
    descriptor_size: int
    first_meta_group: int
    backup_groups: tuple[int, int]
    checksum_seed: int | None
    """What every checksum of metadata begins with; None where there are none."""
    journal: int
    """Inode of the journal; 0 if it is on a device of its own."""

    @property
    def groups(self) -> int:
        """Number of block groups."""
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    def descriptor_at(self, group: int) -> int:
        """Byte offset of a group's descriptor."""
        per_block = self.block_size // self.descriptor_size
        index, within = divmod(group, per_block)
        if not self.incompat & Incompat.META_BG or index < self.first_meta_group:
            block = SUPERBLOCK_AT // self.block_size + 1 + index
        else:
            block = self._meta_group_block(index * per_block)
        return block * self.block_size + within * self.descriptor_size

    def _meta_group_block(self, group: int) -> int:
        block = self.first_block + group * self.blocks_per_group + self._has_superblock(group)
        if self.block_size == SUPERBLOCK_AT and group == 0 and self.first_block == 0:
            block += 1  # bigalloc with 1 KiB blocks: the superblock is in block 1 although block 0 is the group's first
        return block

    def _has_superblock(self, group: int) -> bool:
        if group == 0:
            return True
        if self.compat & SPARSE_SUPER2:
            return group in self.backup_groups
        if group == 1 or not self.read_only_compat & ReadOnlyCompat.SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    power = base
    while power < number:
        power *= base
    return power == number


def parse_superblock(raw: bytes) -> Superblock:
    """The superblock from the ``SUPERBLOCK_SIZE`` bytes at ``SUPERBLOCK_AT``.

    Raises:
        Corrupt: its numbers contradict each other or the volume.
        Unsupported: a feature that changes the layout in a way this version does not know.
    """
    fields = _FIELDS.unpack(raw[: _FIELDS.size])
    inodes, blocks_low, _, free_low, free_inodes, first_block, log_block, log_cluster, group_blocks, _, group_inodes = fields[
        :11
    ]
    magic, revision, inode_size, compat, incompat, read_only, journal, descriptor_size, first_meta = fields[11:20]
    blocks_high, free_high, *backup_groups = fields[20:]
    _expect(magic == MAGIC, "no ext superblock", 56, hex(MAGIC), hex(magic))
    _expect(log_block <= 6, "the block size is impossible", 24, "at most 6", log_block)
    _expect(log_cluster <= 20, "the cluster size is impossible", 28, "at most 20", log_cluster)
    if incompat & UNREADABLE or incompat & ~KNOWN:
        raise _unreadable(incompat)
    block_size = 1024 << log_block
    wide = bool(incompat & Incompat.BIT64)
    inode_size = inode_size if revision >= DYNAMIC_REVISION else 128
    descriptor_size = descriptor_size if wide else 32
    blocks = blocks_low | (blocks_high << 32 if wide else 0)
    _expect(_is_size(inode_size, 128, block_size), "the inode size is impossible", 88, f"128 to {block_size}", inode_size)
    _expect(
        _is_size(descriptor_size, 32, block_size), "the group descriptor size is impossible", 254, "32 to 1024", descriptor_size
    )
    _expect(group_blocks > 0, "no blocks in a group", 32, "more than 0", group_blocks)
    _expect(0 < group_inodes <= 8 * block_size, "inodes per group are impossible", 40, f"1 to {8 * block_size}", group_inodes)
    _expect(first_block < blocks, "no blocks at all", 4, f"more than {first_block}", blocks)
    return Superblock(
        inodes=inodes,
        blocks=blocks,
        free_blocks=free_low | (free_high << 32 if wide else 0),
        free_inodes=free_inodes,
        first_block=first_block,
        block_size=block_size,
        cluster_size=1024 << log_cluster if read_only & ReadOnlyCompat.BIGALLOC else block_size,
        blocks_per_group=group_blocks,
        inodes_per_group=group_inodes,
        inode_size=inode_size,
        compat=compat,
        incompat=Incompat(incompat),
        read_only_compat=ReadOnlyCompat(read_only & READ_ONLY_KNOWN),
        descriptor_size=descriptor_size,
        first_meta_group=first_meta,
        backup_groups=(backup_groups[0], backup_groups[1]),
        checksum_seed=_checksum_seed(raw, incompat) if read_only & ReadOnlyCompat.METADATA_CSUM else None,
        journal=journal,
    )


def _checksum_seed(raw: bytes, incompat: int) -> int | None:
    if _U32.unpack_from(raw, _CREATOR_AT)[0] != _LINUX:
        return None
    if incompat & Incompat.CSUM_SEED:
        return int(_U32.unpack_from(raw, _SEED_AT)[0])
    return crc32c_raw(0xFFFFFFFF, raw[_UUID_AT : _UUID_AT + 16])


def parse_inode_table(raw: bytes) -> int:
    """The block where a group's inode table starts, from its descriptor of 32 bytes or more."""
    low: int = _U32.unpack_from(raw, 8)[0]
    high: int = _U32.unpack_from(raw, 40)[0] if len(raw) >= 64 else 0
    return low | high << 32


def _is_size(size: int, least: int, most: int) -> bool:
    return least <= size <= most and size & (size - 1) == 0


def _expect(right: bool, what: str, field: int, expected: str, found: object) -> None:
    if not right:
        raise Corrupt(what, offset=SUPERBLOCK_AT + field, expected=expected, found=found)


def _unreadable(incompat: int) -> Unsupported:
    bits = incompat & (int(UNREADABLE) | ~KNOWN)
    names = ", ".join(flag.name.lower().replace("_", "-") for flag in Incompat if flag & bits and flag.name) or hex(bits)
    return Unsupported(f"ext file system with the feature {names}", offset=SUPERBLOCK_AT + 96, reason="ext-feature")
