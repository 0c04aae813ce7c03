"""A disk's data in order, read ahead: what lies between two pieces is zeros, and is never read."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

from mntapi.types import Blocks, ExtentKind
from mntapi.units import KIB, MIB, align_down, align_up

BATCH = 2 * MIB
"""Bytes read before they are handed on: a multiple of every unit."""
MAX_UNIT = 64 * KIB
_AHEAD = 6
"""Batches that are read while one is being written. On an idle host two are enough; where processors are busy, each side runs
for some milliseconds at a time, and should have enough to do."""
SERVER_READERS = 4
"""Threads that read from a server, each over a connection of its own (``mntapi.remote`` makes as many): what takes the time is
the way there and back. From a file one thread is as fast as several."""
_ZEROS = bytes(MAX_UNIT)


class Piece(NamedTuple):
    """``length`` bytes of the disk at ``offset``, which are in a batch's buffer from ``start`` on."""

    offset: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Ranges of the disk, ascending, and their bytes. Valid until the next one is asked for: buffers are used again."""

    buffer: bytearray
    pieces: tuple[Piece, ...]

    @property
    def end(self) -> int:
        """The first byte of the disk after it."""
        return self.pieces[-1].offset + self.pieces[-1].length

    def view(self, piece: Piece) -> memoryview:
        """The bytes of one of its pieces, or of a part of one."""
        return memoryview(self.buffer)[piece.start : piece.start + piece.length]

    def runs(self, unit: int) -> Iterator[Piece]:
        """The pieces without those units of ``unit`` bytes in which all is zero."""
        for offset, start, length in self.pieces:
            begin = 0
            for zero in self._zero_units(start, length, unit):
                if zero > begin:
                    yield Piece(offset + begin, start + begin, zero - begin)
                begin = zero + unit
            if length > begin:
                yield Piece(offset + begin, start + begin, length - begin)

    def units(self, unit: int) -> Iterator[Piece]:
        """The same, cut into units; one that the end of the disk cuts off is shorter."""
        for offset, start, length in self.runs(unit):
            for step in range(0, length, unit):
                yield Piece(offset + step, start + step, min(unit, length - step))

    def _zero_units(self, start: int, length: int, unit: int) -> Iterator[int]:
        """Where the units of zeros are, in bytes from ``start``. Only those whose first byte is zero are looked at."""
        first_bytes = self.buffer[start : start + length : unit]
        at = first_bytes.find(0)
        while at >= 0:
            count = min(unit, length - at * unit)
            if self.buffer.startswith(_ZEROS[:count], start + at * unit):  # compares in place
                yield at * unit
            at = first_bytes.find(0, at + 1)


def batches(source: Blocks, unit: int, *, readers: int = 1) -> Generator[Batch, None, None]:
    """All data of ``source`` in order, read by threads of its own. Close the iterator to end them.

    Args:
        source: the disk.
        unit: bytes; every piece starts at a multiple of it, and ends at one or with the disk.
        readers: threads that read, each a batch of its own.

    Raises:
        MntapiError: what reading the disk raises.
    """
    size = min(BATCH, max(1, source.size))
    buffers = cycle([bytearray(size) for _ in range(_AHEAD + 1)])
    pending: deque[Future[Batch]] = deque()
    reader = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        for pieces in _cut(_data_ranges(source, unit), size):
            pending.append(reader.submit(_read, source, Batch(next(buffers), pieces)))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)


def _data_ranges(source: Blocks, unit: int) -> Iterator[tuple[int, int]]:
    """Where there is data, as (first byte, end), widened to whole units and not touching each other."""
    first = end = 0
    for extent in source.extents(0, source.size):
        if extent.kind is ExtentKind.ZERO:
            continue
        start = align_down(extent.offset, unit)
        if start > end:
            if end > first:
                yield first, end
            first = start
        end = min(source.size, align_up(extent.end, unit))
    if end > first:
        yield first, end


def _cut(ranges: Iterator[tuple[int, int]], limit: int) -> Iterator[tuple[Piece, ...]]:
    """The ranges in groups of ``limit`` bytes."""
    pieces: list[Piece] = []
    used = 0
    for offset, end in ranges:
        while offset < end:
            count = min(end - offset, limit - used)
            pieces.append(Piece(offset, used, count))
            offset += count
            used += count
            if used == limit:
                yield tuple(pieces)
                pieces, used = [], 0
    if pieces:
        yield tuple(pieces)


def _read(source: Blocks, batch: Batch) -> Batch:
    for piece in batch.pieces:
        source.readinto(piece.offset, batch.view(piece))
    return batch
