"""The bytes of a file by its block map, which is asked block by block.

Source: FreeBSD sys/ufs/ufs/ufs_bmap.c ``ufs_bmaparray``; sys/ufs/ffs/fs.h ``blksize`` for the last block of a short file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from mntapi.blocks import check_range, merged
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.ufs.inode import DIRECT, Inode
from mntapi.filesystems.ufs.superblock import Superblock
from mntapi.types import Blocks, Extent, ExtentKind

MAX_EMPTY = 1 << 16
"""Steps through a hole at a time. No system writes pointer blocks without pointers; each would take a step."""
_Piece = tuple[int, int | None]
"""Bytes of a file, and the byte of the volume where they lie; None for a hole."""


class Content:
    """A file's bytes. Thread-safe; borrows the volume.

    Args:
        volume: where they are.
        superblock: of the volume.
        inode: of the file.
        read_block: reads a whole block that starts with this fragment.
    """

    def __init__(self, volume: Blocks, superblock: Superblock, inode: Inode, read_block: Callable[[int], bytes]) -> None:
        self._volume = volume
        self._sb = superblock
        self._pointers = inode.pointers
        self._read_block = read_block
        self._entries = f"{superblock.order}{superblock.block_size // (4 * superblock.version)}{'IQ'[superblock.version - 1]}"
        self._per_block = superblock.block_size // (4 * superblock.version)
        self._tables: list[tuple[int, tuple[int, ...]]] = [(0, ())] * 4
        """The pointer block read last at each level, and its number."""
        self.size = inode.size
        self.sector_size = volume.sector_size
        most = (DIRECT + sum(self._per_block**level for level in (1, 2, 3))) * superblock.block_size
        if self.size > most:
            raise Corrupt("a file larger than its pointers can say", expected=f"at most {most}", found=self.size)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        done = 0
        for count, source in self._pieces(offset, offset + len(buffer)):
            part = buffer[done : done + count]
            if source is None:
                fill(part)
            else:
                self._volume.readinto(source, part)
            done += count

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for count, source in self._pieces(offset, offset + length):
            yield Extent(offset, count, ExtentKind.ZERO if source is None else ExtentKind.DATA)
            offset += count

    def close(self) -> None:
        """Nothing to release: the volume belongs to somebody else."""

    def _pieces(self, offset: int, end: int) -> Iterator[_Piece]:
        """The range in pieces, joined where they continue each other."""
        held, at = 0, None
        for count, source in self._steps(offset, end):
            if held and source == (None if at is None else at + held):
                held += count
                continue
            if held:
                yield held, at
            held, at = count, source
        if held:
            yield held, at

    def _steps(self, offset: int, end: int) -> Iterator[_Piece]:
        empty = 0
        while offset < end:
            pointer, start, span = self._find(offset // self._sb.block_size)
            count = min(end, start + span) - offset
            if pointer:
                empty = 0
                yield count, self._inside(pointer, offset - start, count)
            else:
                empty += 1
                if empty > MAX_EMPTY:
                    raise Unsupported("a hole of too many steps", expected=f"at most {MAX_EMPTY}", reason="too-many-runs")
                yield count, None
            offset += count

    def _inside(self, pointer: int, start: int, count: int) -> int:
        """Byte of the volume at ``start`` of the block ``pointer``, of which ``count`` bytes are wanted."""
        at = pointer * self._sb.fragment_size + start
        end = min(self._sb.fragments * self._sb.fragment_size, self._volume.size)
        if at + count > end:
            raise Corrupt(
                "a block of the file lies outside the file system",
                offset=at,
                expected=f"at most {end}",
                found=at + count,
                reason="run-outside-volume",
            )
        return at

    def _find(self, block: int) -> tuple[int, int, int]:
        """The pointer to a block of the file, the first byte it stands for, and how many: more than a block in a hole."""
        size = self._sb.block_size
        if block < DIRECT:
            return self._pointers[block], block * size, size
        level, first = 1, DIRECT
        while block - first >= self._per_block**level:
            first += self._per_block**level
            level += 1
        pointer = self._pointers[DIRECT + level - 1]
        while level and pointer:
            table = self._table(pointer, level)
            if not table:
                pointer = 0
                break
            level -= 1
            span = self._per_block**level
            index = (block - first) // span
            first += index * span
            pointer = table[index]
        return pointer, first * size, self._per_block**level * size

    def _table(self, pointer: int, level: int) -> tuple[int, ...]:
        """The pointers in a block; none at all where all are 0."""
        held, table = self._tables[level]
        if held != pointer:
            raw = self._read_block(pointer)
            table = struct.unpack(self._entries, raw) if raw.count(0) < len(raw) else ()
            self._tables[level] = (pointer, table)
        return table
