"""The volume with changes to it in memory: a layer below the reader of which nothing is ever written.

Unlike ``mntapi.blocks.memory_overlay`` it borrows the volume, and has small pages: the changes of a log are a few hundred bytes
each, far apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from mntapi.blocks import check_range, merged, read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import KIB, MIB

PAGE = 4 * KIB
MAX_PAGES = 128 * MIB // PAGE


class Changed:
    """A volume with changes to it. Borrows the volume; thread-safe once no more is changed."""

    def __init__(self, volume: Blocks) -> None:
        self._volume = volume
        self._pages: dict[int, bytearray] = {}
        self._order: list[int] = []
        """The pages' numbers, ascending; made when ``finish`` is called."""
        self.size = volume.size
        self.sector_size = volume.sector_size

    def write(self, offset: int, content: bytes | bytearray) -> None:
        """Change the bytes at ``offset``.

        Raises:
            Corrupt: the volume ends before.
            Unsupported: there were too many changes before.
        """
        if offset < 0 or offset + len(content) > self.size:
            raise Corrupt("a change outside the volume", offset=offset, expected=f"at most {self.size}")
        number, at = divmod(offset, PAGE)
        if at + len(content) <= PAGE:
            self._page(number)[at : at + len(content)] = content
            return
        done = 0
        while done < len(content):
            number, at = divmod(offset + done, PAGE)
            count = min(len(content) - done, PAGE - at)
            self._page(number)[at : at + count] = content[done : done + count]
            done += count

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= MAX_PAGES:
                raise Unsupported("too much is changed", expected=f"at most {MAX_PAGES} pages", reason="log-size")
            page = self._pages[number] = bytearray(read_clipped(self._volume, number * PAGE, PAGE))
        return page

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset`` as they are now. Raises Corrupt where the volume ends before."""
        if offset < 0 or offset + length > self.size:
            raise Corrupt("a change outside the volume", offset=offset, expected=f"at most {self.size}")
        number, at = divmod(offset, PAGE)
        if at + length <= PAGE and number in self._pages:
            return bytes(self._pages[number][at : at + length])
        found = b""
        while len(found) < length:
            number, at = divmod(offset + len(found), PAGE)
            count = min(length - len(found), PAGE - at)
            page = self._pages.get(number)
            found += page[at : at + count] if page is not None else read(self._volume, offset + len(found), count)
        return found

    def finish(self) -> None:
        """From now on nothing is changed, and the layer can be read as a volume."""
        self._order = sorted(self._pages)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._volume.readinto(offset, buffer)
        end = offset + len(buffer)
        for number in self._within(offset, end):
            start = number * PAGE
            content = self._pages[number][max(0, offset - start) : end - start]
            at = max(start, offset) - offset
            buffer[at : at + len(content)] = content

    def _within(self, offset: int, end: int) -> list[int]:
        """The changed pages that these bytes touch."""
        first = bisect_left(self._order, offset // PAGE)
        return self._order[first : bisect_left(self._order, -(-end // PAGE), first)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, at: int, end: int) -> Iterator[Extent]:
        for number in self._within(at, end):
            start, stop = max(at, number * PAGE), min(end, (number + 1) * PAGE)
            yield from self._volume.extents(at, start - at)
            yield Extent(start, stop - start, ExtentKind.DATA)
            at = stop
        yield from self._volume.extents(at, end - at)

    def close(self) -> None:
        """Nothing to release: the volume belongs to somebody else."""
