"""Pieces of files that the log announces to move, and not that they were moved: copy on write takes the old place out of a file
before it puts the new one in, each in a transaction of its own. The kernel does both after it replayed the log; so does this.

Source: Linux fs/xfs/libxfs/xfs_log_format.h ``struct xfs_map_extent``; fs/xfs/xfs_bmap_item.c ``xfs_bui_validate``,
``xfs_bmap_recover_work``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mntapi.filesystems.runs import MAX_OFFSET
from mntapi.filesystems.xfs.extents import Extent
from mntapi.filesystems.xfs.superblock import Superblock

_MOVES_AT = 16
_MOVE = struct.Struct("<3Q2I")
_MAP, _UNMAP = 1, 2
_UNWRITTEN = 1 << 30
"""The bits above the kind; the other two are for attributes and for the realtime device."""


class Move(NamedTuple):
    """``length`` bytes of a file from byte ``offset`` on, which are to lie at byte ``source`` of the volume; None: nowhere."""

    inode: int
    offset: int
    length: int
    source: int | None
    is_unwritten: bool


def owners_of(announced: bytes | bytearray) -> set[int]:
    """The inodes that an announced change of maps is about."""
    whole = len(announced) - (len(announced) - _MOVES_AT) % _MOVE.size
    return {owner for owner, *_ in _MOVE.iter_unpack(announced[_MOVES_AT:whole])}


def parse_move(announced: bytes | bytearray, superblock: Superblock) -> Move | None:
    """What is announced; None where it is not one change of a file's contents within the file system."""
    if len(announced) != _MOVES_AT + _MOVE.size:
        return None
    inode, block, first, count, flags = _MOVE.unpack_from(announced, _MOVES_AT)
    source, size = superblock.block_at(block, count), superblock.block_size
    if not source or not count or (first + count) * size > MAX_OFFSET or flags & ~_UNWRITTEN not in (_MAP, _UNMAP):
        return None
    is_put = flags & ~_UNWRITTEN == _MAP
    return Move(inode, first * size, count * size, source if is_put else None, bool(flags & _UNWRITTEN))


def moved(extents: Iterable[Extent], moves: Iterable[Move]) -> Iterable[Extent]:
    """The extents of a file after its moves, ascending as they were."""
    for _, offset, length, source, is_unwritten in moves:
        kept = _without(extents, offset, offset + length)
        extents = sorted([*kept, *([] if source is None else [Extent(offset, length, source, is_unwritten)])])
    return extents


def gained(moves: Iterable[Move]) -> int:
    """Bytes that a file takes more after its moves; only what it has is announced to be taken out."""
    return sum(move.length if move.source is not None else -move.length for move in moves)


def _without(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    for extent in extents:
        stop = extent.offset + extent.length
        if extent.offset < start:
            yield extent._replace(length=min(stop, start) - extent.offset)
        if stop > end:
            skipped = max(0, end - extent.offset)
            yield Extent(extent.offset + skipped, stop - extent.offset - skipped, extent.source + skipped, extent.is_unwritten)
