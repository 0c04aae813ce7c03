"""Nothing but zeros: an extent of kind ZERO, the unstored rest of a sparse disk."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks.base import check_range, whole
from mntapi.types import Extent, ExtentKind

_ZEROS = bytes(1 << 16)


def fill(buffer: memoryview) -> None:
    """Set every byte of ``buffer`` to zero."""
    length = len(buffer)
    for start in range(0, length, len(_ZEROS)):
        count = min(len(_ZEROS), length - start)
        buffer[start : start + count] = _ZEROS[:count] if count < len(_ZEROS) else _ZEROS


class Zero:
    """``size`` bytes of zeros."""

    def __init__(self, size: int, sector_size: int = 512) -> None:
        self.size = size
        self.sector_size = sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        fill(buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.ZERO)

    def close(self) -> None:
        """Nothing to release."""
