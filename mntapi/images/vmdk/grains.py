"""Sparse extents: a grain directory points to grain tables, a grain table to grains. Read when first asked for.

A disk of 62 TiB has gigabytes of these tables, so neither the directory nor the tables are ever read whole, and a range
without tables is skipped at the speed of ``bytes.lstrip``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mntapi.blocks import read
from mntapi.errors import Corrupt, ReadFailed
from mntapi.images.vmdk.recent import Recent
from mntapi.images.vmdk.runs import ZEROS, Refused, Run, Source, Stored
from mntapi.types import ExtentKind, FileBlocks
from mntapi.units import KIB, MIB, SECTOR

DIRECTORY_CHUNK = 4 * KIB
CACHED_DIRECTORY = 256 * KIB
CACHED_TABLES = 2 * MIB
"""Bytes: what is read of a directory at once, and what the young half of the caches of both may hold."""

ABSENT = 0
"""An entry of a table: this extent does not store the grain."""
ZEROED = 1
"""An entry of a table where the format has it: the grain is zeros, whatever the parent has."""
UNKNOWN = -1
"""An entry that the format does not define. All others are the sector where the grain starts."""
FARTHEST = 1 << 53
"""A sector no file has; entries that would lie behind it are made it, so that offsets stay below 2^63."""


class Span(NamedTuple):
    """``number`` grains from ``first`` on: their entries; or None where all are absent; or why they cannot be known."""

    first: int
    number: int
    entries: Sequence[int] | Refused | None


class GrainMap(Protocol):
    """Where the grains of an extent are."""

    def spans(self, first: int, last: int) -> Iterator[Span]:
        """The grains ``first`` up to but not including ``last``, ascending and gapless."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a format writes its tables: ``code`` is the array type of all entries, ``I`` or ``Q``.

    ``table_at`` makes the byte offset of a table from a directory entry that is not 0 (negative: the entry makes no
    sense); ``decode`` makes entries as above from what a table holds.
    """

    code: str
    entries_per_table: int
    table_at: Callable[[int], int]
    decode: Callable[[Sequence[int]], Sequence[int]]

    @property
    def width(self) -> int:
        """Bytes of an entry."""
        return array(self.code).itemsize


def load(file: FileBlocks, offset: int, count: int, code: str) -> array[int]:
    """``count`` little-endian numbers at ``offset`` of the file."""
    numbers = array(code)
    numbers.frombytes(read(file, offset, count * numbers.itemsize))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def without_zeroed(entries: Sequence[int]) -> Sequence[int]:
    """``decode`` of formats and files where 1 has no meaning: no grain starts in the second sector."""
    return [UNKNOWN if entry == ZEROED else entry for entry in entries] if ZEROED in entries else entries


class Directory:
    """A grain directory of ``count`` entries at byte ``offset`` of the file."""

    def __init__(self, file: FileBlocks, offset: int, count: int, code: str) -> None:
        self.offset = offset
        self.width = array(code).itemsize
        self._file = file
        self._count = count
        self._code = code
        self._per_chunk = DIRECTORY_CHUNK // self.width
        self._chunks: Recent[array[int]] = Recent(CACHED_DIRECTORY)

    def entry(self, index: int) -> int:
        """The entry at ``index``; 0 if there is no such table."""
        number, place = divmod(index, self._per_chunk)
        return self._chunk(number)[place]

    def next_used(self, index: int, stop: int) -> int:
        """The first entry at or after ``index`` that is not 0, at most ``stop``."""
        while index < stop:
            number, place = divmod(index, self._per_chunk)
            chunk = self._chunk(number)
            rest = chunk[place:].tobytes() if place else chunk.tobytes()
            zeros = (len(rest) - len(rest.lstrip(b"\0"))) // self.width
            index += zeros
            if place + zeros < len(chunk):
                break
        return min(index, stop)

    def next_outside(self, index: int, stop: int, is_inside: Callable[[int], bool]) -> int:
        """The first entry at or after ``index`` that is not inside, at most ``stop``.

        ``is_inside`` is true of every number between two of which it is true, so a chunk is decided by two.
        """
        while index < stop:
            number, place = divmod(index, self._per_chunk)
            rest = self._chunk(number)[place : place + stop - index]
            if not (is_inside(min(rest)) and is_inside(max(rest))):
                return index + next(at for at, entry in enumerate(rest) if not is_inside(entry))
            index += len(rest)
        return stop

    def _chunk(self, number: int) -> array[int]:
        chunk = self._chunks.get(number)
        if chunk is None:
            first = number * self._per_chunk
            count = min(self._per_chunk, self._count - first)
            chunk = load(self._file, self.offset + first * self.width, count, self._code)
            self._chunks.put(number, chunk, DIRECTORY_CHUNK)
        return chunk


class GrainTables:
    """A grain map on disk: one directory, or two that say the same; the second is asked where the first makes no sense."""

    def __init__(self, file: FileBlocks, directories: Sequence[int], grain_count: int, layout: Layout) -> None:
        """``directories`` are byte offsets, best first.

        Raises:
            Corrupt: none of them lies inside the file.
        """
        self._file = file
        self._layout = layout
        self._grain_count = grain_count
        self._table_count = -(-grain_count // layout.entries_per_table)
        length = self._table_count * layout.width
        inside = [offset for offset in directories if 0 < offset <= file.size - length]
        if not inside:
            raise Corrupt(
                "the grain directory lies outside the file",
                path=file.path,
                offset=directories[0],
                expected=f"{length} bytes inside the file",
                found=f"a file of {file.size} bytes",
                reason="truncated",
            )
        self._directories = [Directory(file, offset, self._table_count, layout.code) for offset in inside]
        self._tables: Recent[Sequence[int]] = Recent(CACHED_TABLES)
        self._extent = (0, 0, ExtentKind.DATA)
        """What of the file was last asked for its holes; see ``_file_extent``."""

    def spans(self, first: int, last: int) -> Iterator[Span]:
        per_table = self._layout.entries_per_table
        while first < last:
            index, place = divmod(first, per_table)
            entries = self._table(index)
            stop = min(last, (index + 1) * per_table)
            if entries is None:
                index = self._directories[0].next_used(index + 1, -(-last // per_table))
                stop = min(last, index * per_table)
            elif not isinstance(entries, Refused):
                if entries:
                    entries = self._layout.decode(entries[place : place + stop - first])
                else:
                    entries, stop = None, min(last, self._after_hole(index, -(-last // per_table)) * per_table)
            yield Span(first, stop - first, entries)
            first = stop

    def _table(self, index: int) -> Sequence[int] | Refused | None:
        table = self._tables.get(index)
        if table is None:
            if self._directories[0].entry(index) == 0:
                return None
            count = min(self._layout.entries_per_table, self._grain_count - index * self._layout.entries_per_table)
            for directory in self._directories:
                table = self._load(directory, index, count)
                if table is not None:
                    self._tables.put(index, table, count * self._layout.width)
                    return table
            return self._lost(index)
        return table

    def _load(self, directory: Directory, index: int, count: int) -> Sequence[int] | None:
        """The table as this directory has it; None if it points outside the file or cannot be read and there is another.

        A table without grains, as preallocating writers leave them behind by the million, is an empty sequence.
        """
        entry = directory.entry(index)
        offset = self._layout.table_at(entry) if entry else -1
        if not 0 < offset <= self._file.size - count * self._layout.width:
            return None
        try:
            table = load(self._file, offset, count, self._layout.code)
        except ReadFailed:
            if directory is self._directories[-1]:
                raise
            return None
        return table if table.tobytes().strip(b"\0") else ()

    def _after_hole(self, index: int, stop: int) -> int:
        """The first table after the empty one at ``index`` of which the file's holes do not tell that it is empty too.

        QEMU makes all tables of a disk at once, as one hole: two million of them for 62 TiB, which nobody should read.
        """
        directory, layout = self._directories[0], self._layout
        length = layout.entries_per_table * layout.width

        def is_inside(entry: int) -> bool:
            at = layout.table_at(entry) if entry else -1
            return start <= at <= end - length

        start = layout.table_at(directory.entry(index))
        if not 0 < start <= self._file.size - length:
            return index + 1
        start, end, kind = self._file_extent(start)
        return directory.next_outside(index + 1, stop, is_inside) if kind is ExtentKind.ZERO else index + 1

    def _file_extent(self, offset: int) -> tuple[int, int, ExtentKind]:
        """The part of the file around ``offset`` that is all data or all a hole: first byte known, end, and which."""
        start, end, kind = self._extent
        if not start <= offset < end:
            found = next(iter(self._file.extents(offset, self._file.size - offset)))
            start, end, kind = self._extent = (offset, found.end, found.kind)
        return start, end, kind

    def _lost(self, index: int) -> Refused:
        """Reads of these grains fail; all others still work."""
        directory = self._directories[0]
        return Refused(
            lambda _: Corrupt(
                "a grain table lies outside the file",
                path=self._file.path,
                offset=directory.offset + index * directory.width,
                expected=f"a place inside {self._file.size} bytes",
                found=hex(directory.entry(index)),
                reason="table-outside",
            )
        )


class SparseExtent:
    """A sparse extent as a layer: grains of ``grain_size`` bytes, where ``grains`` says.

    With ``inflated``, grains are compressed, and read from there by their offset in the extent. ``lowest`` is the first
    sector of the file where a grain can be.
    """

    def __init__(
        self, file: FileBlocks, grains: GrainMap, *, size: int, grain_size: int, lowest: int = 1, inflated: Source | None = None
    ) -> None:
        self.size = size
        self.unit = grain_size
        self._file = file
        self._grains = grains
        self._shift = grain_size.bit_length() - 1
        self._lowest = lowest
        self._stored = Stored(file)
        self._outside = Refused(self._outside_error)
        self._undefined = Refused(self._undefined_error)
        self._inflated = inflated

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        shift = self._shift
        for first, count, entries in self._grains.spans(offset >> shift, -(-end >> shift)):
            start, stop = max(offset, first << shift), min(end, (first + count) << shift)
            if entries is None:
                yield Run(start, stop - start, None)
            elif isinstance(entries, Refused):
                yield Run(start, stop - start, entries, start)
            elif self._inflated is not None:
                yield from self._compressed(start, stop, first, entries, self._inflated)
            else:
                yield from self._plain(start, stop, first, entries)

    def _plain(self, start: int, stop: int, first: int, entries: Sequence[int]) -> Iterator[Run]:
        shift = self._shift
        for index, count, entry in joined(entries, (1 << shift) // SECTOR):
            begin = (first + index) << shift
            offset, end = max(start, begin), min(stop, (first + index + count) << shift)
            if entry == ABSENT:
                yield Run(offset, end - offset, None)
            elif entry == ZEROED:
                yield Run(offset, end - offset, ZEROS, offset)
            elif entry < self._lowest:
                yield Run(offset, end - offset, self._undefined, offset)
            else:
                yield from self._placed(offset, end - offset, entry * SECTOR + offset - begin)

    def _placed(self, offset: int, length: int, position: int) -> Iterator[Run]:
        """A run at ``position`` of the file; what the file has lost of it is refused, the rest is read."""
        inside = min(length, max(0, self._file.size - position))
        if inside:
            yield Run(offset, inside, self._stored, position)
        if inside < length:
            yield Run(offset + inside, length - inside, self._outside, position + inside)

    def _compressed(self, start: int, stop: int, first: int, entries: Sequence[int], inflated: Source) -> Iterator[Run]:
        for index, count, entry in joined([min(entry, ZEROED + 1) for entry in entries], 0):
            offset, end = max(start, (first + index) << self._shift), min(stop, (first + index + count) << self._shift)
            sources = {ABSENT: None, ZEROED: ZEROS, UNKNOWN: self._undefined}
            yield Run(offset, end - offset, sources.get(entry, inflated), offset)

    def _outside_error(self, position: int) -> Corrupt:
        return Corrupt(
            "a grain lies outside the file",
            path=self._file.path,
            offset=position,
            expected="the grain's bytes",
            found=f"a file of {self._file.size} bytes",
            reason="truncated",
        )

    def _undefined_error(self, offset: int) -> Corrupt:
        return Corrupt(
            f"the grain at byte {offset} of the extent has an entry that cannot be",
            path=self._file.path,
            expected=f"a sector from {self._lowest} on",
            reason="entry-undefined",
        )


def joined(entries: Sequence[int], step: int) -> Iterator[tuple[int, int, int]]:
    """Entries that go together: (index, count, first one) of equal ones without a place, or of grains ``step`` sectors on."""
    begin, first, expected = 0, entries[0], entries[0]
    for index, entry in enumerate(entries):
        if entry != expected:
            yield begin, index - begin, first
            begin, first = index, entry
        expected = entry + step if entry > ZEROED else entry
    yield begin, len(entries) - begin, first
