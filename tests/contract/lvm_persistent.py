"""Builds the kernel's persistent-data blocks, so that they can be wrong: nodes, arrays, superblocks, snapshot stores."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from contract.raid_model import Memory
from mntapi.volumes.lvm.btree_checksum import checksum

BLOCK = 4096


def seal(body: bytes, salt: int) -> bytes:
    """A block with its checksum; ``body`` is what follows it."""
    body = body.ljust(BLOCK - 4, b"\0")
    return struct.pack("<I", checksum(body, salt)) + body


def node(
    block: int,
    pairs: Sequence[tuple[int, int]],
    *,
    flags: int = 2,
    room: int = 252,
    count: int | None = None,
    value_size: int = 8,
) -> bytes:
    """A node of a tree: a leaf with flags 2, an inner one with 1."""
    head = struct.pack("<IQIIII", flags, block, len(pairs) if count is None else count, room, value_size, 0)
    keys = struct.pack(f"<{len(pairs)}Q", *(key for key, _ in pairs)).ljust(8 * room, b"\0")
    return seal((head + keys + struct.pack(f"<{len(pairs)}Q", *(value for _, value in pairs)))[: BLOCK - 4], 121107)


def array_block(block: int, values: Sequence[int], *, room: int = 509, count: int | None = None, value_size: int = 8) -> bytes:
    """A block of an array."""
    head = struct.pack("<IIIQ", room, len(values) if count is None else count, value_size, block)
    return seal(head + struct.pack(f"<{len(values)}Q", *values), 595846735)


def thin_superblock(
    root: int,
    *,
    chunk: int = 65536,
    flags: int = 0,
    block: int = 0,
    magic: int = 27022010,
    version: int = 2,
    features: int = 0,
    block_size: int = 8,
    transaction: int = 5,
) -> bytes:
    """The superblock of a thin pool."""
    body = struct.pack("<IQ16xQIIQQ", flags, block, magic, version, 3, transaction, 0)
    body += bytes(256) + struct.pack("<QQIIQIII", root, 0, chunk // 512, block_size, 0, 0, 0, features)
    return seal(body, 160774)


def cache_superblock(
    root: int,
    count: int,
    *,
    chunk: int = 32768,
    flags: int = 1,
    block: int = 0,
    magic: int = 0o6142003,
    version: int = 2,
    features: int = 0,
    block_size: int = 8,
    dirty_root: int = 0,
) -> bytes:
    """The superblock of a cache; ``flags`` 1 is a clean shutdown."""
    body = struct.pack("<IQ16xQI16sI", flags, block, magic, version, b"smq", 4) + bytes(128)
    body += struct.pack("<QQQQQIIIIII", root, 0, 0, 0, 0, chunk // 512, block_size, count, 0, 0, features)
    return seal(body + bytes(28) + struct.pack("<Q", dirty_root), 9031977)


def store(exceptions: Sequence[tuple[int, int]], chunk: int, size: int, *, valid: int = 1, version: int = 1) -> bytearray:
    """A snapshot's store of ``size`` bytes, its chunk N filled with N."""
    content = bytearray(b"".join(struct.pack("<Q", number) * (chunk // 8) for number in range(size // chunk)))
    content[:chunk] = struct.pack("<IIII", 0x70416E53, valid, version, chunk // 512).ljust(chunk, b"\0")
    each = chunk // 16
    for area in range(len(exceptions) // each + 1):
        some = exceptions[area * each : (area + 1) * each]
        place = chunk * (1 + area * (each + 1))
        if place < size:
            content[place : place + chunk] = b"".join(struct.pack("<QQ", *pair) for pair in some).ljust(chunk, b"\0")
    return content


def metadata(*blocks: bytes) -> Memory:
    """A metadata device of these blocks; it counts its reads."""
    return Memory(b"".join(blocks))


def tree(first: int, pairs: Sequence[tuple[int, int]], fanout: int) -> tuple[int, list[bytes]]:
    """A tree over the pairs with ``fanout`` entries in a node, in blocks from ``first`` on: its root, and the blocks."""
    blocks: list[bytes] = []
    flags, level = 2, list(pairs)
    while flags == 2 or len(level) > 1:
        above = []
        for start in range(0, max(1, len(level)), fanout):
            part = level[start : start + fanout]
            above.append((part[0][0] if part else 0, first + len(blocks)))
            blocks.append(node(first + len(blocks), part, flags=flags))
        flags, level = 1, above
    return level[0][1], blocks
