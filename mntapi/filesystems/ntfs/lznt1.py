"""LZNT1-compressed streams.

A stream is compressed in units of (usually) 16 clusters. A unit without clusters is zeros, one with all of them is stored as it
is, and one that ends in a sparse run is compressed: chunks of at most 4096 bytes, each with a header.

Source: [MS-XCA] 2.5 "LZNT1 Algorithm Details"; Linux-NTFS project documentation, "Compression".
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

from mntapi.blocks import check_range, merged, read
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.ntfs.attribute import COMPRESSED, Stream
from mntapi.filesystems.runs import RunList
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import MIB

CHUNK = 4096
MAX_UNIT = MIB
"""Bytes of a unit; Windows makes 64 KiB."""
KEPT_UNITS = 8
"""Decompressed units kept per open file, for reads smaller than a unit."""
_LZNT1 = 1
_HEADER = struct.Struct("<H")


class Lznt1:
    """The bytes of a compressed stream. Thread-safe; borrows the volume.

    Raises:
        Unsupported: compressed by another method.
        Corrupt: the size of its units is impossible.
    """

    def __init__(self, volume: Blocks, stream: Stream, cluster_size: int) -> None:
        if stream.flags & COMPRESSED != _LZNT1 or stream.runs is None:
            raise Unsupported("compressed by an unknown method", found=hex(stream.flags), reason="ntfs-compression")
        unit = cluster_size << min(stream.compression_unit, 31)
        if not CHUNK <= unit <= MAX_UNIT:
            raise Corrupt("the compression unit is impossible", expected=f"{CHUNK} to {MAX_UNIT} bytes", found=unit)
        self._volume = volume
        self._runs: RunList = stream.runs
        self._unit = unit
        self._valid = min(stream.initialised, stream.size)
        self.size = stream.size
        self.sector_size = volume.sector_size
        self._units: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        written = max(0, min(length, self._valid - offset))
        done = 0
        while done < written:
            number, start = divmod(offset + done, self._unit)
            count = min(written - done, self._unit - start)
            buffer[done : done + count] = self._decoded(number)[start : start + count]
            done += count
        fill(buffer[written:])

    def _decoded(self, number: int) -> bytes:
        with self._lock:
            content = self._units.get(number)
            if content is not None:
                self._units.move_to_end(number)
                return content
        content = self._load(number)
        with self._lock:
            self._units[number] = content
            while len(self._units) > KEPT_UNITS:
                self._units.popitem(last=False)
        return content

    def _load(self, number: int) -> bytes:
        start = number * self._unit
        length = min(self._unit, self._runs.size - start)
        pieces = list(self._runs.pieces(start, length))
        stored = b"".join(read(self._volume, source, count) for count, source in pieces if source is not None)
        if not stored:
            return bytes(length)
        if len(stored) == length:
            return stored
        if any(later[1] is not None for piece, later in pairwise(pieces) if piece[1] is None):
            raise Corrupt("a compression unit with a hole inside", offset=start)
        at = next(source for _, source in pieces if source is not None)
        return decompress(stored, length, at)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        """By units: one without clusters is zeros."""
        end = offset + length
        while offset < end:
            unit_end = (offset // self._unit + 1) * self._unit
            stop = min(end, unit_end)
            if offset < self._valid < stop:
                stop = self._valid
            pieces = self._runs.pieces(unit_end - self._unit, min(self._unit, self._runs.size - unit_end + self._unit))
            zero = offset >= self._valid or all(source is None for _, source in pieces)
            yield Extent(offset, stop - offset, ExtentKind.ZERO if zero else ExtentKind.DATA)
            offset = stop

    def close(self) -> None:
        with self._lock:
            self._units.clear()


def decompress(stored: bytes, length: int, at: int) -> bytes:
    """The ``length`` bytes of a compressed unit; a unit that ends early ends in zeros.

    Args:
        stored: its clusters.
        length: bytes of the unit.
        at: its byte on the volume, for errors.

    Raises:
        Corrupt: a chunk goes past the end of the unit, or refers to bytes before its own start.
    """
    result = bytearray()
    offset = 0
    while len(result) < length and offset + 2 <= len(stored):
        header = _HEADER.unpack_from(stored, offset)[0]
        if header == 0:
            break
        result += bytes(-len(result) % CHUNK)
        end = offset + 3 + (header & 0xFFF)
        if end > len(stored):
            raise Corrupt(
                "a compressed chunk is cut off",
                offset=at + offset,
                expected=f"at most {len(stored) - offset}",
                found=end - offset,
            )
        chunk = stored[offset + 2 : end]
        result += _chunk(chunk, at + offset) if header & 0x8000 else chunk
        offset = end
    if len(result) > length:
        raise Corrupt("a compression unit holds too much", offset=at, expected=length, found=len(result))
    return bytes(result) + bytes(length - len(result))


def _chunk(packed: bytes, at: int) -> bytes:
    """One compressed chunk: flag bytes, each before eight items that are a literal byte or a reference back."""
    out = bytearray()
    position, size = 0, len(packed)
    while position < size:
        flags = packed[position]
        position += 1
        if flags == 0:
            out += packed[position : position + 8]
            position += 8
            continue
        for bit in range(8):
            if position >= size:
                break
            if not flags >> bit & 1:
                out.append(packed[position])
                position += 1
                continue
            position = _copy(out, packed, position, at)
    return bytes(out)


def _copy(out: bytearray, packed: bytes, position: int, at: int) -> int:
    """Append what the reference at ``position`` stands for; returns where the next item starts.

    The further the chunk has grown, the more of the 16 bits count the distance, and the fewer the length.
    """
    if position + 2 > len(packed) or not out:
        raise Corrupt("a compressed chunk with an impossible reference", offset=at)
    reference = packed[position] | packed[position + 1] << 8
    length_bits = 12 - max(0, (len(out) - 1).bit_length() - 4)
    distance = (reference >> length_bits) + 1
    length = (reference & (1 << length_bits) - 1) + 3
    start = len(out) - distance
    if start < 0 or len(out) + length > CHUNK:
        raise Corrupt(
            "a compressed chunk refers outside itself", offset=at, expected=f"at most {len(out)} back", found=distance
        )
    if length <= distance:
        out += out[start : start + length]
    else:
        pattern = bytes(out[start:])
        out += (pattern * (length // distance + 1))[:length]
    return position + 2
