"""The expanding disks (``.hdd``, ``.hds``) of Parallels: one file of such a disk; folders with snapshots are not read here.

Source: qemu, docs/interop/parallels.txt; for the older ``WithoutFreeSpace``, open documentation of block/parallels.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.blockmap import ABSENT, BlockMap, Table
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import MIB, SECTOR

FORMAT = "parallels"
OLD_MAGIC = b"WithoutFreeSpace"
MAGIC = b"WithouFreSpacExt"
VERSION = 2
MAX_BLOCK_SIZE = 1024 * MIB
_HEADER = struct.Struct("<16sIIIIIQIIIQ")
TABLE_AT = _HEADER.size


@dataclass(frozen=True, slots=True)
class Header:
    """The header. ``unit`` is the bytes that an entry of the block table counts in."""

    block_size: int
    entry_count: int
    disk_size: int
    unit: int


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open an expanding disk of either version. Raises Corrupt, or Unsupported for a version there is not."""
    header = parse_header(read_clipped(file, 0, _HEADER.size), file.path)
    if TABLE_AT + header.entry_count * 4 > file.size:
        raise Corrupt(
            "the block table is outside the file", path=file.path, offset=32, found=header.entry_count, reason="header"
        )
    blocks = BlockMap(file, _Layout(file, header), size=header.disk_size, block_size=header.block_size)
    return Image(file.path, FORMAT, blocks, (Link(file.path, FORMAT),))


def parse_header(content: bytes, path: str) -> Header:
    """The header in the first 64 bytes."""
    if len(content) < _HEADER.size or content[:16] not in (MAGIC, OLD_MAGIC):
        raise Corrupt("is not a Parallels disk", path=path, offset=0, expected=MAGIC, found=content[:16], reason="header")
    magic, version, _, _, tracks, count, sectors, *_ = _HEADER.unpack_from(content)
    if version != VERSION:
        raise Unsupported("a version that is not 2", path=path, offset=16, found=version, reason="version")
    if magic == OLD_MAGIC:
        sectors &= 0xFFFFFFFF  # the upper half was not written, and may hold anything
    if not 0 < tracks * SECTOR <= MAX_BLOCK_SIZE:
        raise Corrupt("the block size is impossible", path=path, offset=28, found=f"{tracks} sectors", reason="header")
    if count * tracks < sectors:
        raise Corrupt(
            "the block table is too short for the disk",
            path=path,
            offset=32,
            expected=f"at least {-(-sectors // tracks)} entries",
            found=count,
            reason="block-table",
        )
    return Header(tracks * SECTOR, count, sectors * SECTOR, tracks * SECTOR if magic == MAGIC else SECTOR)


class _Layout:
    """Where the blocks are; see ``mntapi.images.blockmap.Layout``."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._header = header
        self._table = Table(file, TABLE_AT, header.entry_count, width=4, order="little", absent=0, blank=b"\0")

    def locate(self, index: int) -> int:
        entry = self._table[index]
        if entry == 0:
            return ABSENT
        header = self._header
        offset = entry * header.unit
        if offset + min(header.block_size, header.disk_size - index * header.block_size) > self._file.size:
            raise Corrupt(
                f"block {index} is outside the file",
                path=self._file.path,
                offset=self._table.offset_of(index),
                expected=f"before {self._file.size}",
                found=offset,
                reason="block-outside",
            )
        return offset

    def next_present(self, index: int, end: int) -> int:
        return self._table.next_present(index, end)
