"""Disks cut into blocks of one size, with a table that says where each block is: VHD, VHDX, VDI, QED, Parallels, Bochs.

A format supplies a ``Layout`` (its table, decoded); ``BlockMap`` does all the reading: the hot path, runs of neighbours, blocks
that are stored in part, and the fall through to a parent. ``Table`` is a table too large to load when the disk is opened.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

from mntapi.blocks import check_range, read, shifted
from mntapi.blocks.runs import Run, extents_of, read_runs
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Invalid
from mntapi.types import Blocks, Extent, FileBlocks
from mntapi.units import KIB, MIB

ABSENT = -1
"""Not stored in this file: the parent's bytes, or zeros where there is no parent."""
ZERO = -2
"""Zeros, whatever a parent holds."""

MAX_RESOLVED = 32 * KIB
"""Blocks whose place is remembered; about 200 bytes each."""
MAX_PARTIAL = 4 * MIB
"""Bytes of sector bitmaps that are remembered."""
PAGE = 4096
"""Table entries that are read and kept together."""
MAX_PAGES = 256
"""Pages of a table that are kept: 8 MiB of 8-byte entries."""


class Partial(NamedTuple):
    """A block of which some sectors are stored: the byte offset of its first sector, and ``0`` or ``1`` for each sector."""

    offset: int
    stored: bytes


class Layout(Protocol):
    """Where a format keeps its blocks."""

    def locate(self, index: int) -> int | Partial:
        """Byte offset of block ``index`` in the file (the block lies inside the file), or ABSENT, ZERO, or a Partial."""

    def next_present(self, index: int, end: int) -> int:
        """The first block at or after ``index`` that may be other than ABSENT; ``end`` if there is none before it.

        On a disk without a parent, blocks that are ZERO may be passed over too.
        """


_ReadInto = Callable[[int, memoryview], None]


def _zeros(_position: int, buffer: memoryview) -> None:
    fill(buffer)


