"""How many references each cluster of a file has: what reference counts are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

PAGE = 4096
"""Clusters that one page of the map stands for, a byte each."""
MAX_OPEN_PAGES = 24576
"""Pages other than those of nothing but ones, which are kept once: 96 MiB."""
MAX_PAGES = 1 << 19
MOST = 255
"""Counts stop here: it stands for itself and all that is more."""
_NONE = bytes(PAGE)
_ONES = b"\1" * PAGE


class Counts:
    """References by cluster number. ``overflowed`` when there was no room for a page: the counts are then not complete."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray | bytes] = {}
        self._open = 0
        self.overflowed = False

    def add(self, first: int, number: int = 1, times: int = 1) -> None:
        """``times`` more references to each of ``number`` clusters."""
        end = first + number
        while first < end:
            index, start = divmod(first, PAGE)
            stop = min(PAGE, start + end - first)
            page = self._writable(index)
            if page is not None:
                page[start:stop] = page[start:stop].translate(_more(min(times, MOST)))
                if page == _ONES:
                    self._pages[index] = _ONES
                    self._open -= 1
            first += stop - start

    def _writable(self, index: int) -> bytearray | None:
        page = self._pages.get(index)
        if isinstance(page, bytearray):
            return page
        if self._open >= MAX_OPEN_PAGES or (page is None and len(self._pages) >= MAX_PAGES):
            self.overflowed = True
            return None
        self._open += 1
        self._pages[index] = made = bytearray(page or _NONE)
        return made

    def page(self, index: int) -> bytes:
        """The counts of ``PAGE`` clusters from ``index * PAGE`` on."""
        return bytes(self._pages.get(index, _NONE))

    def any(self, first: int, number: int) -> bool:
        """Whether one of these clusters has a reference."""
        end = first + number
        while first < end:
            index, start = divmod(first, PAGE)
            stop = min(PAGE, start + end - first)
            page = self._pages.get(index)
            if page is not None and page.count(0, start, stop) < stop - start:
                return True
            first += stop - start
        return False

    def pages(self) -> list[int]:
        """The indexes of pages with references, ascending."""
        return sorted(self._pages)

    def items(self) -> Iterator[tuple[int, int]]:
        """Clusters with references and how many they have, ascending."""
        for index in self.pages():
            for at, count in enumerate(self.page(index), index * PAGE):
                if count:
                    yield at, count


@lru_cache(maxsize=MOST)
def _more(times: int) -> bytes:
    """For ``bytes.translate``: every count that much higher, at most ``MOST``."""
    return bytes(min(MOST, count + times) for count in range(256))
