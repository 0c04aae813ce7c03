"""Blocks one after the other: the extents of a split disk, the segments of a linear volume."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from mntapi.blocks.base import check_range, merged, shifted
from mntapi.errors import Invalid
from mntapi.types import Blocks, Extent


class Concat:
    """The parts end to end. Borrows them: closing it leaves them open. Parts of zero bytes are allowed."""

    def __init__(self, parts: Sequence[Blocks]) -> None:
        if not parts:
            raise Invalid("a concatenation of no parts")
        self._parts = [part for part in parts if part.size]
        self._starts = []
        size = 0
        for part in self._parts:
            self._starts.append(size)
            size += part.size
        self.size = size
        self.sector_size = max(part.sector_size for part in parts)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        done = 0
        for part, start, count in self._pieces(offset, length):
            part.readinto(start, buffer[done : done + count])
            done += count

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for part, start, count in self._pieces(offset, length):
            yield from shifted(part.extents(start, count), offset - start)
            offset += count

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Blocks, int, int]]:
        """The parts a range touches: (part, offset in it, length in it), in bytes."""
        index = bisect_right(self._starts, offset) - 1
        while length:
            part = self._parts[index]
            start = offset - self._starts[index]
            count = min(length, part.size - start)
            yield part, start, count
            offset += count
            length -= count
            index += 1

    def close(self) -> None:
        """Nothing to release: the parts belong to somebody else."""
