"""The growing disks of Bochs: extents with a bitmap in front of each, behind a catalog.

Redologs over another disk (undoable, volatile) do not name it and are refused.

Source: Bochs documentation, "Disk image formats"; open documentation of qemu (block/bochs.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.blockmap import ABSENT, BlockMap, Partial, Table
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import MIB, SECTOR, align_up

FORMAT = "bochs"
MAGIC = b"Bochs Virtual HD Image\0"
MAX_EXTENT_SIZE = 64 * MIB
_VERSION_1, _VERSION_2 = 0x10000, 0x20000
_HEADER = struct.Struct("<32s16s16sIIIIIIQ")
_DISK_SIZE_1_AT = 84
_UNUSED = 0xFFFFFFFF
_BITS = tuple(f"{byte:08b}"[::-1].encode() for byte in range(256))


@dataclass(frozen=True, slots=True)
class Header:
    """The header; all sizes are bytes."""

    catalog_offset: int
    catalog_count: int
    bitmap_size: int
    extent_size: int
    disk_size: int


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a growing disk. Raises Corrupt, or Unsupported for redologs and unknown versions."""
    header = parse_header(read_clipped(file, 0, SECTOR), file.path)
    if header.catalog_offset + header.catalog_count * 4 > file.size:
        raise Corrupt("the catalog is outside the file", path=file.path, offset=72, found=header.catalog_count, reason="header")
    blocks = BlockMap(file, _Layout(file, header), size=header.disk_size, block_size=header.extent_size)
    return Image(file.path, FORMAT, blocks, (Link(file.path, FORMAT),))


def parse_header(content: bytes, path: str) -> Header:
    """The header in the first sector."""
    if len(content) < SECTOR or not content.startswith(MAGIC):
        raise Corrupt("is not a Bochs disk", path=path, offset=0, expected=MAGIC, found=content[:16], reason="header")
    _, kind, subtype, version, catalog_offset, count, bitmap, extent, _, size = _HEADER.unpack_from(content)
    if kind.rstrip(b"\0") != b"Redolog" or subtype.rstrip(b"\0") != b"Growing" or version not in (_VERSION_1, _VERSION_2):
        raise Unsupported(
            "a Bochs disk that is not a growing one of version 1 or 2",
            path=path,
            offset=32,
            found=f"{kind!r}, {subtype!r}, version {version:#x}",
            reason="version",
        )
    if version == _VERSION_1:
        size = int.from_bytes(content[_DISK_SIZE_1_AT : _DISK_SIZE_1_AT + 8], "little")
    sectors = extent // SECTOR
    if extent % SECTOR or not 0 < extent <= MAX_EXTENT_SIZE or extent & (extent - 1) or not sectors <= bitmap * 8 <= 8 * extent:
        raise Corrupt(
            "the sizes of extents and bitmaps are impossible",
            path=path,
            offset=76,
            found=f"bitmaps of {bitmap}, extents of {extent} bytes",
            reason="header",
        )
    if count * extent < size:
        raise Corrupt(
            "the catalog is too short for the disk",
            path=path,
            offset=72,
            expected=f"at least {-(-size // extent)} entries",
            found=count,
            reason="header",
        )
    return Header(catalog_offset, count, align_up(bitmap, SECTOR), extent, size)


class _Layout:
    """Where the extents are; see ``mntapi.images.blockmap.Layout``."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._header = header
        self._data_at = header.catalog_offset + header.catalog_count * 4
        self._bitmap_bytes = -(-header.extent_size // SECTOR // 8)
        self._table = Table(
            file, header.catalog_offset, header.catalog_count, width=4, order="little", absent=_UNUSED, blank=b"\xff"
        )

    def locate(self, index: int) -> int | Partial:
        entry = self._table[index]
        if entry == _UNUSED:
            return ABSENT
        header = self._header
        offset = self._data_at + entry * (header.bitmap_size + header.extent_size)
        data = offset + header.bitmap_size
        if data + min(header.extent_size, header.disk_size - index * header.extent_size) > self._file.size:
            raise Corrupt(
                f"extent {index} is outside the file",
                path=self._file.path,
                offset=self._table.offset_of(index),
                expected=f"before {self._file.size}",
                found=offset,
                reason="block-outside",
            )
        stored = b"".join([_BITS[byte] for byte in read(self._file, offset, self._bitmap_bytes)])
        return Partial(data, stored) if b"0" in stored else data

    def next_present(self, index: int, end: int) -> int:
        return self._table.next_present(index, end)
