"""DMG, Apple's disk image (UDIF): chunks packed by several methods, listed in a property list that a trailer points to.

ADC and LZFSE are named and refused when read, and so are images of before Mac OS X 10.2, whose list is in a resource fork.

Source: reverse-engineered; open documentation of qemu (block/dmg.c) and libmodi ("Mac OS disk image types"), observed on two
images.
"""

from __future__ import annotations

import plistlib
import struct
from collections.abc import Iterator
from xml.parsers.expat import ExpatError

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.chunks import STORED, ZEROS, Chunk, ChunkMap
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import MIB, SECTOR

FORMAT = "dmg"
TRAILER_SIZE = 512
MAX_LIST = 8 * MIB
"""Bytes of the property list; a chunk takes 54 of them, so that this does for 37 GiB of 256 KiB chunks."""
_TRAILER = struct.Struct(">4sIIIQQQQQII16s136xQQ")
_SECTORS_AT = 0x1EC
_TABLE = struct.Struct(">4sIQQQII160xI")
_ENTRY = struct.Struct(">IIQQQQ")
_END = 0xFFFFFFFF
_COMMENT = 0x7FFFFFFE
_METHODS = {
    0: ZEROS,
    1: STORED,
    2: ZEROS,
    0x80000004: "adc",
    0x80000005: "zlib",
    0x80000006: "bzip2",
    0x80000007: "lzfse",
    0x80000008: "lzma",
}


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a UDIF image.

    Raises:
        Corrupt: trailer, list or a chunk contradicts the format.
        Unsupported: it has no property list, is one of several segments, or is encrypted.
    """
    trailer = read_clipped(file, max(0, file.size - TRAILER_SIZE), TRAILER_SIZE)
    if len(trailer) < TRAILER_SIZE or not trailer.startswith(b"koly"):
        raise Corrupt("has no UDIF trailer", path=file.path, offset=max(0, file.size - TRAILER_SIZE), reason="trailer")
    fields = _TRAILER.unpack_from(trailer)
    data_at, segments, list_at, list_length = fields[5], fields[10], fields[12], fields[13]
    if segments > 1:
        raise Unsupported("is one of several segments", path=file.path, found=segments, reason="segments")
    if not list_length:
        raise Unsupported("keeps its chunk list in a resource fork", path=file.path, reason="resource-fork")
    if list_length > MAX_LIST or list_at + list_length > file.size:
        raise Corrupt(
            "the property list is outside the file or too long",
            path=file.path,
            offset=file.size - TRAILER_SIZE + 0xD8,
            expected=f"at most {MAX_LIST} bytes before {file.size}",
            found=f"{list_length} bytes at {list_at}",
            reason="property-list",
        )
    tables = _tables(read(file, list_at, list_length), file.path, list_at)
    chunks = sorted(chunk for table in tables for chunk in _chunks(table, data_at, file.path, list_at))
    size = SECTOR * int.from_bytes(trailer[_SECTORS_AT : _SECTORS_AT + 8], "big")
    return Image(file.path, FORMAT, ChunkMap(file, chunks, size), (Link(file.path, FORMAT),))


def _tables(content: bytes, path: str, offset: int) -> list[bytes]:
    """The chunk tables of the partitions."""
    try:
        values = [entry["Data"] for entry in plistlib.loads(content)["resource-fork"]["blkx"]]
    except (plistlib.InvalidFileException, ExpatError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Corrupt(f"the property list cannot be read: {error}", path=path, offset=offset, reason="property-list") from error
    if not all(isinstance(value, bytes) for value in values):
        raise Corrupt("a chunk table is not data", path=path, offset=offset, reason="property-list")
    return values


def _chunks(table: bytes, data_at: int, path: str, offset: int) -> Iterator[Chunk]:
    if len(table) < _TABLE.size or not table.startswith(b"mish"):
        raise Corrupt("has no chunk table", path=path, offset=offset, expected=b"mish", found=table[:4], reason="chunks")
    _, _, first, _, table_data_at, _, _, count = _TABLE.unpack_from(table)
    if _TABLE.size + count * _ENTRY.size > len(table):
        raise Corrupt("a chunk table is cut off", path=path, offset=offset, found=f"{count} chunks", reason="chunks")
    for number in range(count):
        kind, _, sector, sectors, at, packed = _ENTRY.unpack_from(table, _TABLE.size + number * _ENTRY.size)
        if kind == _END:
            return
        if kind == _COMMENT or not sectors:
            continue
        method = _METHODS.get(kind, f"method-{kind:#x}")
        yield Chunk((first + sector) * SECTOR, sectors * SECTOR, method, data_at + table_data_at + at, packed)
