"""Bytes that are not there: the part of a volume that lies on a disk nobody gave. Reading them is an error, never zeros."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks.base import check_range, whole
from mntapi.errors import ReadFailed
from mntapi.types import Extent, ExtentKind


class Missing:
    """``size`` bytes that every read refuses, with what is missing and what to do about it."""

    def __init__(self, size: int, what: str, *, hint: str | None = None, sector_size: int = 512) -> None:
        """``what`` completes the sentence "cannot be read: ...", ``hint`` says how to get them: the disk to add with ``-d``."""
        self.size = size
        self.sector_size = sector_size
        self._what = what
        self._hint = hint

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Raises ReadFailed for all but an empty range."""
        check_range(self.size, offset, len(buffer))
        if buffer:
            raise ReadFailed(f"cannot be read: {self._what}", hint=self._hint)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """DATA: what it holds is not known to be zeros."""
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""
