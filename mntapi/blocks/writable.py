"""Writing below the whole disk: a part of blocks that can be written, and zeros by the byte."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks.base import check_range
from mntapi.blocks.slice import Slice
from mntapi.types import Extent, ExtentKind, WritableBlocks

_ZEROS = bytes(1 << 16)


class WritableSlice:
    """``length`` bytes of ``inner`` from ``start`` on, to be written: a partition of an overlay. Borrows ``inner``."""

    def __init__(self, inner: WritableBlocks, start: int, length: int, *, sector_size: int | None = None) -> None:
        self._slice = Slice(inner, start, length, sector_size=sector_size)
        self._inner = inner
        self._start = start
        self.size = length
        self.sector_size = self._slice.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._slice.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._slice.extents(offset, length)

    def write(self, offset: int, content: memoryview) -> None:
        check_range(self.size, offset, len(content))
        self._inner.write(self._start + offset, content)

    def discard(self, offset: int, length: int) -> None:
        check_range(self.size, offset, length)
        self._inner.discard(self._start + offset, length)

    def flush(self) -> None:
        self._inner.flush()

    def close(self) -> None:
        """Nothing to release: the inner blocks belong to somebody else."""


def zero_out(blocks: WritableBlocks, offset: int, length: int) -> None:
    """Make the range read as zeros, to the byte, and store as little of it as possible. Raises as ``blocks.write``."""
    check_range(blocks.size, offset, length)
    blocks.discard(offset, length)
    for extent in [one for one in blocks.extents(offset, length) if one.kind is ExtentKind.DATA]:
        for start in range(extent.offset, extent.end, len(_ZEROS)):
            blocks.write(start, memoryview(_ZEROS)[: extent.end - start])
