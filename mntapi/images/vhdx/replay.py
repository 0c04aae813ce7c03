"""A file as it would be with its log written to where it belongs: the file is read, never written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from mntapi.blocks import check_range, merged, read
from mntapi.blocks.zero import fill
from mntapi.images.vhdx.log import SECTOR, Entry, Write
from mntapi.types import Extent, ExtentKind, FileBlocks
from mntapi.units import MIB, align_up


class Replayed:
    """``file`` with the entries of the active sequence applied in order. Owns it. What the log added to its length is zeros."""

    def __init__(self, file: FileBlocks, sequence: Sequence[Entry]) -> None:
        self._file = file
        self.path = file.path
        self.sector_size = file.sector_size
        self._writes = _flattened(write for entry in sequence for write in entry.writes if write.length)
        self._starts = [write.offset for write in self._writes]
        self._ends = [write.end for write in self._writes]
        self.size = max(file.size, align_up(sequence[-1].last_size, MIB), *self._ends[-1:])

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        end = offset + length
        done = 0
        for write in self._touched(offset, end):
            at = max(offset, write.offset) - offset
            self._read_file(offset + done, buffer[done:at])
            done = min(end, write.end) - offset
            self._read_write(write, offset + at - write.offset, buffer[at:done])
        self._read_file(offset + done, buffer[done:])

    def _touched(self, offset: int, end: int) -> Sequence[Write]:
        first = bisect_right(self._ends, offset)
        return self._writes[first : bisect_left(self._starts, end, first)]

    def _read_file(self, offset: int, buffer: memoryview) -> None:
        stored = max(0, min(len(buffer), self._file.size - offset))
        if stored:
            self._file.readinto(offset, buffer[:stored])
        fill(buffer[stored:])

    def _read_write(self, write: Write, start: int, buffer: memoryview) -> None:
        if write.data_at is None:
            fill(buffer)
            return
        sector = write.leading + read(self._file, write.data_at + 8, SECTOR - 12) + write.trailing
        buffer[:] = sector[start : start + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        for write in self._touched(offset, end):
            if write.offset > offset:
                yield from self._file_extents(offset, write.offset)
                offset = write.offset
            stop = min(end, write.end)
            yield Extent(offset, stop - offset, ExtentKind.ZERO if write.data_at is None else ExtentKind.DATA)
            offset = stop
        if end > offset:
            yield from self._file_extents(offset, end)

    def _file_extents(self, offset: int, end: int) -> Iterator[Extent]:
        stored = min(end, self._file.size)
        if stored > offset:
            yield from self._file.extents(offset, stored - offset)
        if end > max(offset, stored):
            yield Extent(max(offset, stored), end - max(offset, stored), ExtentKind.ZERO)

    def close(self) -> None:
        self._file.close()


def _flattened(writes: Iterator[Write]) -> list[Write]:
    """The writes without their overlaps, a later one winning over an earlier, in the order of their offsets."""
    flat: list[Write] = []
    for write in writes:
        first = bisect_right(flat, write.offset, key=lambda one: one.end)
        last = bisect_left(flat, write.end, first, key=lambda one: one.offset)
        kept = []
        if first < last and flat[first].offset < write.offset:
            kept.append(Write(flat[first].offset, write.offset - flat[first].offset))
        kept.append(write)
        if first < last and flat[last - 1].end > write.end:
            kept.append(Write(write.end, flat[last - 1].end - write.end))
        flat[first:last] = kept  # only zeros can be cut: data is always one whole sector, and all offsets are multiples of one
    return flat
