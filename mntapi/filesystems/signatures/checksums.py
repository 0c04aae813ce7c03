"""The checksums that superblocks carry and the standard library does not have. Bytes in, number out."""

from __future__ import annotations

import zlib


def crc32_raw(seed: int, data: bytes) -> int:
    """The CRC-32 of zlib without its first and last inversion, as on-disk formats of Linux use it with their own seed."""
    return zlib.crc32(data, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
