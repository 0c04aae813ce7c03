"""Marvin32, the checksum of log entries.

Source: SymCrypt, ``lib/marvin32.c`` (MIT licence), for the algorithm; the seed is the one of "Windows registry file format
specification", section "Log entries".
"""

from __future__ import annotations

import struct

REGISTRY_SEED = 0x82EF4D887A4E55C5
_MASK = 0xFFFFFFFF
_PAD = b"\x80\0\0\0"


def marvin32(content: bytes, seed: int = REGISTRY_SEED) -> int:
    """The checksum of 64 bits. Costs 0.2 s for a MiB, so callers have a limit."""
    tail = len(content) % 4
    padded = content + _PAD[: 4 - tail] + bytes(4)
    low, high = seed & _MASK, seed >> 32
    for (word,) in struct.iter_unpack("<I", padded):
        low = (low + word) & _MASK
        high ^= low
        low = ((low << 20 | low >> 12) + high) & _MASK
        high = ((high << 9 | high >> 23) & _MASK) ^ low
        low = ((low << 27 | low >> 5) + high) & _MASK
        high = (high << 19 | high >> 13) & _MASK
    return high << 32 | low
