"""The checksum of the kernel's persistent-data blocks: CRC-32C, not inverted at the end, and a number for each kind of block.

Source: Linux drivers/md/persistent-data/dm-block-manager.c (``dm_bm_checksum``); RFC 3720, appendix B.4 (polynomial).
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78


def _row(state: int) -> int:
    for _ in range(8):
        state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
    return state


_TABLE = tuple(map(_row, range(256)))


def checksum(content: bytes, salt: int) -> int:
    """The checksum of what follows the checksum in a block. ``salt`` tells the kinds of block apart."""
    state = 0xFFFFFFFF
    table = _TABLE
    for byte in content:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ salt
