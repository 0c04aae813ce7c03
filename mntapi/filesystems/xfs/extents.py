"""Where a fork's bytes are: a list of extents in the inode, or a tree of them, as run lists.

Source: XFS Algorithms & Data Structures, chapter "Data Extents"; Linux fs/xfs/libxfs/xfs_bmap_btree.c
``xfs_bmbt_disk_get_all``; fs/xfs/libxfs/xfs_bmap.c ``xfs_bmap_validate_extent``, ``xfs_iread_extents``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.runs import MAX_OFFSET, MAX_RUNS, RunBlocks, RunList
from mntapi.filesystems.xfs.described import EXTENT_TREE, Metadata
from mntapi.filesystems.xfs.inode import Fork, Format
from mntapi.filesystems.xfs.superblock import Superblock

MAX_EXTENTS = MAX_RUNS
"""Extents of one fork."""
MAX_LEVELS = 9
"""Levels of a tree below the inode, as in the kernel (``XFS_BTREE_MAXLEVELS``)."""
_RECORD = struct.Struct(">2Q")
_ROOT = struct.Struct(">2H")
_HEADER = struct.Struct(">4s2H")
_MAGICS = {4: b"BMAP", 5: b"BMA3"}
_HEADER_SIZES = {4: 24, 5: 72}


class Extent(NamedTuple):
    """Bytes of a fork that lie in one piece on the volume. ``is_unwritten``: whatever is there, they read as zeros."""

    offset: int
    length: int
    source: int
    is_unwritten: bool


class Stored(NamedTuple):
    """Bytes of a fork, and the byte of the volume where the first of them lies."""

    raw: bytes
    at: int


class Extents:
    """Reads the extents of forks."""

    def __init__(self, metadata: Metadata, superblock: Superblock) -> None:
        self._metadata = metadata
        self._sb = superblock
        self._header = _HEADER_SIZES[superblock.version]
        self._most = MAX_OFFSET // superblock.block_size

    def extents(self, fork: Fork, owner: int) -> Iterator[Extent]:
        """The extents of a fork of inode ``owner``, ascending.

        Raises:
            Corrupt: they overlap, lie outside the file system, or are not as many as the inode says.
            Unsupported: they are more than ``MAX_EXTENTS``.
        """
        if fork.extents > MAX_EXTENTS:
            raise Unsupported(
                "the file is in too many pieces",
                offset=fork.at,
                expected=f"at most {MAX_EXTENTS}",
                found=fork.extents,
                reason="too-many-runs",
            )
        size, left, end = self._sb.block_size, fork.extents, 0
        for raw, at in self._areas(fork, owner):
            left -= len(raw) // _RECORD.size
            if left < 0:
                raise Corrupt("more extents than the inode says", offset=at, expected=fork.extents)
            for index, (high, low) in enumerate(_RECORD.iter_unpack(raw)):
                first, count = high >> 9 & (1 << 54) - 1, low & (1 << 21) - 1
                source = self._sb.block_at((high & 0x1FF) << 43 | low >> 21, count)
                if not source or not count or first < end or first + count > self._most:
                    raise self._impossible(first, count, end, at + index * _RECORD.size)
                end = first + count
                yield Extent(first * size, count * size, source, bool(high >> 63))
        if left:
            raise Corrupt("fewer extents than the inode says", offset=fork.at, expected=fork.extents, found=fork.extents - left)

    def _impossible(self, first: int, count: int, end: int, at: int) -> Corrupt:
        if first < end:
            return Corrupt("an extent that overlaps the one before", offset=at, expected=f"block {end} or later", found=first)
        return Corrupt(
            "an extent outside the file system", offset=at, expected=f"{self._sb.blocks} blocks at most", found=count
        )

    def runs(self, fork: Fork, owner: int, size: int, *, end: int = MAX_OFFSET) -> RunList:
        """Its run list, of ``size`` bytes or more; extents from byte ``end`` on are left out. Raises as ``extents``."""
        return run_list((extent for extent in self.extents(fork, owner) if extent.offset < end), size)

    def mapped(self, fork: Fork, owner: int, *, end: int = MAX_OFFSET) -> Mapped:
        """Its bytes, where they are metadata. Raises as ``extents``."""
        return Mapped(self._metadata, self.runs(fork, owner, 0, end=end), owner, fork.at)

    def _areas(self, fork: Fork, owner: int) -> Iterator[Stored]:
        """The pieces in which records lie, and their bytes on the volume."""
        if fork.format == Format.EXTENTS:
            size = fork.extents * _RECORD.size
            if size > len(fork.raw):
                raise Corrupt("more extents than an inode has room for", offset=fork.at, found=fork.extents)
            yield Stored(fork.raw[:size], fork.at)
        elif fork.format == Format.BTREE:
            level, count = _ROOT.unpack_from(fork.raw)
            room = (len(fork.raw) - _ROOT.size) // 16
            if not 1 <= level <= MAX_LEVELS or not 1 <= count <= room:
                raise Corrupt("an impossible root of an extent tree", offset=fork.at, found=f"level {level}, {count} entries")
            pointers = struct.unpack_from(f">{count}Q", fork.raw, _ROOT.size + 8 * room)
            yield from self._below(pointers, level - 1, owner, fork.at)
        else:
            raise Corrupt("a fork that should have extents", offset=fork.at, expected="format 2 or 3", found=fork.format)

    def _below(self, pointers: tuple[int, ...], level: int, owner: int, at: int) -> Iterator[Stored]:
        """The leaves below the pointers that lie at byte ``at``. None is empty, so whoever comes twice is out of order."""
        for pointer in pointers:
            raw, place, count = self._node(pointer, level, owner, at)
            if level == 0:
                yield Stored(raw[self._header : self._header + count * _RECORD.size], place + self._header)
                continue
            room = (len(raw) - self._header) // 16
            below = struct.unpack_from(f">{count}Q", raw, self._header + 8 * room)
            yield from self._below(below, level - 1, owner, place)

    def _node(self, pointer: int, level: int, owner: int, at: int) -> tuple[bytes, int, int]:
        """A block of the tree: its bytes, where it is, and how many entries it has."""
        place = self._sb.block_at(pointer)
        if not place:
            raise Corrupt("a block of an extent tree outside the file system", offset=at, found=pointer)
        raw = self._metadata.read(place, self._sb.block_size)
        magic, found, count = _HEADER.unpack_from(raw)
        if magic != _MAGICS[self._sb.version]:
            raise Corrupt("no block of an extent tree", offset=place, expected=_MAGICS[self._sb.version], found=magic)
        if self._sb.version == 5:
            self._metadata.verify(raw, place, EXTENT_TREE, owner)
        room = (len(raw) - self._header) // 16
        if found != level or not 1 <= count <= room:
            raise Corrupt(
                "an impossible block of an extent tree",
                offset=place,
                expected=f"level {level}, 1 to {room} entries",
                found=f"level {found}, {count} entries",
            )
        return raw, place, count


def run_list(extents: Iterable[Extent], size: int) -> RunList:
    """The run list of extents, which ascend, of ``size`` bytes or more. Raises Unsupported where they are too many."""
    runs = RunList()
    for offset, length, source, is_unwritten in extents:
        runs.pad(offset)
        runs.add(length, None if is_unwritten else source)
    runs.pad(size)
    return runs


class Mapped:
    """The bytes of a fork that holds metadata of inode ``owner``: there are no zeros to make up where it has a hole."""

    def __init__(self, metadata: Metadata, runs: RunList, owner: int, at: int) -> None:
        """``at``: the byte of the volume where the fork is, for errors."""
        self.metadata = metadata
        self.owner = owner
        self._at = at
        self.runs = runs
        self._content = RunBlocks(metadata.volume, runs, runs.size)

    def read(self, offset: int, length: int) -> Stored:
        """``length`` bytes at byte ``offset`` of the fork. Raises Corrupt where they are not all stored."""
        source = None
        if offset + length <= self.runs.size:
            pieces = list(self.runs.pieces(offset, length))
            source = None if any(where is None for _, where in pieces) else pieces[0][1]
        if source is None:
            raise Corrupt("a hole in metadata", offset=self._at, expected=f"{length} bytes at {offset} of the fork")
        raw = bytearray(length)
        self._content.readinto(offset, memoryview(raw))
        return Stored(bytes(raw), source)
