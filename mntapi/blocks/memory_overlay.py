"""A place to write that is gone with its process: changed blocks in memory, over blocks that are never written."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

from mntapi.blocks.base import check_range, merged, whole
from mntapi.blocks.zero import fill
from mntapi.errors import Busy, Invalid
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import KIB, MIB, align_down, align_up

BLOCK = 64 * KIB
"""Bytes that are changed together; the first write to a block copies the rest of it from the original."""
MAX_MEMORY = 512 * MIB
"""Bytes that the changes of one set may take."""
_MARK = 256
"""Bytes that a block of zeros counts for: an entry of a dictionary, which is less."""

_ZERO = bytearray()
"""What stands for a block of zeros."""


class NoSpace(Busy):
    """Nothing more can be stored. Programs see what a full disk answers."""

    errno = errno.ENOSPC


class Room:
    """Memory that several overlays share. Thread-safe."""

    def __init__(self, limit: int = MAX_MEMORY) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count ``count`` more bytes as used. Raises NoSpace when they are more than there are."""
        with self._lock:
            if self._used + count > self._limit:
                hint = "write to a file instead: --overlay FILE"
                raise NoSpace("the overlay in memory is full", expected=f"at most {self._limit} bytes", hint=hint)
            self._used += count

    def give_back(self, count: int) -> None:
        """Count them as free again."""
        with self._lock:
            self._used -= count


class MemoryOverlay:
    """The disk with its changes: ``mntapi.types.WritableBlocks``. Owns the original's blocks.

    Reads take no lock: a block is complete before it is in the dictionary, and none is ever taken out.
    """

    def __init__(self, original: Blocks, room: Room | None = None) -> None:
        self.size = original.size
        self.sector_size = original.sector_size
        self._original = original
        self._room = room or Room()
        self._blocks: dict[int, bytearray] = {}
        self._lock = threading.RLock()
        self._is_closed = False

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        for start, end, block in self._pieces(offset, offset + len(buffer)):
            part = buffer[start - offset : end - offset]
            if block is None:
                self._original.readinto(start, part)
            elif block is _ZERO:
                fill(part)
            else:
                at = start % BLOCK
                part[:] = memoryview(block)[at : at + end - start]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        for start, stop, block in self._pieces(offset, end):
            if block is None:
                yield from self._original.extents(start, stop - start)
            else:
                yield from whole(start, stop - start, ExtentKind.ZERO if block is _ZERO else ExtentKind.DATA)

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bytearray | None]]:
        """The range cut by where its bytes are: in a block of ours, ``_ZERO``, or None: in the original."""
        self._check_open()
        for index in self._changed(start, end):
            first = max(start, index * BLOCK)
            if first > start:
                yield start, first, None
            start = min(end, (index + 1) * BLOCK)
            yield first, start, self._blocks[index]
        if start < end:
            yield start, end, None

    def _changed(self, start: int, end: int) -> list[int]:
        """Which blocks of the range are ours, ascending."""
        first, stop = start // BLOCK, align_up(end, BLOCK) // BLOCK
        if stop - first <= len(self._blocks):
            return [index for index in range(first, stop) if index in self._blocks]
        with self._lock:
            return sorted(index for index in self._blocks if first <= index < stop)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Invalid("is closed")

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``. Raises NoSpace; what was not written reads as before."""
        check_range(self.size, offset, len(content))
        with self._lock:
            self._check_open()
            done = 0
            while done < len(content):
                at = (offset + done) % BLOCK
                count = min(len(content) - done, BLOCK - at)
                block = self._block_to_change(offset + done, count)
                memoryview(block)[at : at + count] = content[done : done + count]
                self._blocks[(offset + done) // BLOCK] = block
                done += count

    def _block_to_change(self, offset: int, count: int) -> bytearray:
        """The block at ``offset``, of which ``count`` bytes are about to be written; made if it is not there yet."""
        block = self._blocks.get(offset // BLOCK)
        if block is not None and block is not _ZERO:
            return block
        start = align_down(offset, BLOCK)
        made = bytearray(BLOCK)
        if block is None and count < BLOCK:
            self._original.readinto(start, memoryview(made)[: min(BLOCK, self.size - start)])
        self._room.take(BLOCK if block is None else BLOCK - _MARK)
        return made

    def discard(self, offset: int, length: int) -> None:
        """See ``WritableBlocks``. Blocks of the original that are zeros stay as they are, and cost nothing."""
        check_range(self.size, offset, length)
        start, end = align_up(offset, BLOCK), offset + length
        end = end if end == self.size else align_down(end, BLOCK)
        with self._lock:
            for first, stop, block in list(self._pieces(start, end)) if start < end else ():
                if block is None:
                    self._hide(first, stop)
                elif block is not _ZERO:
                    self._blocks[first // BLOCK] = _ZERO
                    self._room.give_back(BLOCK - _MARK)

    def _hide(self, start: int, end: int) -> None:
        """Make zero blocks where the original has data."""
        for extent in self._original.extents(start, end - start):
            if extent.kind is ExtentKind.DATA:
                for index in range(extent.offset // BLOCK, align_up(extent.end, BLOCK) // BLOCK):
                    if index not in self._blocks:
                        self._room.take(_MARK)
                        self._blocks[index] = _ZERO

    def flush(self) -> None:
        """Nothing to do: the changes are where they will ever be."""
        self._check_open()

    def close(self) -> None:
        """Forget the changes, and release the original."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._room.give_back(sum(_MARK if block is _ZERO else BLOCK for block in self._blocks.values()))
            self._blocks.clear()
            self._original.close()
