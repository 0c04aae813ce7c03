"""What else takes clusters in a QCOW2 file: persistent bitmaps, and the table of snapshots. Only how large they are, and where.

Source: QEMU, docs/interop/qcow2 ("Bitmaps extension", "Bitmap directory", "Snapshots"); limits as in QEMU's block/qcow2.h.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt
from mntapi.images.qcow2.entries import OFFSET_MASK
from mntapi.images.qcow2.header import EXT_BITMAPS, EXT_END, EXTENSION, V2_LENGTH, V3_LENGTH, Header
from mntapi.images.qcow2.snapshots import MAX_SNAPSHOTS, MAX_TABLE_BYTES
from mntapi.types import FileBlocks
from mntapi.units import MIB

MAX_BITMAPS = 65535
MAX_DIRECTORY = 64 * MIB
MAX_BITMAP_TABLES = 64 * MIB
"""Bytes of bitmap tables, those of all bitmaps together."""
_BITMAPS_VALID = 1
"""Autoclear bit: without it the bitmaps are out of date, and their clusters are nobody's."""
_HEADER_LENGTH_AT = 100
_BITMAPS = struct.Struct(">I4xQQ")
_BITMAP = struct.Struct(">QI4xBBHI")
_SNAPSHOT = struct.Struct(">12xHH20xI")

Range = tuple[int, int, str]
"""Byte offset, length, and what is there."""


def bitmap_ranges(file: FileBlocks, header: Header) -> list[Range]:
    """The directory of bitmaps, their tables and their clusters.

    Raises:
        Corrupt: there are more than there can be, or the directory or a table is outside the file.
    """
    content = _extension(file, header) if header.autoclear & _BITMAPS_VALID else None
    if content is None:
        return []
    if len(content) < _BITMAPS.size:
        raise Corrupt("the bitmaps extension has a wrong length", path=file.path, expected=_BITMAPS.size, found=len(content))
    count, size, offset = _BITMAPS.unpack_from(content)
    if count > MAX_BITMAPS or size > MAX_DIRECTORY or offset + size > file.size:
        raise Corrupt(
            "the directory of bitmaps is outside the file or too large",
            path=file.path,
            offset=offset,
            found=f"{count} bitmaps in {size} bytes",
        )
    ranges = [(offset, size, "the directory of bitmaps")]
    room = MAX_BITMAP_TABLES
    for table, entries in _bitmaps(read(file, offset, size), count, file.path, offset):
        room -= 8 * entries
        if room < 0 or table + 8 * entries > file.size:
            raise Corrupt("a bitmap table is outside the file or too large", path=file.path, offset=table, found=entries)
        ranges.append((table, 8 * entries, "a bitmap table"))
        ranges += _bitmap_clusters(read(file, table, 8 * entries), header.cluster_size)
    return ranges


def _extension(file: FileBlocks, header: Header) -> bytes | None:
    """The content of the bitmaps extension; the header was checked, so all its extensions are inside the first cluster."""
    area = read_clipped(file, 0, header.cluster_size)
    offset = V2_LENGTH
    if header.version >= 3:
        offset = max(V3_LENGTH, int.from_bytes(area[_HEADER_LENGTH_AT : _HEADER_LENGTH_AT + 4], "big"))
    while offset + EXTENSION.size <= len(area):
        kind, length = EXTENSION.unpack_from(area, offset)
        if kind == EXT_END:
            break
        offset += EXTENSION.size
        if kind == EXT_BITMAPS:
            return area[offset : offset + length]
        offset += -(-length // 8) * 8
    return None


def _bitmaps(directory: bytes, count: int, path: str, offset: int) -> Iterator[tuple[int, int]]:
    """Of each bitmap: where its table is, and how many entries that has."""
    at = 0
    for _ in range(count):
        if at + _BITMAP.size > len(directory):
            raise Corrupt("the directory of bitmaps ends too early", path=path, offset=offset + at)
        table, entries, _, _, name, extra = _BITMAP.unpack_from(directory, at)
        yield table, entries
        at += -(-(_BITMAP.size + name + extra) // 8) * 8


def _bitmap_clusters(raw: bytes, cluster_size: int) -> Iterator[Range]:
    entries = array("Q", raw)
    if sys.byteorder == "little":
        entries.byteswap()
    for entry in entries:
        if entry & OFFSET_MASK:
            yield entry & OFFSET_MASK, cluster_size, "a cluster of a bitmap"


def snapshot_table(file: FileBlocks, header: Header) -> list[Range]:
    """The table of snapshots. Raises Corrupt if it goes past the end of the file, or is larger than any."""
    if not header.snapshot_count:
        return []
    start = at = header.snapshots_offset
    for _ in range(min(header.snapshot_count, MAX_SNAPSHOTS + 1)):
        raw = read_clipped(file, at, _SNAPSHOT.size)
        if len(raw) < _SNAPSHOT.size or at - start > MAX_TABLE_BYTES:
            raise Corrupt("the snapshot table goes past its end", path=file.path, offset=at)
        at += -(-(_SNAPSHOT.size + sum(_SNAPSHOT.unpack(raw))) // 8) * 8
    return [(start, at - start, "the snapshot table")]
