"""The chunks of an EWF image: where each is, read from the tables of all segments, and unpacked when it is asked for.

Tables are read on first use and a few are kept; a table that is damaged is read from its copy (``table2``).
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.images.ewf.sections import Volume, check_entries
from mntapi.images.vmdk.recent import Recent
from mntapi.types import FileBlocks
from mntapi.units import MIB

MAX_TABLE = 16 * MIB
"""Bytes of a table's entries. EnCase writes at most 64 KiB; others one table a segment."""
CACHED_TABLES = 8 * MIB
_COMPRESSED = 1 << 31
_CHECKSUM_SIZE = 4


@dataclass(frozen=True, slots=True)
class Table:
    """``count`` chunks from ``first`` on. ``entries`` and ``copy`` are the bytes of ``file`` where the two lists begin.

    ``data_end`` is where the last chunk's bytes end. ``has_checksum``: the entries are followed by one.
    """

    file: FileBlocks
    first: int
    count: int
    base: int
    entries: int
    data_end: int
    has_checksum: bool
    copy: int | None = None


class Chunks:
    """The chunks as a ``Source`` of spans. ``lost`` says what is wrong where tables are missing at the end.

    ``bad`` are byte ranges (start, end) that the imaging program could not read and filled with zeros, ascending.
    """

    def __init__(
        self, volume: Volume, tables: Sequence[Table], bad: Sequence[tuple[int, int]], path: str, lost: Corrupt | None
    ) -> None:
        self.size = volume.size
        self.starts: Sequence[int] = range(0, volume.size, volume.chunk_size)
        self._volume = volume
        self._tables = tables
        self._firsts = [table.first for table in tables]
        self._held: Recent[array[int]] = Recent(CACHED_TABLES // 2)
        self._bad = bad
        self._path = path
        self._lost = lost

    def is_zero(self, index: int) -> bool:
        """Unpacking is cheap, and how else should one know."""
        return False

    def unpack(self, index: int) -> bytes:
        """The bytes of a chunk, its checksum compared."""
        self._check_acquired(index)
        number = bisect_right(self._firsts, index) - 1
        table = self._tables[number] if number >= 0 else None
        if table is None or index >= table.first + table.count:
            raise self._no_chunk(index)
        offset, end, is_packed = self._place(number, table, index)
        raw = read(table.file, offset, end - offset)
        size = min(self._volume.chunk_size, self.size - self.starts[index])
        return self._inflated(table, offset, raw, size) if is_packed else self._checked(table, offset, raw, size)

    def _no_chunk(self, index: int) -> Corrupt:
        if self._lost is None:
            return Corrupt(f"no table has chunk {index}", path=self._path, reason="table")
        return Corrupt(self._lost.what, path=self._lost.path, offset=self._lost.offset, reason=self._lost.reason)

    def _check_acquired(self, index: int) -> None:
        """A chunk of which a sector was never read from the medium holds zeros that nobody wrote."""
        start = self.starts[index]
        position = bisect_right(self._bad, (start + self._volume.chunk_size, 0)) - 1
        if position >= 0 and self._bad[position][1] > start:
            first, end = self._bad[position]
            raise ReadFailed(
                f"bytes {first} to {end} of the disk could not be read when the image was made",
                path=self._path,
                reason="acquisition-error",
            )

    def _place(self, number: int, table: Table, index: int) -> tuple[int, int, bool]:
        """Where a chunk is: its first byte, the one after its last, and whether it is compressed."""
        entries = self._entries(number, table)
        position = index - table.first
        entry = entries[position]
        offset = table.base + (entry & ~_COMPRESSED)
        last = position + 1 == len(entries)
        end = table.data_end if last else table.base + (entries[position + 1] & ~_COMPRESSED)
        if end < offset and not last:
            raise Unsupported(
                "a table has offsets of 2 GiB and more", path=table.file.path, offset=table.entries, reason="offset-overflow"
            )
        most = 2 * self._volume.chunk_size + 1024
        if last:
            end = min(end, offset + most)
        if not 0 < end - offset <= most or end > table.file.size:
            raise Corrupt(
                f"chunk {index} is outside the file or too long",
                path=table.file.path,
                offset=table.entries + 4 * position,
                expected=f"at most {most} bytes before {table.file.size}",
                found=f"{end - offset} bytes at {offset}",
                reason="table",
            )
        return offset, end, bool(entry & _COMPRESSED)

    def _entries(self, number: int, table: Table) -> array[int]:
        held = self._held.get(number)
        if held is None:
            try:
                held = _load(table, table.entries)
            except Corrupt:
                if table.copy is None:
                    raise
                held = _load(table, table.copy)
            self._held.put(number, held, 4 * len(held))
        return held

    def _inflated(self, table: Table, offset: int, raw: bytes, size: int) -> bytes:
        inflater = zlib.decompressobj()
        try:
            content = inflater.decompress(raw, self._volume.chunk_size)
            if not inflater.eof:
                content += inflater.decompress(inflater.unconsumed_tail, 1)  # what is left is the checksum, or too much
        except zlib.error as error:
            raise _damaged(table, offset, f"cannot be inflated: {error}") from error
        if not inflater.eof or len(content) < size:
            raise _damaged(table, offset, f"does not hold {size} bytes")
        return content[:size]

    def _checked(self, table: Table, offset: int, raw: bytes, size: int) -> bytes:
        """A chunk that is stored as it is, with its checksum behind it."""
        stored = min(len(raw) - _CHECKSUM_SIZE, self._volume.chunk_size)
        for length in dict.fromkeys((stored, size)):
            content, checksum = raw[:length], raw[length : length + _CHECKSUM_SIZE]
            if len(checksum) == _CHECKSUM_SIZE and zlib.adler32(content) == int.from_bytes(checksum, "little"):
                break
        else:
            raise _damaged(table, offset, "has another checksum")
        if len(content) < size:
            raise _damaged(table, offset, f"does not hold {size} bytes")
        return content[:size]


def _load(table: Table, offset: int) -> array[int]:
    length = 4 * table.count
    raw = read(table.file, offset, length + (_CHECKSUM_SIZE if table.has_checksum else 0))
    if table.has_checksum:
        check_entries(raw[:length], int.from_bytes(raw[length:], "little"), offset, table.file.path)
    entries = array("I", raw[:length])
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


def _damaged(table: Table, offset: int, what: str) -> Corrupt:
    return Corrupt(f"a chunk {what}", path=table.file.path, offset=offset, reason="chunk")


def merged_ranges(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges (start, end) in order, those that touch joined."""
    last: tuple[int, int] | None = None
    for start, end in sorted(ranges):
        if last is not None and start <= last[1]:
            last = (last[0], max(last[1], end))
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last
