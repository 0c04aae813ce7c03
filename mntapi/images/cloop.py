"""cloop, the compressed loop images of Knoppix: blocks of one size, each packed by zlib, behind a table of their offsets.

Source: cloop 2.0 header; open documentation of qemu (block/cloop.c).
"""

from __future__ import annotations

import struct

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt
from mntapi.images.chunks import MAX_CHUNK, Chunk, ChunkMap
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import KIB, SECTOR

FORMAT = "cloop"
MAGIC = b"#!/bin/sh\n#V2.0 Format\n"
MAX_BLOCKS = 256 * KIB
"""Blocks of a disk: 16 GiB of the usual 64 KiB; the format is one of live CDs."""
_SIZES_AT = 128
_SIZES = struct.Struct(">II")


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a cloop image of version 2.

    Raises:
        Corrupt: its block size, count or an offset is impossible.
    """
    head = read_clipped(file, 0, _SIZES_AT + _SIZES.size)
    if len(head) < _SIZES_AT + _SIZES.size or not head.startswith(MAGIC):
        raise Corrupt("is not a cloop image", path=file.path, offset=0, reason="header")
    block_size, count = _SIZES.unpack_from(head, _SIZES_AT)
    if not block_size or block_size % SECTOR or block_size > MAX_CHUNK:
        raise Corrupt("the block size is impossible", path=file.path, offset=_SIZES_AT, found=block_size, reason="header")
    table_at = _SIZES_AT + _SIZES.size
    if not count or count > MAX_BLOCKS or table_at + 8 * (count + 1) > file.size:
        raise Corrupt(
            "too many blocks, or none",
            path=file.path,
            offset=_SIZES_AT + 4,
            expected=f"1 to {MAX_BLOCKS}, their table inside the file",
            found=count,
            reason="header",
        )
    offsets = struct.unpack(f">{count + 1}Q", read(file, table_at, 8 * (count + 1)))
    chunks = []
    for number in range(count):
        if offsets[number] > offsets[number + 1]:
            raise Corrupt("the block offsets do not ascend", path=file.path, offset=table_at + 8 * number, reason="block-table")
        packed = offsets[number + 1] - offsets[number]
        chunks.append(Chunk(number * block_size, block_size, "zlib", offsets[number], packed))
    return Image(file.path, FORMAT, ChunkMap(file, chunks, count * block_size), (Link(file.path, FORMAT),))
