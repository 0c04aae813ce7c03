"""exFAT's valid data length, which The Sleuth Kit does not tell: what lies behind it was never written and reads as zeros.

Source: Microsoft, "exFAT file system specification", 7.6 Stream Extension Directory Entry; how The Sleuth Kit numbers directory
entries: tsk/fs/tsk_fatfs.h ``FATFS_INODE_2_SECT``.
"""

from __future__ import annotations

import struct

from mntapi.blocks import read
from mntapi.errors import Corrupt
from mntapi.types import Blocks

_BOOT = struct.Struct("<88xI16x2B")
_FIRST_NUMBER = 3
_ENTRY = 32
_STREAM = struct.Struct("<B7xQ8xQ")
_FILE_TYPE = 0x85
_STREAM_TYPE = 0xC0


def valid_length(volume: Blocks, inode: int, size: int) -> int:
    """Bytes of a file of ``size`` bytes that were ever written.

    Raises:
        Corrupt: the file's entry is not where its number says, or goes on in another cluster of the folder.
    """
    heap, sector_shift, _ = _BOOT.unpack(read(volume, 0, _BOOT.size))
    at = (heap << sector_shift) + (inode - _FIRST_NUMBER) * _ENTRY
    if at + 2 * _ENTRY > volume.size:
        raise Corrupt("a directory entry lies outside the volume", offset=at, expected=f"at most {volume.size}")
    raw = read(volume, at, 2 * _ENTRY)
    kind, valid, length = _STREAM.unpack_from(raw, _ENTRY)
    if raw[0] != _FILE_TYPE or kind != _STREAM_TYPE or length != size or valid > length:
        raise Corrupt(
            "the stream entry of a file cannot be found", offset=at + _ENTRY, expected=size, found=length, reason="exfat-entry"
        )
    return int(valid)
