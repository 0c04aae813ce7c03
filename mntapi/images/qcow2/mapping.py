"""Where every byte of one link's disk is: L1 table, L2 tables, then runs of bytes that one source holds.

A ``Run`` says: guest bytes from ``start`` are the bytes of ``source`` from ``target``. What this link does not store is asked
from the link below, so that the runs of the top link lead straight to the files that hold the bytes, however long the chain is.
Tables are read a slice at a time when a range is first asked for. A table or entry that is bad makes a run that raises when it
is read: the rest of the disk stays readable.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mntapi.blocks import Zero, whole
from mntapi.errors import Corrupt, MntapiError
from mntapi.images.qcow2.entries import L1_RESERVED, OFFSET_MASK, Kind, Layout, Piece, extended_pieces, pieces
from mntapi.types import Blocks, Extent, ExtentKind, FileBlocks

L1_PAGE = 4096
"""Entries of the L1 table that are read at once."""
L1_PAGES = 16
"""Pages of the L1 table that are kept."""
L2_SLICE = 4096
"""Entries of an L2 table that are read at most at once."""


class Source(Protocol):
    """What holds the bytes of a run: a file, or something that makes them from one."""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """As ``Blocks.readinto``."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """As ``Blocks.extents``."""


class Run(NamedTuple):
    """``length`` guest bytes from ``start`` on are the bytes of ``source`` from ``target`` on."""

    start: int
    length: int
    source: Source
    target: int


class Below(Protocol):
    """What a link reads where it stores nothing."""

    def runs(self, start: int, end: int, *, strict: bool) -> Iterator[Run]:
        """The runs of the guest bytes ``start .. end``, whatever the size of the link below."""


_ZEROS = Zero(1 << 63)
_UNREADABLE = -1


class _Span(NamedTuple):
    """Guest bytes ``start .. end`` that one L1 entry describes (or ``_UNREADABLE``), and where in the file the entry is."""

    start: int
    end: int
    entry: int
    place: int


class Nothing:
    """No backing file: zeros."""

    def runs(self, start: int, end: int, *, strict: bool) -> Iterator[Run]:
        yield Run(start, end - start, _ZEROS, start)


class Foreign:
    """A backing file of another format, with zeros after its end."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def runs(self, start: int, end: int, *, strict: bool) -> Iterator[Run]:
        edge = min(end, max(start, self._blocks.size))
        if start < edge:
            yield Run(start, edge - start, self._blocks, start)
        if edge < end:
            yield Run(edge, end - edge, _ZEROS, edge)


@dataclass(frozen=True, slots=True)
class Stores:
    """Where this link's own clusters are."""

    data: Source
    """Standard clusters, by their host offset."""
    data_size: int
    """Bytes in the file behind ``data``."""
    compressed: Source
    """Compressed clusters: byte ``n`` of the cluster with descriptor ``d`` is at ``(d << cluster_bits) + n``."""
    guest_keyed: bool = False
    """``data`` needs the guest's offset too: its address is ``(host - guest << 64) + guest``."""


