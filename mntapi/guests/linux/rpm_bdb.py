"""RPM's Berkeley DB ``Packages`` (systems before 2020): a hash table of headers by number.

The table's pages are read in the order of the file, not by hashing: all is wanted. Long values are chains of pages.

Source: Berkeley DB's dbinc/db_page.h (``HMETA33``, ``PAGE``, ``HOFFPAGE``), hash versions 8 to 10, that is of db 4.2 and later;
the description of the same in the README of snyk/rpm-parser. The file is in the byte order of the machine that made it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, Unsupported
from mntapi.guests.linux.rpm import MAX_HEADER, MAX_HEADERS
from mntapi.types import Blocks

MAX_PAGES = 131_072
"""Pages of a database: 512 MiB at their usual size of 4096 bytes."""

_META = "12xIII2B6xI"
_META_SIZE = 512
_HASH_MAGIC = 0x061561
_VERSIONS = range(8, 11)
_PAGE_SIZES = tuple(1 << bits for bits in range(9, 17))
_PAGE = "16xI2HxB"
_PAGE_SIZE, _KIND_AT = 26, 25
_OVERFLOW, _HASH_META, _HASH_PAGES = 7, 8, (2, 13)
_KEY_OR_DATA, _OFF_PAGE = 1, 3
_OFF_PAGE_ITEM = "4xII"


@dataclass(frozen=True, slots=True)
class _Page:
    """A page: ``free`` is where its items begin, or how many bytes of a long value it has."""

    number: int
    raw: bytes
    following: int
    entries: int
    free: int
    kind: int


def bdb_headers(content: Blocks, path: str) -> Iterator[tuple[int, bytes]]:
    """Every package's number and header.

    Raises:
        Corrupt: no such database, or its numbers contradict one another.
        Unsupported: another kind or version, or more pages than ``MAX_PAGES``.
        MntapiError: it cannot be read.
    """
    for count, (number, header) in enumerate(_Database(content, path).values()):
        if count > MAX_HEADERS:
            raise Unsupported("too many packages", path=path, expected=f"at most {MAX_HEADERS}", reason="rpm-database")
        if number:
            yield number, header


class _Database:
    """The pages of one file. Every page is used once, so that chains that meet or turn round are damage."""

    def __init__(self, content: Blocks, path: str) -> None:
        self._file = Cache(content)
        self._path = path
        raw = read(self._file, 0, min(content.size, _META_SIZE))
        self._order = "<" if raw[12:16] == _HASH_MAGIC.to_bytes(4, "little") else ">"
        if len(raw) < _META_SIZE or raw[12:16] not in (_HASH_MAGIC.to_bytes(4, order) for order in ("little", "big")):
            raise self._damaged("no hash table of Berkeley DB", 12)
        _, version, self._size, encryption, kind, last = struct.unpack_from(self._order + _META, raw)
        if version not in _VERSIONS or encryption or raw[26]:
            found = f"version {version}, encryption {encryption}, flags {raw[26]}"
            raise Unsupported("a Berkeley DB of this kind", path=path, offset=16, found=found, reason="rpm-database")
        if kind != _HASH_META or self._size not in _PAGE_SIZES:
            raise self._damaged("a Berkeley DB whose first page is damaged", 20)
        self._count = min(last + 1, content.size // self._size)
        if self._count > MAX_PAGES:
            raise Unsupported(
                "too many pages", path=path, expected=f"at most {MAX_PAGES}", found=self._count, reason="rpm-database"
            )
        self._left = self._count

    def values(self) -> Iterator[tuple[int, bytes]]:
        """What the table holds by number. At 0 RPM keeps the next number."""
        for number in range(1, self._count):
            if self._file.read(number * self._size + _KIND_AT, 1)[0] not in _HASH_PAGES:
                continue  # most pages: those of long values
            page = self._page(number)
            items = self._items(page)
            if len(items) % 2:
                raise self._damaged("a key without a value", number * self._size)
            for key, item in zip(items[::2], items[1::2], strict=True):
                if len(key) != 5 or key[0] != _KEY_OR_DATA:
                    raise self._damaged("a key that is no number", number * self._size)
                yield int.from_bytes(key[1:], "little" if self._order == "<" else "big"), self._value(item, page)

    def _page(self, number: int) -> _Page:
        if not 0 < number < self._count:
            raise self._damaged("a page outside the database", number * self._size)
        raw = read(self._file, number * self._size, self._size)
        return _Page(number, raw, *struct.unpack_from(self._order + _PAGE, raw))

    def _items(self, page: _Page) -> list[bytes]:
        """They are stored from the end of the page on downwards."""
        start = _PAGE_SIZE + 2 * page.entries
        if start > self._size:
            raise self._damaged("a page with more items than it can hold", page.number * self._size + 20)
        places = [self._size, *struct.unpack_from(f"{self._order}{page.entries}H", page.raw, _PAGE_SIZE)]
        if any(not start <= begin < end for end, begin in pairwise(places)):
            raise self._damaged("items that overlap", page.number * self._size + _PAGE_SIZE)
        return [page.raw[begin:end] for end, begin in pairwise(places)]

    def _value(self, item: bytes, page: _Page) -> bytes:
        if item[0] == _KEY_OR_DATA:
            return item[1:]
        if item[0] != _OFF_PAGE or len(item) != 12:
            raise self._damaged("a value of a kind that RPM does not store", page.number * self._size)
        number, length = struct.unpack_from(self._order + _OFF_PAGE_ITEM, item)
        if length > MAX_HEADER:
            raise Unsupported(
                "a package is too large",
                path=self._path,
                offset=page.number * self._size,
                expected=f"at most {MAX_HEADER} bytes",
                found=length,
                reason="rpm-database",
            )
        return self._long_value(number, length)

    def _long_value(self, number: int, length: int) -> bytes:
        pieces, missing = [], length
        while missing > 0:
            self._left -= 1
            page = self._page(number)
            if page.kind != _OVERFLOW or not 0 < page.free <= min(missing, self._size - _PAGE_SIZE) or self._left < 0:
                raise self._damaged("a chain of pages that is not what its package says", number * self._size)
            pieces.append(page.raw[_PAGE_SIZE : _PAGE_SIZE + page.free])
            missing -= page.free
            number = page.following
        return b"".join(pieces)

    def _damaged(self, what: str, offset: int) -> Corrupt:
        return Corrupt(what, path=self._path, offset=offset, reason="rpm-database")
