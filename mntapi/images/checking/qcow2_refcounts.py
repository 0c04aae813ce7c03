"""The reference counts of a QCOW2 file, and how they differ from what was counted.

Source: QEMU, docs/interop/qcow2 ("Host cluster management"); the limit of the table as in QEMU's block/qcow2.h.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from mntapi.blocks import read
from mntapi.images.checking.counts import MOST, PAGE
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.qcow2.header import Header
from mntapi.types import FileBlocks
from mntapi.units import MIB

if TYPE_CHECKING:
    from mntapi.images.checking.qcow2_clusters import Clusters

MAX_TABLE = 8 * MIB
"""Bytes of a refcount table; QEMU opens no larger one."""
MAX_ORDER = 6
_RESERVED = 0x1FF
_CODES = {3: "B", 4: "H", 5: "I", 6: "Q"}


class Refcounts:
    """The counts in the file. ``find`` first; ``is_usable`` if it found a table. Blocks it does not like count as zeros."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._path = file.path
        self._header = header
        self._order = header.refcount_order
        self._cluster_size = header.cluster_size
        self._per_block = header.cluster_size * 8 >> min(self._order, MAX_ORDER)
        self._table = array("Q")
        self.is_usable = False
        self._block = lru_cache(maxsize=4)(self._load)

    def find(self) -> Iterator[Fault]:
        """Read the refcount table; faults of it and of its entries."""
        header, offset = self._header, self._header.refcount_table_offset
        length = header.refcount_table_clusters << header.cluster_bits
        if self._order > MAX_ORDER:
            yield Fault(self._path, 96, f"the width of reference counts is impossible: 2^{self._order} bits")
            return
        if not length or length > MAX_TABLE or offset % self._cluster_size or offset + length > self._file.size:
            yield Fault(self._path, 48, f"the refcount table is outside the file or too large: {length} bytes at {offset}")
            return
        self._table = _numbers("Q", read(self._file, offset, length))
        self.is_usable = True
        seen: set[int] = set()
        for index, entry in enumerate(self._table):
            problem = self._problem(entry, seen) if entry else None
            if problem:
                yield Fault(self._path, offset + 8 * index, f"a refcount block {problem}: {entry:#018x}")
                self._table[index] = 0

    def _problem(self, entry: int, seen: set[int]) -> str | None:
        if entry & _RESERVED or entry % self._cluster_size:
            return "is not at a cluster boundary"
        if entry + self._cluster_size > self._file.size:
            return "is outside the file"
        if entry in seen:
            return "is used twice"
        seen.add(entry)
        return None

    def offsets(self) -> Iterator[int]:
        """Where the usable refcount blocks are."""
        return (entry for entry in self._table if entry)

    def of(self, first: int, number: int) -> Sequence[int]:
        """The counts of ``number`` clusters from ``first`` on."""
        found: list[int] = []
        end = first + number
        while first < end:
            index, at = divmod(first, self._per_block)
            stop = min(self._per_block, at + end - first)
            entry = self._table[index] if index < len(self._table) else 0
            found += self._block(entry)[at:stop] if entry else [0] * (stop - at)
            first += stop - at
        return found

    def _load(self, offset: int) -> Sequence[int]:
        raw = read(self._file, offset, self._cluster_size)
        if self._order in _CODES:
            return _numbers(_CODES[self._order], raw)
        return b"".join(map(_narrow(self._order).__getitem__, raw))

    def pages(self) -> Iterator[int]:
        """The indexes of pages of ``PAGE`` clusters for which there is a refcount block, ascending."""
        last = -1
        for index, entry in enumerate(self._table):
            if entry:
                start = max(last + 1, index * self._per_block // PAGE)
                last = max(last, ((index + 1) * self._per_block - 1) // PAGE)
                yield from range(start, last + 1)


@lru_cache(maxsize=3)
def _narrow(order: int) -> tuple[bytes, ...]:
    """The counts in each value of a byte, of less than 8 bits: the first in the lowest bits."""
    width = 1 << order
    mask = (1 << width) - 1
    return tuple(bytes(byte >> shift & mask for shift in range(0, 8, width)) for byte in range(256))


def _numbers(code: str, raw: bytes) -> array[int]:
    numbers = array(code, raw)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def refcount_faults(refcounts: Refcounts, clusters: Clusters) -> Iterator[Fault]:
    """Where the counts in the file are not those of ``clusters``; neighbours that are wrong in the same way are one fault.

    A cluster past the end of the file is no leak, whatever its count, for there is no space that it takes.
    """
    last = -1
    for page in heapq.merge(refcounts.pages(), clusters.references.pages()):
        if page == last:
            continue
        last = page
        found, counted = refcounts.of(page * PAGE, PAGE), clusters.references.page(page)
        if found != list(counted):
            yield from _differences(page * PAGE, found, counted, clusters)


def _differences(first: int, found: Sequence[int], counted: bytes, clusters: Clusters) -> Iterator[Fault]:
    pairs = zip(found, counted, strict=True)
    for (count, wanted), group in groupby(pairs):
        number = sum(1 for _ in group)
        if count < wanted:
            yield clusters.fault(first, number, f"refcount {count}, and {wanted} references", Severity.ERROR)
        elif count > wanted and wanted < MOST and clusters.is_complete and first < clusters.end:
            what = f"refcount {count}, and {wanted} references"
            yield clusters.fault(first, number, what, Severity.LEAK)
        first += number
