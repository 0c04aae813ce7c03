"""What is free, counted from the headers of the allocation groups: the superblock is right after an unmount only.

Source: XFS Algorithms & Data Structures, chapters "AG Free Space Management", "AG Inode Management"; Linux
fs/xfs/libxfs/xfs_ag.c ``xfs_initialize_perag_data``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mntapi.blocks import read
from mntapi.errors import Corrupt
from mntapi.filesystems.xfs.superblock import Superblock
from mntapi.types import Blocks

MAX_GROUPS = 4096
"""That are looked at: 4 PiB, if the groups have 1 TiB."""
_SPACE = struct.Struct(">4s44x2I4xI")
_INODES = struct.Struct(">4s12xI8xI")


class Counts(NamedTuple):
    """Of a file system: blocks and inodes."""

    free_blocks: int
    inodes: int
    free_inodes: int


def count(volume: Blocks, superblock: Superblock) -> Counts:
    """Add up what the groups say; what the superblock says where there are more than ``MAX_GROUPS``.

    Raises:
        Corrupt, ReadFailed: a group has no header.
    """
    if not superblock.has_lazy_counters or superblock.ag_count > MAX_GROUPS:
        return Counts(superblock.free_blocks, superblock.inodes, superblock.free_inodes)
    free = inodes = free_inodes = 0
    for group in range(superblock.ag_count):
        at = group * superblock.ag_blocks * superblock.block_size + superblock.sector_size
        reserved, unused, in_trees = _header(volume, at, b"XAGF", _SPACE)
        there, open_ = _header(volume, at + superblock.sector_size, b"XAGI", _INODES)
        free += reserved + unused + in_trees
        inodes += there
        free_inodes += open_
    return Counts(free, inodes, free_inodes)


def _header(volume: Blocks, at: int, magic: bytes, layout: struct.Struct) -> tuple[int, ...]:
    """The numbers of a header at byte ``at`` of the volume."""
    if at + layout.size > volume.size:
        raise Corrupt("an allocation group goes past the end of its volume", offset=at, expected=f"at most {volume.size}")
    found, *numbers = layout.unpack(read(volume, at, layout.size))
    if found != magic:
        raise Corrupt("an allocation group has no header", offset=at, expected=magic, found=found)
    return tuple(numbers)
