"""xz. A file written in blocks (``xz --block-size``, ``xz -T``, pixz) has an index at its end and is read block by block;
any other is one block, for which see ``store.py``. A file that lost its end still has its blocks' sizes in their headers
if it was written by several threads.

Source: The .xz File Format 1.2.1, sections 2 (stream), 3 (block), 4 (index).
"""

from __future__ import annotations

import lzma
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt
from mntapi.images.compressed.store import open_stored
from mntapi.images.compressed.stream import MAX_PADDING, MAX_SPAN, PARALLEL_SPAN, open_unpacked, unpacked
from mntapi.images.formats import Chain
from mntapi.images.spans import Damage
from mntapi.types import FileBlocks, Image
from mntapi.units import KIB, MIB

FORMAT = "xz"
MAGIC = b"\xfd7zXZ\0"
MAX_BLOCKS = 1 << 20
MAX_STREAMS = 1 << 16
MAX_DISK = 1 << 50
"""Bytes that an index may claim in all: 1 PiB."""
MEMORY = 160 * MIB
"""Bytes liblzma may use; the strongest preset needs 65 MiB."""

_FOOTER_MAGIC = b"YZ"
_HEADER_SIZE = 12
_CHECK_SIZES = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
_HINT = "xz -dc OLD | xz --block-size=16MiB > NEW makes it readable in place"


