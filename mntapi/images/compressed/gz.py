"""gzip. A small file goes through ``store.py``. For a large one the package ``indexed_gzip`` makes points from which it can
be unpacked (32 KiB of history each), and the points are kept.

That package does not compare checksums when it reads, and takes a stream that is cut off for one that ends. So the file is
unpacked a second time by zlib when the points are made, which compares all checksums, and the CRC-32 of every span is kept
with the points: each span that is read later is compared with it.

Source: RFC 1952; zlib's ``examples/zran.c`` for the method.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import BinaryIO, Protocol, cast

from mntapi.errors import Corrupt, Unsupported
from mntapi.images.compressed import cache
from mntapi.images.compressed.store import open_stored
from mntapi.images.compressed.stream import Cursor, Damaged, open_unpacked, regrouped, unpacked
from mntapi.images.formats import Chain
from mntapi.images.spans import Damage
from mntapi.types import FileBlocks, Image
from mntapi.units import MIB


class _Reader(Protocol):
    """What is used of ``indexed_gzip.IndexedGzipFile``."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...
    def export_index(self, *, fileobj: BinaryIO) -> None: ...
    def import_index(self, *, fileobj: BinaryIO) -> None: ...


class _Library(Protocol):
    """What is used of the package."""

    def IndexedGzipFile(self, *, fileobj: object, spacing: int, buffer_size: int) -> _Reader: ...  # noqa: N802


try:  # here and not where it is used: a confined worker cannot import any more
    _library: _Library | None = cast(_Library, import_module("indexed_gzip"))
except ImportError:
    _library = None

FORMAT = "gzip"
MAGIC = b"\x1f\x8b\x08"
SMALL = 64 * MIB
"""Bytes of a file up to which it goes through ``store.py``."""
SPAN = MIB
"""Bytes of the disk in a span."""
MAX_POINTS = 3072
"""Points: 96 MiB of history. A larger disk has them further apart."""
MIN_SPACING = MIB
MAX_HELD = 64 * MIB
"""Bytes of packed spans before the place where a stream is damaged."""
MAX_UNPACKED = 1 << 46
"""Bytes of a disk: 64 TiB."""

_KIND = "points"
_HEADER = struct.Struct("<QQI")
_HINT = "pip install indexed-gzip lets large gzip files be read in place"


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the disk inside a gzip file.

    Raises:
        Corrupt: the first member is damaged.
        Unsupported: it is large and ``indexed_gzip`` is not installed.
        MntapiError: what is inside cannot be opened.
    """
    if file.size <= SMALL or _library is None:
        return open_stored(file, chain, FORMAT, lambda: _stream(file), _HINT)
    name = cache.name_for(file, _KIND)
    kept = cache.load(name, chain.opener) if name else None
    points = Points.load(file, _library, kept) if kept else None
    if points is None:
        points = make_points(file, _library)
        if name and points.damage is None:
            cache.save(name, points.dump())
    return open_unpacked(points, file, chain, FORMAT, damage=points.damage, serial=True)


class _Inflater:
    """A gzip member behind the face of ``lzma.LZMADecompressor``; zlib compares its checksum at the end."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._is_full and not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        content = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self._is_full = len(content) == max_length
        return content


def _stream(file: FileBlocks) -> Iterator[bytes]:
    return unpacked(file, MAGIC, _Inflater)


