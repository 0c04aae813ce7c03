"""A block cache for readers of file-system metadata, which ask for the same few kilobytes again and again.

Not for block files and not for large reads: the kernel's page cache and the host's do that better.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from mntapi.blocks.base import check_range, read
from mntapi.errors import MntapiError
from mntapi.types import Blocks, Extent
from mntapi.units import KIB, MIB


class Cache:
    """Least-recently-used blocks of ``inner``, at most ``capacity`` bytes of them. Borrows ``inner``.

    Reads of ``bypass`` bytes and more go around it. A block that cannot be read whole is not cached, and is then read for
    exactly the range asked for, so that one bad sector costs that sector only.
    """

    def __init__(self, inner: Blocks, *, block_size: int = 32 * KIB, capacity: int = 8 * MIB, bypass: int = 256 * KIB) -> None:
        self._inner = inner
        self.size = inner.size
        self.sector_size = inner.sector_size
        self._block_size = block_size
        self._block_count = max(1, capacity // block_size)
        self._bypass = bypass
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        if length >= self._bypass:
            self._inner.readinto(offset, buffer)
            return
        done = 0
        while done < length:
            index, start = divmod(offset + done, self._block_size)
            count = min(length - done, self._block_size - start)
            block = self._block(index)
            if block is None:
                self._inner.readinto(offset + done, buffer[done : done + count])
            else:
                buffer[done : done + count] = block[start : start + count]
            done += count

    def read(self, offset: int, length: int) -> bytes:
        """What ``blocks.read`` of this cache gives, sooner where the range lies in one block, as most metadata does."""
        index, start = divmod(offset, self._block_size)
        if 0 <= offset <= offset + length <= self.size and start + length <= self._block_size:
            block = self._block(index)
            if block is not None:
                return block[start : start + length]
        return read(self, offset, length)

    def _block(self, index: int) -> bytes | None:
        """The block's bytes (shorter at the end of the disk), or None where it cannot be read whole."""
        with self._lock:
            block = self._blocks.get(index)
            if block is not None:
                self._blocks.move_to_end(index)
                return block
        block = self._load(index)
        if block is not None:
            with self._lock:
                self._blocks[index] = block
                while len(self._blocks) > self._block_count:
                    self._blocks.popitem(last=False)
        return block

    def _load(self, index: int) -> bytes | None:
        start = index * self._block_size
        content = bytearray(min(self._block_size, self.size - start))
        try:
            self._inner.readinto(start, memoryview(content))
        except MntapiError:
            return None  # the caller reads just what was asked for, and raises if that is what is bad
        return bytes(content)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        with self._lock:
            self._blocks.clear()