class BlockMap:
    """The disk. Owns ``file`` and ``parent``.

    Args:
        file: what the layout's offsets are offsets of.
        layout: the block table.
        size: bytes of the disk.
        block_size: bytes of a block.
        sector_size: bytes of a sector of the disk.
        bitmap_unit: bytes that one flag of a ``Partial`` stands for.
        parent: what shows through where a block or sector is absent; a smaller parent ends in zeros.
    """

    def __init__(
        self,
        file: Blocks,
        layout: Layout,
        *,
        size: int,
        block_size: int,
        sector_size: int = 512,
        bitmap_unit: int = 512,
        parent: Blocks | None = None,
    ) -> None:
        self.size = size
        self.sector_size = sector_size
        self.block_size = block_size
        self._file = file
        self._layout = layout
        self._unit = bitmap_unit
        self._parent = parent
        self._file_readinto = file.readinto
        # Plain dicts: single operations on them are atomic, so readers need no lock; two may do the same work twice.
        self._resolved: dict[int, tuple[_ReadInto, int]] = {}
        self._partial: dict[int, Partial] = {}
        self._max_partial = max(4, MAX_PARTIAL // max(1, block_size // bitmap_unit))

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            check_range(self.size, offset, length)
        index, start = divmod(offset, self.block_size)
        if 0 < length <= self.block_size - start:
            place = self._resolved.get(index) or self._resolve(index)
            if place:
                place[0](place[1] + start, buffer)
                return
        read_runs(self._runs(offset, length), buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return extents_of(self._runs(offset, length), offset)

    def _resolve(self, index: int) -> tuple[_ReadInto, int] | None:
        """Who reads this block and where it starts there, through the whole chain; None if it takes several reads."""
        place = self._find(index)
        if place is not None:
            if len(self._resolved) >= MAX_RESOLVED:
                self._resolved.clear()
            self._resolved[index] = place
        return place

    def _find(self, index: int) -> tuple[_ReadInto, int] | None:
        start = index * self.block_size
        end = min(start + self.block_size, self.size)
        link = self
        while True:
            place = link._locate(index)
            if isinstance(place, Partial):
                return None
            if place >= 0:
                return link._file_readinto, place
            parent = link._parent
            if place == ZERO or parent is None:
                return _zeros, 0
            if end > parent.size:
                return None
            if not isinstance(parent, BlockMap) or parent.block_size != self.block_size:
                return parent.readinto, start
            link = parent

    def _locate(self, index: int) -> int | Partial:
        place: int | Partial | None = self._partial.get(index)
        if place is None:
            place = self._layout.locate(index)
            if isinstance(place, Partial):
                if len(self._partial) >= self._max_partial:
                    self._partial.clear()
                self._partial[index] = place
        return place

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        while offset < end:
            index, start = divmod(offset, self.block_size)
            place = self._locate(index)
            stop = min(end, offset - start + self.block_size)
            if isinstance(place, Partial):
                yield from self._partial_runs(place, offset, start, stop - offset)
            elif place >= 0:
                yield Run(self._file, place + start, stop - offset)
            elif place == ZERO and self._parent is not None:
                yield Run(None, 0, stop - offset)
            else:
                last = -(-end // self.block_size)
                stop = min(end, self._layout.next_present(index + 1, last) * self.block_size)
                yield from self._beneath(offset, stop - offset)
            offset = stop

    def _partial_runs(self, block: Partial, offset: int, start: int, length: int) -> Iterator[Run]:
        """The runs of ``length`` bytes of a block stored in part: ``start`` counts in the block, ``offset`` on the disk."""
        end = start + length
        while start < end:
            sector = start // self._unit
            is_stored = block.stored[sector : sector + 1] == b"1"
            change = block.stored.find(b"0" if is_stored else b"1", sector)
            stop = end if change < 0 else min(end, change * self._unit)
            if is_stored:
                yield Run(self._file, block.offset + start, stop - start)
            else:
                yield from self._beneath(offset, stop - start)
            offset += stop - start
            start = stop

    def _beneath(self, offset: int, length: int) -> Iterator[Run]:
        """What shows through where nothing is stored."""
        covered = min(length, max(0, self._parent.size - offset)) if self._parent else 0
        if covered:
            yield Run(self._parent, offset, covered)
        if length > covered:
            yield Run(None, 0, length - covered)

    def close(self) -> None:
        self._layout = _Closed()
        self._resolved.clear()
        self._partial.clear()
        self._file.close()
        if self._parent is not None:
            self._parent.close()


class _Closed:
    """The layout of a disk that was closed, so that its absent blocks raise too."""

    def locate(self, index: int) -> int | Partial:
        raise Invalid("is closed")

    def next_present(self, index: int, end: int) -> int:
        raise Invalid("is closed")


class Table:
    """An array of integers in a file, read a page at a time when first asked for. Borrows ``file``.

    Args:
        file: where it is.
        offset: bytes to its first entry; the whole array lies inside the file.
        count: entries.
        width: bytes of an entry.
        order: byte order of an entry.
        absent: the entry of a block that is not stored,
        mask: once the other bits of an entry are cleared.
        blank: a page of nothing but these byte values has no block that is stored.
    """

    def __init__(
        self,
        file: Blocks,
        offset: int,
        count: int,
        *,
        width: Literal[4, 8],
        order: Literal["little", "big"],
        absent: int,
        mask: int = -1,
        blank: bytes,
    ) -> None:
        self._file = file
        self._offset = offset
        self._count = count
        self._width = width
        self._swap = order != sys.byteorder
        self._absent = absent
        self._mask = mask
        self._blank = blank
        self._pages: dict[int, array[int]] = {}
        self._blank_pages: set[int] = set()

    def __getitem__(self, index: int) -> int:
        return (self._pages.get(index // PAGE) or self._load(index // PAGE))[index % PAGE]

    def offset_of(self, index: int) -> int:
        """Byte offset of an entry in the file, for messages."""
        return self._offset + index * self._width

    def next_present(self, index: int, end: int) -> int:
        """The first entry at or after ``index`` of a block that may be stored; ``end`` if there is none before it."""
        end = min(end, self._count)
        while index < end:
            number, first = divmod(index, PAGE)
            stop = min(end, (number + 1) * PAGE)
            page = None if number in self._blank_pages else self._pages.get(number) or self._load(number)
            if page is not None and number not in self._blank_pages:
                for at, entry in enumerate(page[first : first + stop - index], index):
                    if entry & self._mask != self._absent:
                        return at
            index = stop
        return end

    def _load(self, number: int) -> array[int]:
        first = number * PAGE
        content = read(self._file, self.offset_of(first), min(PAGE, self._count - first) * self._width)
        page = array("I" if self._width == 4 else "Q", content)
        if self._swap:
            page.byteswap()
        if not content.translate(None, self._blank):
            self._blank_pages.add(number)
        if len(self._pages) >= MAX_PAGES:
            self._pages.clear()
        self._pages[number] = page
        return page


class Window:
    """``length`` bytes of a file from ``start`` on: a disk stored as it is, beside a header or footer. Owns ``file``."""

    def __init__(self, file: FileBlocks, start: int, length: int, *, sector_size: int = 512) -> None:
        if start + length > file.size:
            raise Corrupt(
                "the file is shorter than its disk",
                path=file.path,
                offset=file.size,
                expected=f"at least {start + length} bytes",
                found=f"{file.size} bytes",
                reason="truncated",
            )
        self.size = length
        self.sector_size = sector_size
        self._file = file
        self._start = start

    def readinto(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            check_range(self.size, offset, len(buffer))
        self._file.readinto(self._start + offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return shifted(self._file.extents(self._start + offset, length), -self._start)

    def close(self) -> None:
        self._file.close()