class Points:
    """A large gzip file as a ``Source`` of spans.

    ``damage`` says where the stream ends too early. The package looks ahead, and cannot read the spans before that place;
    those are held in memory. One thread at a time.
    """

    def __init__(self, file: FileBlocks, library: _Library, spacing: int) -> None:
        self.size = 0
        self.damage: Damage | None = None
        self._path = file.path
        self._spacing = spacing
        self._checksums = array("I")
        self._held: dict[int, bytes] = {}
        self._cursor = Cursor(file, 0, file.size)
        self._reader = library.IndexedGzipFile(fileobj=self._cursor, spacing=spacing, buffer_size=1)

    @property
    def starts(self) -> Sequence[int]:
        return range(0, self.size, SPAN)

    def is_zero(self, index: int) -> bool:
        return False

    def unpack(self, index: int) -> bytes:
        """The bytes of a span, compared with the checksum of what zlib unpacked."""
        if index in self._held:
            return zlib.decompress(self._held[index])
        content = self._read(index)
        if zlib.crc32(content) != self._checksums[index]:
            raise Corrupt(
                f"byte {index * SPAN} of the disk and what follows unpack to something else than before",
                path=self._path,
                reason="unpack",
            )
        return content

    def _read(self, index: int) -> bytes:
        self._cursor.error = None
        try:
            self._reader.seek(index * SPAN)
            return self._reader.read(min(SPAN, self.size - index * SPAN))
        except (OSError, ValueError) as error:
            raise self._cursor.error or Corrupt(
                f"cannot be unpacked at byte {index * SPAN} of the disk: {error}", path=self._path, reason="unpack"
            ) from error

    def take(self, content: bytes) -> None:
        """The next span, as zlib unpacked it; it makes the package go over the same bytes and set its points."""
        index = len(self._checksums)
        self._checksums.append(zlib.crc32(content))
        self.size += len(content)
        if self._held or not self._is_readable(index):
            self._held[index] = zlib.compress(content, 1)
            if sum(map(len, self._held.values())) > MAX_HELD:
                raise Unsupported(
                    "is damaged, and too large to be read in place", path=self._path, hint="gzip -dc gets what is left",
                    reason="unpack",
                )  # fmt: skip

    def _is_readable(self, index: int) -> bool:
        try:
            return zlib.crc32(self._read(index)) == self._checksums[index]
        except Corrupt:
            if self._cursor.error is not None:
                raise
            return False

    def cut(self, good: int, damage: Damage) -> None:
        """Forget all but the first ``good`` bytes."""
        whole, length = divmod(good, SPAN)
        last = self.unpack(whole)[:length] if length else b""
        self._held = {index: packed for index, packed in self._held.items() if index < whole}
        if last:
            self._held[whole] = zlib.compress(last, 1)
        del self._checksums[whole:]
        self.size, self.damage = good, damage

    def check(self) -> None:
        """The stream is whole; so the package must have been able to read it. Raises Unsupported if not."""
        if self._held:
            raise Unsupported("indexed_gzip cannot read it, and zlib can", path=self._path, reason="indexed-gzip")

    def dump(self) -> bytes:
        """The points and checksums as bytes."""
        checksums = array("I", self._checksums)
        if sys.byteorder == "big":
            checksums.byteswap()
        index = io.BytesIO()
        self._reader.export_index(fileobj=index)
        return _HEADER.pack(self.size, self._spacing, len(checksums)) + checksums.tobytes() + index.getvalue()

    @classmethod
    def load(cls, file: FileBlocks, library: _Library, raw: bytes) -> Points | None:
        """The points that ``dump`` wrote; None if they are not."""
        if len(raw) < _HEADER.size:
            return None
        size, spacing, count = _HEADER.unpack_from(raw)
        end = _HEADER.size + 4 * count
        if count != -(-size // SPAN) or end > len(raw):
            return None
        points = cls(file, library, spacing)
        points.size = size
        points._checksums = array("I", raw[_HEADER.size : end])
        if sys.byteorder == "big":
            points._checksums.byteswap()
        try:
            points._reader.import_index(fileobj=io.BytesIO(raw[end:]))
        except (OSError, ValueError):
            return None  # made by another version of the package
        return points


def make_points(file: FileBlocks, library: _Library) -> Points:
    """Go over the whole file; again with points further apart when there are too many.

    Raises:
        Unsupported: the disk is larger than any.
    """
    spacing = max(MIN_SPACING, 4 * file.size // MAX_POINTS)
    while (points := _pass(file, library, spacing)) is None:
        spacing *= 4
    return points


def _pass(file: FileBlocks, library: _Library, spacing: int) -> Points | None:
    points = Points(file, library, spacing)
    try:
        for content in regrouped(_stream(file), SPAN):
            if points.size > MAX_UNPACKED:
                raise Unsupported("unpacks to more than any disk", path=file.path, expected=MAX_UNPACKED, reason="bomb")
            if points.size > spacing * MAX_POINTS:
                return None
            points.take(content)
    except Damaged as end:
        points.cut(end.good, end.damage)
    else:
        points.check()
    return points
