"""The checksums that superblocks carry and the standard library does not have. Bytes in, number out."""

from __future__ import annotations

import zlib
from functools import cache


def crc32_raw(seed: int, data: bytes) -> int:
    """The CRC-32 of zlib without its first and last inversion, as on-disk formats of Linux use it with their own seed."""
    return zlib.crc32(data, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


@cache
def _castagnoli() -> tuple[int, ...]:
    return tuple(_castagnoli_byte(byte) for byte in range(256))


def _castagnoli_byte(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


def crc32c_raw(seed: int, data: bytes) -> int:
    """CRC-32C (Castagnoli, reflected 0x82F63B78) without inversions. Source: RFC 3720 section 12.1."""
    table = _castagnoli()
    for byte in data:
        seed = table[(seed ^ byte) & 0xFF] ^ (seed >> 8)
    return seed
