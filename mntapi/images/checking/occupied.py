"""Which parts of a file are taken, to find two structures that lie over each other."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.images.checking.fault import Fault, Severity

PAGE_BITS = 14
"""Units that one page of the map stands for, as a power of two."""
MAX_OPEN_PAGES = 32768
"""Pages that are taken in part, 2 KiB each; those that are taken whole cost next to nothing."""
MAX_PAGES = 1 << 19
_PAGE = 1 << PAGE_BITS
_WHOLE = (1 << _PAGE) - 1


class Occupied:
    """A bit for every ``unit`` bytes of a file, in pages made when they are needed.

    ``overflowed`` when there was no room for a page: what was taken after that may not have been compared.
    """

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._pages: dict[int, int] = {}
        self._open = 0
        self.overflowed = False

    def take(self, offset: int, length: int) -> bool:
        """Take a range of the file, in bytes; units it touches count as its own. False if some of it was taken before."""
        first, end = offset // self._unit, -(-(offset + length) // self._unit)
        free = True
        while first < end:
            number, start = first >> PAGE_BITS, first & (_PAGE - 1)
            stop = min(_PAGE, start + end - first)
            mask = (1 << stop) - (1 << start)
            page = self._pages.get(number, 0)
            free = free and not page & mask
            self._put(number, page, page | mask)
            first += stop - start
        return free

    def is_free(self, offset: int, length: int) -> bool:
        """Whether nothing of a range, in bytes, was taken."""
        first, end = offset // self._unit, -(-(offset + length) // self._unit)
        while first < end:
            number, start = first >> PAGE_BITS, first & (_PAGE - 1)
            stop = min(_PAGE, start + end - first)
            if self._pages.get(number, 0) & ((1 << stop) - (1 << start)):
                return False
            first += stop - start
        return True

    def _put(self, number: int, old: int, new: int) -> None:
        is_open = new != _WHOLE
        self._open += is_open - (0 < old < _WHOLE)
        if old == 0 and (self._open > MAX_OPEN_PAGES or len(self._pages) >= MAX_PAGES):
            self._open -= is_open
            self.overflowed = True
            return
        self._pages[number] = new if is_open else _WHOLE  # one object for all pages that are whole

    def gaps(self, end: int) -> Iterator[tuple[int, int]]:
        """What was never taken before byte ``end``: (offset, length) in whole units, ascending."""
        at, last = 0, end // self._unit
        for number in sorted(self._pages):
            for start, stop in _runs(self._pages[number]):
                first = (number << PAGE_BITS) + start
                if at < min(first, last):
                    yield at * self._unit, (min(first, last) - at) * self._unit
                at = max(at, (number << PAGE_BITS) + stop)
        if at < last:
            yield at * self._unit, (last - at) * self._unit

    def note(self, path: str) -> Iterator[Fault]:
        """Says so if not everything was compared."""
        if self.overflowed:
            yield Fault(path, None, "the file is too scattered: not all of it was searched for overlaps", Severity.NOTE)


def _runs(page: int) -> Iterator[tuple[int, int]]:
    """The runs of ones in a page: (first, end)."""
    at = 0
    while page:
        skipped = (page & -page).bit_length() - 1
        page >>= skipped
        ones = (~page & (page + 1)).bit_length() - 1
        yield at + skipped, at + skipped + ones
        page >>= ones
        at += skipped + ones
