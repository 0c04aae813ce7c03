"""Writes VHD files for tests, from the specification and nothing of the product: differencing disks, which qemu-img cannot
write, and damaged ones."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

SECTOR = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4


def checksum(content: bytes) -> int:
    return ~sum(content) & 0xFFFFFFFF


def footer(
    kind: int,
    size: int,
    unique_id: uuid.UUID,
    *,
    creator: bytes = b"win ",
    geometry: tuple[int, int, int] = (0, 0, 0),
    header_at: int = SECTOR,
    version: int = 0x10000,
) -> bytes:
    content = bytearray(SECTOR)
    fields = (b"conectix", 2, version, header_at, 0, creator, 0x60000, b"Wi2k", size, size, *geometry, kind, 0, unique_id.bytes)
    struct.pack_into(">8sIIQI4sI4sQQHBBII16s", content, 0, *fields)
    return seal(content, 64)


def seal(content: bytearray, at: int) -> bytes:
    content[at : at + 4] = bytes(4)
    struct.pack_into(">I", content, at, checksum(content))
    return bytes(content)


def header(
    table_at: int,
    count: int,
    block_size: int,
    *,
    parent_id: uuid.UUID | None = None,
    parent_name: str = "",
    locators: list[tuple[bytes, int, int]] | None = None,
    version: int = 0x10000,
) -> bytes:
    content = bytearray(1024)
    parent = parent_id.bytes if parent_id else bytes(16)
    name = parent_name.encode("utf-16-be")
    fields = (b"cxsparse", 2**64 - 1, table_at, version, count, block_size, 0, parent, 0, 0, name)
    struct.pack_into(">8sQQIIII16sII512s", content, 0, *fields)
    for number, (code, length, offset) in enumerate(locators or []):
        struct.pack_into(">4sIIIQ", content, 576 + 24 * number, code, 512, length, 0, offset)
    return seal(content, 36)


def write_sparse(
    path: Path,
    size: int,
    blocks: dict[int, tuple[set[int], bytes]],
    *,
    unique_id: uuid.UUID,
    block_size: int = 64 * 1024,
    parent_id: uuid.UUID | None = None,
    parent_name: str = "",
    locators: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """A dynamic disk, or a differencing one if there is a ``parent_id``.

    ``blocks`` has, for the blocks that are stored, the sectors whose bit is set and all bytes of the block. ``locators`` are
    pairs of platform code and the name as it is stored.
    """
    count = -(-size // block_size)
    kind = DIFFERENCING if parent_id else DYNAMIC
    names = b""
    table = []
    for code, name in locators or []:
        table.append((code, len(name), 1536 + len(names)))
        names += name.ljust(SECTOR, b"\0")
    table_at = 1536 + len(names)
    data_at = -(-(table_at + count * 4) // SECTOR) * SECTOR
    bitmap_size = -(-block_size // (8 * SECTOR) // SECTOR) * SECTOR
    entries = [0xFFFFFFFF] * count
    out = bytearray(data_at)
    for index, (stored, content) in blocks.items():
        entries[index] = len(out) // SECTOR
        bitmap = bytearray(bitmap_size)
        for sector in stored:
            bitmap[sector // 8] |= 0x80 >> sector % 8
        out += bitmap + content.ljust(block_size, b"\0")
    last = footer(kind, size, unique_id)
    out[:SECTOR] = last
    out[SECTOR:1536] = header(table_at, count, block_size, parent_id=parent_id, parent_name=parent_name, locators=table)
    out[1536:table_at] = names
    struct.pack_into(f">{count}I", out, table_at, *entries)
    path.write_bytes(out + last)