class Mapping:
    """The L1 and L2 tables of one link. Thread-safe; borrows all that it is given."""

    def __init__(
        self, tables: FileBlocks, layout: Layout, *, l1_offset: int, l1_size: int, size: int, stores: Stores, below: Below
    ) -> None:
        self._tables = tables
        self._path = tables.path
        self._layout = layout
        self._l1_offset = l1_offset
        self._l1_size = l1_size
        self._size = size
        self._stores = stores
        self._below = below
        entries_bits = layout.cluster_bits - (4 if layout.extended else 3)
        self._table_bits = layout.cluster_bits + entries_bits
        self._max_tables = tables.size >> layout.cluster_bits
        """L2 tables there can be, each being a cluster of the file: keeps a scan of a forged L1 table short."""
        self._unresolved = _Unresolved(self)
        self._pages: dict[int, array[int]] = {}
        self._lock = threading.Lock()

    def runs(self, start: int, end: int, *, strict: bool = False) -> Iterator[Run]:
        """The runs of the guest bytes ``start .. end``: ascending, gapless, zeros past the end of this disk. Neighbours may
        continue each other: only who asks for the whole chain's joins them, and not each of its links once more.

        Args:
            strict: raise at the first table or entry that is bad, instead of giving a run that raises when it is read.
        """
        edge = min(end, max(start, self._size))
        yield from self._own_runs(start, edge, strict)
        if edge < end:
            yield Run(edge, end - edge, _ZEROS, edge)

    def _own_runs(self, start: int, end: int, strict: bool) -> Iterator[Run]:
        """The runs. Without ``strict``, only as long as no table and no cluster must have been met twice: a scan of forged
        tables must end. A strict caller reads what it asks for, so it is bounded by its buffer."""
        tables = stored = 0
        for span in self._spans(start, end, strict):
            if span.entry == 0:
                yield from self._below.runs(span.start, span.end, strict=strict)
                continue
            tables += 1
            if span.entry == _UNREADABLE or (tables > self._max_tables and not strict):
                yield Run(span.start, span.end - span.start, self._unresolved, span.start)
                continue
            for run in self._table_runs(span, strict):
                stored += run.length if run.source is self._stores.data else 0
                if stored > self._stores.data_size and not strict:
                    yield Run(run.start, end - run.start, self._unresolved, run.start)
                    return
                yield run

    def _spans(self, start: int, end: int, strict: bool) -> Iterator[_Span]:
        """The range cut at L1 entries; neighbours that name no table are one."""
        bits = self._table_bits
        while start < end:
            page, at = divmod(start >> bits, L1_PAGE)
            base = page * L1_PAGE
            page_end = min(end, base + L1_PAGE << bits)
            try:
                entries = self._page(page)
            except MntapiError:
                if strict:
                    raise
                yield _Span(start, page_end, _UNREADABLE, 0)
                start = page_end
                continue
            last = (page_end - 1 >> bits) - base
            while at <= last:
                entry, first = entries[at], at
                at += 1
                while entry == 0 and at <= last and entries[at] == 0:
                    at += 1
                place = self._l1_offset + 8 * (base + first)
                yield _Span(max(start, base + first << bits), min(end, base + at << bits), entry, place)
            start = page_end

    def _page(self, page: int) -> array[int]:
        entries = self._pages.get(page)
        if entries is None:
            first = page * L1_PAGE
            entries = self._numbers(self._l1_offset + 8 * first, min(L1_PAGE, self._l1_size - first), "L1")
            with self._lock:
                self._pages[page] = entries
                while len(self._pages) > L1_PAGES:
                    del self._pages[next(iter(self._pages))]
        return entries

    def _numbers(self, offset: int, count: int, what: str) -> array[int]:
        """``count`` big-endian numbers of a table."""
        if offset + 8 * count > self._tables.size:
            raise Corrupt(
                f"the {what} table goes past the end of the file",
                path=self._path,
                offset=offset,
                expected=f"at most {self._tables.size}",
                found=offset + 8 * count,
                reason="truncated",
            )
        numbers = array("Q", bytes(8 * count))
        self._tables.readinto(offset, memoryview(numbers).cast("B"))
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers

    def _table_runs(self, span: _Span, strict: bool) -> Iterator[Run]:
        """The runs of a span that an L2 table maps."""
        bits = self._layout.cluster_bits
        start = span.start
        while start < span.end:
            cut = min(span.end, (start >> bits) + L2_SLICE << bits)
            try:
                found = list(self._pieces(span, start, cut, strict))
            except MntapiError:
                if strict:
                    raise
                found = [Piece(start, cut, Kind.BAD)]
            for piece in found:
                begin, stop = max(start, piece.start), min(cut, piece.end)
                if begin < stop:  # subclusters outside the range are not asked for
                    yield from self._piece_runs(piece, begin, stop, strict)
            start = cut

    def _pieces(self, span: _Span, start: int, end: int, strict: bool) -> Iterator[Piece]:
        layout, bits, entry = self._layout, self._layout.cluster_bits, span.entry
        table = entry & OFFSET_MASK
        if entry & L1_RESERVED or table % layout.cluster_size or not table:
            raise Corrupt("an L1 entry is bad", path=self._path, offset=span.place, found=f"{entry:#018x}", reason="l1-entry")
        first, last = start >> bits, end - 1 >> bits
        index = first & ((1 << self._table_bits - bits) - 1)
        offset = table + index * layout.entry_size
        numbers = self._numbers(offset, (last - first + 1) * layout.entry_size // 8, "L2")
        decode = extended_pieces if layout.extended else pieces
        try:
            yield from decode(numbers, first << bits, layout, strict=strict)
        except Corrupt as error:
            raise error.located(path=self._path, base=offset) from None

    def _piece_runs(self, piece: Piece, start: int, end: int, strict: bool) -> Iterator[Run]:
        """The runs of the part ``start .. end`` of a piece."""
        if piece.kind is Kind.DATA:
            yield from self._data_runs(piece.host + start - piece.start, start, end, strict)
        elif piece.kind is Kind.UNALLOCATED:
            yield from self._below.runs(start, end, strict=strict)
        elif piece.kind is Kind.ZERO:
            yield Run(start, end - start, _ZEROS, start)
        elif piece.kind is Kind.COMPRESSED:
            address = (piece.host << self._layout.cluster_bits) + start - piece.start
            yield Run(start, end - start, self._stores.compressed, address)
        else:
            yield Run(start, end - start, self._unresolved, start)

    def _data_runs(self, host: int, start: int, end: int, strict: bool) -> Iterator[Run]:
        inside = min(end, max(start, start + self._stores.data_size - host))
        if inside < end and strict:
            raise Corrupt(
                "a cluster lies past the end of the file that holds it",
                path=self._path,
                offset=host + inside - start,
                expected=f"at most {self._stores.data_size}",
                found=host + end - start,
                reason="truncated",
            )
        if start < inside:
            target = (host - start << 64) + start if self._stores.guest_keyed else host
            yield Run(start, inside - start, self._stores.data, target)
        if inside < end:
            yield Run(inside, end - inside, self._unresolved, inside)

    def close(self) -> None:
        """Forget the tables."""
        with self._lock:
            self._pages.clear()


class _Unresolved:
    """Guest bytes whose place could not be found: reading them tries again, and raises what is wrong."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping

    def readinto(self, offset: int, buffer: memoryview) -> None:
        for start, length, source, target in self._mapping.runs(offset, offset + len(buffer), strict=True):
            source.readinto(target, buffer[start - offset : start - offset + length])

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)


def joined(runs: Iterator[Run]) -> Iterator[Run]:
    """Neighbours that continue each other as one, so that they are read at once."""
    last: Run | None = None
    for run in runs:
        if last is not None and last.source is run.source and last.target + last.length == run.target:
            last = Run(last.start, last.length + run.length, last.source, last.target)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


class Resolved(NamedTuple):
    """The runs of a window, for bisecting: ``starts`` has one more entry, the end. A byte is at guest offset plus ``delta``."""

    starts: list[int]
    deltas: list[int]
    sources: list[Source]


def resolve(mapping: Mapping, start: int, end: int) -> Resolved:
    """The runs of ``start .. end``."""
    runs = list(joined(mapping.runs(start, end)))
    starts = [run.start for run in runs]
    starts.append(end)
    return Resolved(starts, [run.target - run.start for run in runs], [run.source for run in runs])
