"""The blocks of a tree of extents: when two files change contents, each block is given its new owner without being logged.

Source: Linux fs/xfs/xfs_inode_item_recover.c ``xfs_recover_inode_owner_change``; fs/xfs/libxfs/xfs_bmap_btree.c
``xfs_bmbt_change_owner``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mntapi.errors import Corrupt
from mntapi.filesystems.xfs.changes import Changed
from mntapi.filesystems.xfs.inode import Fork, Format
from mntapi.filesystems.xfs.superblock import Superblock

OWNER_AT = 56
_MAGIC = b"BMA3"
_HEADER = struct.Struct(">4s2H")
_HEADER_SIZE = 72
_ROOT = struct.Struct(">2H")
_PAIR = 16


def blocks_of_tree(volume: Changed, superblock: Superblock, fork: Fork | None) -> Iterator[int]:
    """The byte on the volume of each block below the root of a fork of version 5; none where there is no tree.

    Raises:
        Corrupt: it is no tree. The levels go down, so it has an end.
    """
    if fork is None or fork.format != Format.BTREE:
        return
    level, count = _ROOT.unpack_from(fork.raw)
    todo = list(_pointers(fork.raw, _ROOT.size, count, fork.at))
    seen: set[int] = set()
    while todo:
        level -= 1
        below: list[int] = []
        for pointer in todo:
            at = superblock.block_at(pointer)
            if not at or at in seen:
                raise Corrupt("an impossible block in a tree of extents", offset=fork.at, found=pointer)
            seen.add(at)
            raw = volume.read(at, superblock.block_size)
            magic, found, count = _HEADER.unpack_from(raw)
            if magic != _MAGIC or found != level:
                raise Corrupt("no block of a tree of extents", offset=at, expected=f"level {level}", found=f"level {found}")
            yield at
            if level:
                below += _pointers(raw, _HEADER_SIZE, count, at)
        todo = below


def _pointers(raw: bytes, start: int, count: int, at: int) -> tuple[int, ...]:
    """The pointers behind the keys, which begin at byte ``start``."""
    room = (len(raw) - start) // _PAIR
    if count > room:
        raise Corrupt("a block of a tree of extents is overfull", offset=at, expected=room, found=count)
    return struct.unpack_from(f">{count}Q", raw, start + 8 * room)
