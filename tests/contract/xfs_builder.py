"""Parts of an XFS volume built by hand, of version 4 where nothing else is said: a superblock, inodes, trees of extents."""

from __future__ import annotations

import struct

from mntapi.blocks import Cache
from mntapi.crc32c import crc32c
from mntapi.filesystems.runs import Memory, RunList
from mntapi.filesystems.xfs.described import Metadata
from mntapi.filesystems.xfs.extents import Mapped
from mntapi.filesystems.xfs.superblock import Superblock, parse_superblock

FIELDS = {
    "magic": (0, ">4s", b"XFSB"),
    "block_size": (4, ">I", 4096),
    "blocks": (8, ">Q", 2500),
    "uuid": (32, ">16s", b"U" * 16),
    "log_start": (48, ">Q", 70),
    "root": (56, ">Q", 64),
    "ag_blocks": (84, ">I", 1000),
    "ag_count": (88, ">I", 3),
    "log_blocks": (96, ">I", 10),
    "version": (100, ">H", 0xB4A5),
    "sector_size": (102, ">H", 512),
    "inode_size": (104, ">H", 512),
    "inodes_per_block": (106, ">H", 8),
    "block_log": (120, ">B", 12),
    "sector_log": (121, ">B", 9),
    "inode_log": (122, ">B", 9),
    "inodes_per_block_log": (123, ">B", 3),
    "ag_block_log": (124, ">B", 10),
    "in_progress": (126, ">B", 0),
    "directory_log": (192, ">B", 1),
    "features": (200, ">I", 0x200),
    "incompat": (216, ">I", 0x1),
    "meta_uuid": (248, ">16s", b"M" * 16),
}


def built(**changes: object) -> bytes:
    raw = bytearray(512)
    for name, (at, layout, value) in FIELDS.items():
        struct.pack_into(layout, raw, at, changes.get(name, value))
    struct.pack_into("<I", raw, 224, crc32c(bytes(raw)))
    return bytes(raw)


BLOCK = 512
COUNT = 400
SMALL = {
    "version": 0xB4A4,
    "block_size": BLOCK,
    "block_log": 9,
    "blocks": COUNT,
    "ag_blocks": COUNT,
    "ag_block_log": 9,
    "ag_count": 1,
    "inode_size": 256,
    "inode_log": 8,
    "inodes_per_block": 2,
    "inodes_per_block_log": 1,
    "directory_log": 0,
}


def superblock(**changes: object) -> Superblock:
    return parse_superblock(built(**{**SMALL, **changes}))


def metadata_of(volume: bytes, sb: Superblock) -> Metadata:
    return Metadata(Cache(Memory(volume)), sb)


def record(first: int, block: int, count: int, unwritten: int = 0) -> bytes:
    return struct.pack(">2Q", unwritten << 63 | first << 9 | block >> 43, (block & (1 << 43) - 1) << 21 | count)


def core(mode: int, form: int, *, size: int = 0, extents: int = 0, data: bytes = b"", version: int = 2, **more: int) -> bytes:
    """An inode of version 1 or 2 in 256 bytes."""
    head = struct.pack(">2sH2BH3I", b"IN", mode, version, form, more.get("links_old", 0), 0, 0, more.get("links", 1))
    raw = bytearray(head.ljust(100, b"\0"))
    struct.pack_into(">2Q", raw, 56, size, 0)
    struct.pack_into(">IHBB", raw, 76, extents, more.get("attribute_extents", 0), more.get("fork_at", 0), more.get("form", 0))
    return bytes(raw) + data.ljust(156, b"\0")


def node(level: int, entries: list[bytes], *, magic: bytes = b"BMAP", room: int = (BLOCK - 24) // 16) -> bytes:
    """A block of an extent tree: records in a leaf, in others pointers (whose keys nobody reads)."""
    head = struct.pack(">4s2H", magic, level, len(entries)).ljust(24, b"\xff")
    return (head + b"".join(entries) if level == 0 else head + bytes(8 * room) + b"".join(entries)).ljust(BLOCK, b"\0")


def pointer(block: int) -> bytes:
    return struct.pack(">Q", block)


def root(level: int, pointers: list[int], *, count: int | None = None) -> bytes:
    room = (156 - 4) // 16
    head = struct.pack(">2H", level, len(pointers) if count is None else count)
    return (head + bytes(8 * room) + b"".join(map(pointer, pointers))).ljust(156, b"\0")


def volume_of(blocks: dict[int, bytes]) -> bytes:
    image = bytearray(BLOCK * COUNT)
    for block, content in blocks.items():
        image[block * BLOCK : block * BLOCK + len(content)] = content
    return bytes(image)


def mapped(blocks: dict[int, bytes], places: list[tuple[int, int]]) -> Mapped:
    """A fork of single blocks: which of it is where."""
    sb = superblock()
    runs = RunList()
    for first, block in places:
        runs.pad(first * BLOCK)
        runs.add(BLOCK, block * BLOCK)
    return Mapped(metadata_of(volume_of(blocks), sb), runs, 9, 1000)
