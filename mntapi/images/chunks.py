"""Disks cut into chunks of any length, each packed, stored as it is, or zeros: DMG and cloop.

A chunk is unpacked whole and kept for a while; what it unpacks to is known beforehand, so a decompression bomb ends at that.
"""

from __future__ import annotations

import bz2
import lzma
import threading
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mntapi.blocks import check_range, merged, read, shifted, whole
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Invalid, Unsupported
from mntapi.types import Extent, ExtentKind, FileBlocks
from mntapi.units import MIB, SECTOR

MAX_CHUNK = 64 * MIB
"""Bytes of a packed chunk, before and after; what qemu allows (block/dmg.c, block/cloop.c)."""
CAPACITY = 32 * MIB
"""Bytes of unpacked chunks that are kept, besides the last one."""


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


UNPACKERS: dict[str, Callable[[], _Unpacker]] = {
    "zlib": zlib.decompressobj,
    "bzip2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=2 * MAX_CHUNK),
}
STORED = "stored"
ZEROS = "zeros"


class Chunk(NamedTuple):
    """``length`` bytes of the disk from ``start`` on, kept as ``packed`` bytes of the file at ``offset`` by ``method``.

    ``method`` is STORED, ZEROS, a key of ``UNPACKERS``, or the name of one there is no reader for.
    """

    start: int
    length: int
    method: str
    offset: int = 0
    packed: int = 0


class ChunkMap:
    """The disk. Owns ``file``. Chunks are in order; what none of them covers raises."""

    def __init__(self, file: FileBlocks, chunks: Sequence[Chunk], size: int) -> None:
        self.size = size
        self.sector_size = SECTOR
        self._file = file
        self._chunks = chunks
        self._starts = [chunk.start for chunk in chunks]
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closed = False
        end = 0
        for chunk in chunks:
            _check(chunk, end, size, file)
            end = chunk.start + chunk.length

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        if self._is_closed:
            raise Invalid("is closed", path=self._file.path)
        done = 0
        for chunk, start, count in self._pieces(offset, len(buffer)):
            part = buffer[done : done + count]
            if chunk.method == STORED:
                self._file.readinto(chunk.offset + start, part)
            elif chunk.method == ZEROS:
                fill(part)
            else:
                part[:] = self._unpacked(chunk)[start : start + count]
            done += count

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[Chunk, int, int]]:
        """The chunks a range touches: (chunk, offset in it, length in it), in bytes."""
        index = bisect_right(self._starts, offset) - 1
        while length:
            chunk = self._chunks[index] if 0 <= index < len(self._chunks) else None
            if chunk is None or not 0 <= offset - chunk.start < chunk.length:
                raise Corrupt(f"no chunk has byte {offset} of the disk", path=self._file.path, offset=0, reason="chunks")
            start = offset - chunk.start
            count = min(length, chunk.length - start)
            yield chunk, start, count
            offset += count
            length -= count
            index += 1

    def _unpacked(self, chunk: Chunk) -> bytes:
        with self._lock:
            content = self._cache.get(chunk.start)
            if content is not None:
                self._cache.move_to_end(chunk.start)
                return content
        content = self._unpack(chunk)
        with self._lock:
            self._cache[chunk.start] = content
            held = sum(map(len, self._cache.values()))
            while held > CAPACITY and len(self._cache) > 1:
                held -= len(self._cache.popitem(last=False)[1])
        return content

    def _unpack(self, chunk: Chunk) -> bytes:
        if chunk.method not in UNPACKERS:
            raise Unsupported(
                f"a chunk is packed by {chunk.method}, which is not supported",
                path=self._file.path,
                offset=chunk.offset,
                reason=chunk.method,
            )
        packed = read(self._file, chunk.offset, chunk.packed)
        try:
            content = UNPACKERS[chunk.method]().decompress(packed, chunk.length + 1)
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise self._corrupt(chunk, f"cannot be unpacked: {error}") from error
        if len(content) != chunk.length:
            raise self._corrupt(chunk, f"does not unpack to {chunk.length} bytes")
        return content

    def _corrupt(self, chunk: Chunk, what: str) -> Corrupt:
        return Corrupt(f"a chunk {what}", path=self._file.path, offset=chunk.offset, reason="chunks")

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for chunk, start, count in self._pieces(offset, length):
            if chunk.method == STORED:
                place = chunk.offset + start
                yield from shifted(self._file.extents(place, count), offset - place)
            else:
                yield from whole(offset, count, ExtentKind.ZERO if chunk.method == ZEROS else ExtentKind.DATA)
            offset += count

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
            self._is_closed = True
        self._file.close()


def _check(chunk: Chunk, end: int, size: int, file: FileBlocks) -> None:
    place = f"{chunk.length} bytes at {chunk.start}"
    if chunk.start < end or chunk.length <= 0 or chunk.start + chunk.length > size:
        raise Corrupt("a chunk is outside the disk or over another", path=file.path, offset=0, found=place, reason="chunks")
    if chunk.method == ZEROS:
        return
    if chunk.method == STORED and chunk.packed != chunk.length:
        raise Corrupt(
            "a stored chunk has two lengths",
            path=file.path,
            offset=chunk.offset,
            expected=chunk.length,
            found=chunk.packed,
            reason="chunks",
        )
    if chunk.offset + chunk.packed > file.size:
        raise Corrupt(
            "a chunk is outside the file",
            path=file.path,
            offset=chunk.offset,
            expected=f"{chunk.packed} bytes before {file.size}",
            reason="chunks",
        )
    if chunk.method != STORED and max(chunk.length, chunk.packed) > MAX_CHUNK:
        raise Corrupt(
            "a chunk is too long",
            path=file.path,
            offset=chunk.offset,
            expected=f"at most {MAX_CHUNK}",
            found=place,
            reason="chunks",
        )
