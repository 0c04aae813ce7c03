"""Blocks that fail on purpose: bad sectors, slow storage. Product code, because every layer above is tested with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from mntapi.blocks.base import check_range
from mntapi.errors import ReadFailed
from mntapi.types import Blocks, Extent


class Fault:
    """``inner``, with the byte ranges ``bad`` (offset, length) unreadable and every read delayed by ``delay_s`` seconds."""

    def __init__(self, inner: Blocks, *, bad: Sequence[tuple[int, int]] = (), delay_s: float = 0.0) -> None:
        self._inner = inner
        self.size = inner.size
        self.sector_size = inner.sector_size
        self._bad = tuple(bad)
        self._delay_s = delay_s

    def readinto(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        check_range(self.size, offset, len(buffer))
        if self._delay_s:
            time.sleep(self._delay_s)
        for start, length in self._bad:
            if start < end and offset < start + length:
                raise ReadFailed("cannot be read: injected fault", offset=max(start, offset))
        self._inner.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        self._inner.close()
