"""MD superblocks made by hand, for what mdadm would not make; what it makes is in golden. Layouts: the kernel's md_p.h."""

from __future__ import annotations

import struct

SECTOR = 512
UUID = bytes(range(16))
UUID_TEXT = "00010203:04050607:08090a0b:0c0d0e0f"
DATA_OFFSET = 16 * 1024
NO_OFFSET = (1 << 64) - 1

_V1 = {
    "magic": ("I", 0), "major": ("I", 4), "features": ("I", 8), "set_uuid": ("16s", 16), "set_name": ("32s", 32),
    "created": ("Q", 64), "level": ("i", 72), "layout": ("I", 76), "size": ("Q", 80), "chunk": ("I", 88),
    "raid_disks": ("I", 92), "data_offset": ("Q", 128), "data_size": ("Q", 136), "super_offset": ("Q", 144),
    "recovery_offset": ("Q", 152),
    "number": ("I", 160), "device_uuid": ("16s", 168), "log_shift": ("B", 185), "log_size": ("H", 186),
    "log_offset": ("i", 188),
    "updated": ("Q", 192), "events": ("Q", 200), "resync_offset": ("Q", 208), "checksum": ("I", 216), "max_roles": ("I", 220),
}  # fmt: skip
"""Name: type and byte offset."""


def version1(roles: tuple[int, ...] = (0, 1), *, checksum: int | None = None, **fields: int | bytes) -> bytes:
    """A superblock of 4 KiB; fields as stored, lengths in sectors."""
    values: dict[str, int | bytes] = {
        "magic": 0xA92B4EFC, "major": 1, "set_uuid": UUID, "set_name": b"host:made", "level": 1, "size": 16,
        "raid_disks": len(roles),
        "data_offset": DATA_OFFSET // SECTOR, "data_size": 16, "super_offset": 8, "resync_offset": NO_OFFSET, "events": 10,
        "max_roles": len(roles), "device_uuid": b"dev-" + bytes(11) + bytes([int(fields.get("number", 0)) & 0xFF]),
    }  # fmt: skip
    values.update(fields)
    raw = bytearray(4096)
    for name, value in values.items():
        kind, offset = _V1[name]
        struct.pack_into(f"<{kind}", raw, offset, value)
    struct.pack_into(f"<{len(roles)}H", raw, 256, *roles)
    struct.pack_into("<I", raw, 216, sum1(raw) if checksum is None else checksum)
    return bytes(raw)


def sum1(raw: bytes | bytearray) -> int:
    """The checksum of a version 1 superblock, as the kernel's ``calc_sb_1_csum`` counts."""
    (count,) = struct.unpack_from("<I", raw, 220)
    left = min(256 + 2 * count, len(raw))
    total = at = 0
    while left >= 4:
        if at != 216:
            total += struct.unpack_from("<I", raw, at)[0]
        at, left = at + 4, left - 4
    if left == 2:
        total += struct.unpack_from("<H", raw, at)[0]
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def member1(data: bytes = b"", roles: tuple[int, ...] = (0, 1), *, log: bytes = b"", **fields: int | bytes) -> bytes:
    """A whole member of version 1.2: superblock at 4 KiB, a bad block log behind it, data at 16 KiB."""
    fields.setdefault("data_size", len(data) // SECTOR)
    fields.setdefault("size", len(data) // SECTOR)
    return bytes(4096) + version1(roles, **fields) + log.ljust(DATA_OFFSET - 8192, b"\xff") + data


def version0(
    number: int = 0, roles: tuple[int, ...] = (0, 1), *, checksum: int | None = None, order: str = "<", **words: int
) -> bytes:
    """A superblock of version 0.90; ``words`` by name or, as ``w12``, by number."""
    named = {"level": 7, "size": 8, "raid_disks": 10, "state": 33, "events": 39, "recovered": 43, "layout": 64, "chunk": 65}
    values = [0] * 1024
    values[0], values[2], values[5], values[13:16] = 0xA92B4EFC, 90, 0x00010203, (0x04050607, 0x08090A0B, 0x0C0D0E0F)
    values[7], values[8], values[10], values[33], values[39] = 1, 64, len(roles), 1, 10
    for index, role in enumerate(roles):
        values[128 + 32 * index : 133 + 32 * index] = index, 8, 16 * index + 1, role, 6
    values[992:997] = number, 8, 16 * number + 1, number, 6
    for name, value in words.items():
        values[named[name] if name in named else int(name[1:])] = value
    total = sum(values) - values[38]
    values[38] = ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF if checksum is None else checksum
    return struct.pack(f"{order}1024I", *values)


def member0(data: bytes, number: int = 0, **words: int) -> bytes:
    """A whole member of version 0.90; ``data`` is a multiple of 64 KiB."""
    return data + version0(number, **words).ljust(64 * 1024, b"\0")
