"""What the three formats share: unpacking from the start, and the image of what is inside."""

from __future__ import annotations

import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from mntapi.blocks import read, read_clipped
from mntapi.errors import MntapiError
from mntapi.images.formats import Chain
from mntapi.images.inside import Inside, depth_of, open_inside
from mntapi.images.spans import Damage, Source, Spans
from mntapi.types import FileBlocks, Image
from mntapi.units import KIB, MIB

INPUT = 256 * KIB
"""Bytes of the file that are read at a time."""
OUTPUT = MIB
"""Bytes that are unpacked at a time, at most."""
MAX_PADDING = MIB
"""Zeros between or behind streams."""
MAX_SPAN = 64 * MIB
"""Bytes of a block or frame that is unpacked whole, and roughly of what it is packed in."""
PARALLEL_SPAN = 4 * MIB
"""Spans up to this size are unpacked by several threads at once."""


class Damaged(Exception):
    """A stream ends here, too early. Of all that was unpacked, only the first ``good`` bytes can be trusted."""

    def __init__(self, good: int, damage: Damage) -> None:
        super().__init__(damage.what)
        self.good = good
        self.damage = damage


class Decompressor(Protocol):
    """The face of ``lzma.LZMADecompressor``."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpacked(file: FileBlocks, magic: bytes, start: Callable[[], Decompressor]) -> Iterator[bytes]:
    """All bytes of a file of streams, one after the other, in pieces of at most ``OUTPUT`` bytes.

    Args:
        file: the packed file.
        magic: how each stream begins.
        start: makes a decompressor for one stream.

    Raises:
        Damaged: a stream is cut off or damaged, or followed by something else.
    """
    position = total = 0
    while True:
        begin, first = position, total
        stream = start()
        while not stream.eof:
            packed = read_clipped(file, position, INPUT) if stream.needs_input else b""
            if stream.needs_input and not packed:
                raise Damaged(total, Damage("the stream is cut off", file.path, file.size, "truncated"))
            position += len(packed)
            try:
                content = stream.decompress(packed, OUTPUT)
            except (zlib.error, lzma.LZMAError) as error:
                raise Damaged(first, Damage(f"the stream is damaged: {error}", file.path, begin, "unpack")) from error
            total += len(content)
            if content:
                yield content
        position = _after_padding(file, position - len(stream.unused_data))
        if position == file.size:
            return
        if read_clipped(file, position, len(magic)) != magic:
            raise Damaged(total, Damage("the stream is followed by something else", file.path, position, "trailing"))


def regrouped(stream: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``, the last one shorter. What came before Damaged is given out before it is raised."""
    pending = bytearray()
    try:
        for content in stream:
            pending += content
            while len(pending) >= size:
                yield bytes(memoryview(pending)[:size])
                del pending[:size]
    except Damaged:
        if pending:
            yield bytes(pending)
        raise
    if pending:
        yield bytes(pending)


def _after_padding(file: FileBlocks, position: int) -> int:
    """The first byte that is not zero, or as far as padding may go."""
    limit = min(file.size, position + MAX_PADDING)
    while position < limit:
        piece = read_clipped(file, position, min(64 * KIB, limit - position))
        rest = piece.lstrip(b"\0")
        position += len(piece) - len(rest)
        if rest:
            break
    return position


class Cursor(io.RawIOBase):
    """A part of the file as the file object that a library wants; remembers the error that gets lost in there."""

    def __init__(self, file: FileBlocks, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._position = start
        self.error: MntapiError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (self._start, self._position, self._end)[whence]
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        room = max(0, self._end - self._position)
        count = min(size, room) if size >= 0 else room
        try:
            content = read(self._file, self._position, count)
        except MntapiError as error:
            self.error = error
            raise OSError(str(error)) from error
        self._position += count
        return content


def open_unpacked(
    source: Source, file: FileBlocks, chain: Chain, format_name: str, *, damage: Damage | None = None, serial: bool = False
) -> Image:
    """The disk inside, whatever its format.

    Args:
        source: the spans of what is unpacked.
        file: the packed file; the image owns it.
        chain: for the files that the disk names.
        format_name: ``gzip``, ``xz`` or ``zstd``.
        damage: where the stream ends too early.
        serial: as for ``Spans``.

    Raises:
        Corrupt: nothing of it can be unpacked.
        MntapiError: what is inside cannot be opened.
    """
    if damage is not None and source.size == 0:
        raise damage.error()
    spans = Spans(source, path=file.path, release=file.close, damage=damage, serial=serial)
    name = os.path.splitext(os.path.basename(file.path))[0]
    content = Inside(spans, f"{file.path}:{name}", depth_of(file) + 1)
    return open_inside(content, file, format_name, chain, known=source.size)
