"""Unpacking extents: zlib, LZO and zstd. Never to more than the extent says, whatever the packed bytes say.

Source: btrfs documentation, "Compression"; fs/btrfs/compression.h (``BTRFS_MAX_UNCOMPRESSED``); fs/btrfs/lzo.c (segments).
"""

from __future__ import annotations

import struct
import zlib

import zstandard

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.btrfs import lzo
from mntapi.units import KIB

MAX_WINDOW = 128 * KIB
"""Bytes of history that a zstd frame may ask for."""
_LENGTH = struct.Struct("<I")


def unpacked(kind: int, packed: bytes, size: int, sector_size: int) -> bytes:
    """The ``size`` bytes that an extent was before it was packed.

    The last extent of a file may hold up to a sector less: nothing was there, and it reads as zeros.

    Args:
        kind: as the extent says: 1 zlib, 2 LZO, 3 zstd.
        packed: with what follows it in its last sector.
        size: bytes, 1 to 128 KiB.
        sector_size: bytes.

    Raises:
        Corrupt: it cannot be unpacked, or to too little; the error has no place.
        Unsupported: another kind.
    """
    if kind == 1:
        content = _zlib(packed, size)
    elif kind == 2:
        content = _lzo(packed, size, sector_size)
    elif kind == 3:
        content = _zstd(packed, size)
    else:
        raise Unsupported(f"an extent with compression of kind {kind}", reason="compression")
    if size - len(content) >= sector_size:
        raise Corrupt("a compressed extent unpacks to too little", expected=size, found=len(content), reason="compression")
    return content.ljust(size, b"\0")


def _zlib(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed, size)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(content) < size and not stream.eof:
        raise _damaged("the zlib stream has no end")
    return content


def _zstd(packed: bytes, size: int) -> bytes:
    """One frame. What it says of its own size is checked first: that much memory is taken for it."""
    try:
        if zstandard.frame_content_size(packed) > size:  # -1 where it does not say
            raise _damaged("the zstd frame is larger than its extent")
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise _damaged(str(error)) from error


def _lzo(packed: bytes, size: int, sector_size: int) -> bytes:
    """Segments of one sector each, unpacked; the length before each does not cross the border of a sector."""
    end = _number(packed, 0)
    if not _LENGTH.size < end <= len(packed):
        raise _damaged(f"{end} bytes of LZO segments in {len(packed)}")
    at, content = _LENGTH.size, bytearray()
    while at < end and len(content) < size:
        room = sector_size - at % sector_size
        if room < _LENGTH.size:
            at += room
        length = _number(packed, at)
        at += _LENGTH.size
        if not 0 < length <= end - at:
            raise _damaged(f"an LZO segment of {length} bytes, with {end - at} left")
        if len(content) % sector_size:
            raise _damaged("an LZO segment in the middle unpacks to less than a sector")
        content += lzo.unpack(packed[at : at + length], sector_size)
        at += length
    return bytes(content[:size])


def _number(packed: bytes, at: int) -> int:
    if at + _LENGTH.size > len(packed):
        raise _damaged("the LZO segments are cut off")
    number: int = _LENGTH.unpack_from(packed, at)[0]
    return number


def _damaged(what: str) -> Corrupt:
    return Corrupt(f"a compressed extent cannot be unpacked: {what}", reason="compression")
