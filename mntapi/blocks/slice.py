"""A part of other blocks, counted from its own zero: a partition, an extent with a start sector."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks.base import check_range, shifted
from mntapi.types import Blocks, Extent


class Slice:
    """``length`` bytes of ``inner`` from ``start`` on. Borrows ``inner``: closing the slice leaves it open.

    ``sector_size`` overrides what the inner blocks say. A slice of a slice reads the innermost blocks directly, so nesting
    costs nothing.
    """

    def __init__(self, inner: Blocks, start: int, length: int, *, sector_size: int | None = None) -> None:
        check_range(inner.size, start, length)
        self.size = length
        self.sector_size = sector_size or inner.sector_size
        self._inner: Blocks = inner._inner if isinstance(inner, Slice) else inner
        self._start: int = inner._start + start if isinstance(inner, Slice) else start

    def readinto(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            check_range(self.size, offset, len(buffer))
        self._inner.readinto(self._start + offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return shifted(self._inner.extents(self._start + offset, length), -self._start)

    def close(self) -> None:
        """Nothing to release: the inner blocks belong to somebody else."""
