"""The superblock of UFS: where it lies, the numbers from it that a reader needs, each checked against the others.

Source: FreeBSD sys/ufs/ffs/fs.h ``struct fs``, ``SBLOCKSEARCH``, ``cgstart``; sys/ufs/ffs/ffs_subr.c ``validate_sblock``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks

SUPERBLOCK_SIZE = 1376
_PLACES = (65536, 8192, 0, 262144)
"""Bytes, in the order in which the systems themselves look."""
_ALTERNATE_OF_UFS1 = 65536
"""Where a UFS1 with blocks of 64 KiB has a copy, so one found here is not the first."""
_MAGIC_AT = 1372
_UFS1, _UFS2 = 0x011954, 0x19540119
_FIELDS = "16x I 4x 2I 4x I 4x 4I 124x 2I 4x 3I 792x Q 8x 3Q 40x Q 232x 2i 44x I"
"""Of ``struct fs``: iblkno, old_cgoffset and old_cgmask, old_size, ncg to frag, ipg and fpg, old_cstotal's nbfree to nffree;
sblockloc, cstotal's nbfree to nffree, size, maxsymlinklen and old_inodefmt, magic."""
_INODE_FORMAT_44BSD = 2
_MIN_BLOCK, _MAX_BLOCK, _MIN_FRAGMENT, _MAX_FRAGMENTS = 4096, 65536, 512, 8
_INODE_SIZE = {1: 128, 2: 256}
_POINTERS_SIZE = {1: 60, 2: 120}


@dataclass(frozen=True, slots=True)
class Superblock:
    """Sizes in bytes unless the name says otherwise; places are counted in fragments. ``order`` as in ``struct``."""

    at: int
    order: str
    version: int
    block_size: int
    fragment_size: int
    fragments: int
    groups: int
    inodes_per_group: int
    fragments_per_group: int
    inode_table: int
    group_shift: int
    group_mask: int
    inline_link: int
    """Targets of links that are shorter lie in the inode; 0 where only the absence of blocks tells."""
    is_44bsd: bool
    """Inodes have user and group where 4.4BSD moved them."""
    free_blocks: int
    free_inodes: int
    free_fragments: int

    @property
    def inode_size(self) -> int:
        """Of one inode on disk."""
        return _INODE_SIZE[self.version]

    @property
    def inodes(self) -> int:
        """How many there are; 0 and 1 are never used."""
        return self.groups * self.inodes_per_group

    def inode_at(self, number: int) -> int:
        """Byte of an inode on the volume. Source: fs.h ``cgstart``, ``ino_to_fsba``."""
        group, index = divmod(number, self.inodes_per_group)
        start = group * self.fragments_per_group + self.inode_table
        if self.version == 1:
            start += self.group_shift * (group & ~self.group_mask & 0xFFFFFFFF)
        return start * self.fragment_size + index * self.inode_size


def find_superblock(volume: Blocks) -> Superblock:
    """The first superblock in the places for it.

    Raises:
        Corrupt: there is none, or its numbers contradict each other.
        Unsupported: one of a relative of UFS.
    """
    for at in _PLACES:
        if at + SUPERBLOCK_SIZE > volume.size:
            continue
        raw = read(volume, at, SUPERBLOCK_SIZE)
        order = next((order for order in "<>" if _magic(raw, order) in (_UFS1, _UFS2)), None)
        if order is None or (_magic(raw, order) == _UFS1 and at == _ALTERNATE_OF_UFS1):
            continue
        found = parse_superblock(raw, at, order)
        if found is not None:
            return found
    raise Unsupported("no superblock of UFS1 or UFS2", hint="relatives of UFS are not read", reason="ufs-kind")


def _magic(raw: bytes, order: str) -> int:
    return int(struct.unpack_from(order + "I", raw, _MAGIC_AT)[0])


def parse_superblock(raw: bytes, at: int, order: str) -> Superblock | None:
    """The superblock in ``raw``, read at byte ``at``; None for a UFS2's that says it belongs elsewhere.

    Raises:
        Corrupt: its numbers contradict each other.
    """
    fields = struct.unpack(order + _FIELDS, raw)
    table, shift, mask, old_size, groups, block, fragment, block_fragments, inodes_per_group, fragments_per_group = fields[:10]
    location, *free, size, link, inode_format, magic = fields[13:]
    version = 2 if magic == _UFS2 else 1
    if version == 2 and location != at:
        return None
    if version == 1:
        size, free = old_size, list(fields[10:13])
    is_44bsd = version == 2 or inode_format == _INODE_FORMAT_44BSD
    found = Superblock(
        at=at,
        order=order,
        version=version,
        block_size=block,
        fragment_size=fragment,
        fragments=size,
        groups=groups,
        inodes_per_group=inodes_per_group,
        fragments_per_group=fragments_per_group,
        inode_table=table,
        group_shift=shift,
        group_mask=mask,
        inline_link=link if is_44bsd else 0,
        is_44bsd=is_44bsd,
        free_blocks=free[0],
        free_inodes=free[1],
        free_fragments=free[2],
    )
    _check(found, block_fragments)
    return found


def _check(found: Superblock, block_fragments: int) -> None:
    """What all else is computed from. Source: ffs_subr.c ``validate_sblock``."""
    block, fragment = found.block_size, found.fragment_size
    table_end = found.inode_table + -(-found.inodes_per_group * found.inode_size // max(1, fragment))
    for field_at, what, good, value in (
        (48, "block size", _is_power_of_two(block) and _MIN_BLOCK <= block <= _MAX_BLOCK, block),
        (52, "fragment size", _is_power_of_two(fragment) and _MIN_FRAGMENT <= fragment <= block, fragment),
        (56, "number of fragments in a block", block_fragments * fragment == block, block_fragments),
        (56, "number of fragments in a block", block_fragments <= _MAX_FRAGMENTS, block_fragments),
        (44, "number of cylinder groups", found.groups >= 1, found.groups),
        (184, "number of inodes in a group", found.inodes_per_group >= 1, found.inodes_per_group),
        (188, "size of a group", table_end <= found.fragments_per_group, found.fragments_per_group),
        (36, "size", (found.groups - 1) * found.fragments_per_group < found.fragments, found.fragments),
        (1320, "length of links in inodes", 0 <= found.inline_link <= _POINTERS_SIZE[found.version], found.inline_link),
    ):
        if not good:
            raise Corrupt(f"a UFS superblock with an impossible {what}", offset=found.at + field_at, found=value)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
