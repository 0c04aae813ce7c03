"""The checksum of the kernel's persistent-data blocks: CRC-32C, not inverted at the end, and a number for each kind of block.

Source: Linux drivers/md/persistent-data/dm-block-manager.c (``dm_bm_checksum``); RFC 3720, appendix B.4.
"""

from __future__ import annotations

from mntapi.crc32c import crc32c_raw


def checksum(content: bytes, salt: int) -> int:
    """The checksum of what follows the checksum in a block. ``salt`` tells the kinds of block apart."""
    return crc32c_raw(0xFFFFFFFF, content) ^ salt