@dataclass(slots=True)
class Blocks:
    """The blocks of a file as a ``Source`` of spans; the arrays have an entry for each.

    ``offsets`` and ``packed`` say where a block is in the file; ``checks`` is its stream's kind of check.
    """

    file: FileBlocks
    size: int = 0
    starts: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    packed: array[int] = field(default_factory=lambda: array("Q"))
    checks: bytearray = field(default_factory=bytearray)

    def add(self, offset: int, packed: int, size: int, check: int) -> None:
        """Append a block of ``size`` bytes of the disk, in ``packed`` bytes of the file with its padding."""
        if not size:
            return
        self.starts.append(self.size)
        self.offsets.append(offset)
        self.packed.append(packed)
        self.checks.append(check)
        self.size += size

    def largest(self) -> int:
        """Bytes of the largest block."""
        ends = [*self.starts[1:], self.size]
        return max((end - start for start, end in zip(self.starts, ends, strict=False)), default=0)

    def is_zero(self, index: int) -> bool:
        return False

    def unpack(self, index: int) -> bytes:
        """The block, its check compared by liblzma."""
        offset, packed = self.offsets[index], self.packed[index]
        size = (self.starts[index + 1] if index + 1 < len(self.starts) else self.size) - self.starts[index]
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
        try:
            content = stream.decompress(_header(self.checks[index]) + read(self.file, offset, packed), size + 1)
        except lzma.LZMAError as error:
            raise Corrupt(f"a block is damaged: {error}", path=self.file.path, offset=offset, reason="unpack") from error
        if not stream.needs_input:
            raise Corrupt("a block is longer than the index says", path=self.file.path, offset=offset, reason="unpack")
        return content


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the disk inside an xz file.

    Raises:
        Corrupt: the index is damaged.
        Unsupported: it has no blocks, and is too large for ``store.py``.
        MntapiError: what is inside cannot be opened.
    """
    blocks, damage = _blocks(file)
    if blocks is None or blocks.largest() > MAX_SPAN or max(blocks.packed, default=0) > MAX_SPAN + MAX_SPAN // 64:
        return open_stored(file, chain, FORMAT, lambda: _stream(file), _HINT)
    return open_unpacked(blocks, file, chain, FORMAT, damage=damage, serial=blocks.largest() > PARALLEL_SPAN)


def _stream(file: FileBlocks) -> Iterator[bytes]:
    return unpacked(file, MAGIC, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY))


def _blocks(file: FileBlocks) -> tuple[Blocks | None, Damage | None]:
    """The blocks by the index; by their headers where the end is missing; None where there are no sizes, either."""
    end = _before_padding(file)
    if end >= 2 * _HEADER_SIZE and read(file, end - 2, 2) == _FOOTER_MAGIC:
        return by_index(file, end), None
    return by_headers(file)


def by_index(file: FileBlocks, end: int) -> Blocks:
    """All blocks of all streams, read from the indexes backwards; ``end`` is where the last stream ends.

    Raises:
        Corrupt: an index or a header is damaged, or they do not fit together.
    """
    streams: list[tuple[int, int, list[tuple[int, int]]]] = []
    count = 0
    while end:
        start, check, records = _last_stream(file, end)
        streams.append((start, check, records))
        count += len(records)
        if count > MAX_BLOCKS or len(streams) > MAX_STREAMS:
            raise _corrupt(file, start, f"more than {MAX_BLOCKS} blocks or {MAX_STREAMS} streams")
        end = _before_padding(file, start)
    blocks = Blocks(file)
    for start, check, records in reversed(streams):
        offset = start + _HEADER_SIZE
        for unpadded, size in records:
            blocks.add(offset, _padded(unpadded), size, check)
            offset += _padded(unpadded)
        if blocks.size > MAX_DISK:
            raise _corrupt(file, start, f"an index that claims more than {MAX_DISK} bytes")
    return blocks


def _last_stream(file: FileBlocks, end: int) -> tuple[int, int, list[tuple[int, int]]]:
    """The stream that ends at ``end``: where it starts, its check, and (packed bytes without padding, bytes) of each block."""
    if end < 2 * _HEADER_SIZE:
        raise _corrupt(file, 0, "no room for a stream")
    footer = read(file, end - _HEADER_SIZE, _HEADER_SIZE)
    if footer[10:] != _FOOTER_MAGIC or zlib.crc32(footer[4:10]) != int.from_bytes(footer[:4], "little"):
        raise _corrupt(file, end - _HEADER_SIZE, "a damaged stream footer")
    index_size = (int.from_bytes(footer[4:8], "little") + 1) * 4
    index_at = end - _HEADER_SIZE - index_size
    if index_at < _HEADER_SIZE or index_size > 32 * MAX_BLOCKS:
        raise _corrupt(file, end - _HEADER_SIZE, f"an index of {index_size} bytes")
    records = _records(file, index_at, read(file, index_at, index_size))
    start = index_at - sum(_padded(unpadded) for unpadded, _ in records) - _HEADER_SIZE
    if start < 0 or read(file, start, _HEADER_SIZE) != _header(footer[9]) or footer[8]:
        raise _corrupt(file, index_at, "an index that does not fit the stream")
    return start, footer[9], records


def _records(file: FileBlocks, offset: int, raw: bytes) -> list[tuple[int, int]]:
    if raw[0] != 0 or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise _corrupt(file, offset, "a damaged index")
    raw = raw[:-4]
    try:
        count, position = _integer(raw, 1)
        if count > MAX_BLOCKS:
            raise _corrupt(file, offset, f"{count} blocks")
        records = []
        for _ in range(count):
            unpadded, position = _integer(raw, position)
            size, position = _integer(raw, position)
            records.append((unpadded, size))
    except IndexError as error:
        raise _corrupt(file, offset, "an index that is too short") from error
    return records


def by_headers(file: FileBlocks) -> tuple[Blocks | None, Damage | None]:
    """The whole blocks of a file whose end is missing, if their headers have sizes, and where it is cut off."""
    header = read_clipped(file, 0, _HEADER_SIZE)
    if len(header) < _HEADER_SIZE or header != _header(header[7]):
        return None, None
    blocks, position = Blocks(file), _HEADER_SIZE
    while position < file.size:
        sizes = _block_sizes(read_clipped(file, position, KIB))
        if sizes is None and len(blocks.starts) == 0:
            return None, None
        packed = 0 if sizes is None else _padded(sizes[0] + _CHECK_SIZES[header[7]])
        if sizes is None or position + packed > file.size or len(blocks.starts) >= MAX_BLOCKS:
            break
        blocks.add(position, packed, sizes[1], header[7])
        position += packed
    return blocks, Damage("the stream is cut off", file.path, position, "truncated")


def _block_sizes(raw: bytes) -> tuple[int, int] | None:
    """From a block's header: its bytes with header but without check and padding, and what it unpacks to."""
    length = (raw[0] + 1) * 4 if raw else 0
    if not raw or raw[0] == 0 or len(raw) < length or raw[1] & 0xC0 != 0xC0:
        return None
    if zlib.crc32(raw[: length - 4]) != int.from_bytes(raw[length - 4 : length], "little"):
        return None
    try:
        packed, position = _integer(raw[: length - 4], 2)
        size, _ = _integer(raw[: length - 4], position)
    except IndexError:
        return None
    return length + packed, size


def _integer(raw: Sequence[int], position: int) -> tuple[int, int]:
    """A multibyte integer and the position behind it. Raises IndexError where it does not end."""
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 56:
            raise IndexError


def _header(check: int) -> bytes:
    """A stream header for a kind of check."""
    flags = bytes((0, check))
    return MAGIC + flags + zlib.crc32(flags).to_bytes(4, "little")


def _padded(size: int) -> int:
    return (size + 3) & ~3


def _before_padding(file: FileBlocks, end: int | None = None) -> int:
    """Where the stream before ``end`` ends: padding is zeros, in steps of 4 bytes."""
    end = file.size if end is None else end
    limit = max(0, end - MAX_PADDING)
    while end > limit:
        piece = read(file, max(limit, end - 64 * KIB), end - max(limit, end - 64 * KIB))
        zeros = (len(piece) - len(piece.rstrip(b"\0"))) & ~3
        end -= zeros
        if zeros < len(piece):
            break
    return end


def _corrupt(file: FileBlocks, offset: int, found: str) -> Corrupt:
    return Corrupt("the xz file is damaged", path=file.path, offset=offset, found=found, reason="xz-index")
