"""Whether an ISO 9660 volume has Rock Ridge entries, which The Sleuth Kit passes over: links and devices look like empty files.

Source: ECMA-119 8.4 and 9.1; IEEE P1281 (SUSP) 5.3 "SP".
"""

from __future__ import annotations

import struct

from mntapi.blocks import read_clipped
from mntapi.types import Blocks

REASON = "rock-ridge"
_SECTOR = 2048
_DESCRIPTOR_AT = 16 * _SECTOR
_ROOT_EXTENT = 158
_SYSTEM_USE = 34
_SUSP = b"SP\x07\x01\xbe\xef"


def has_rock_ridge(volume: Blocks) -> bool:
    """Whether the root folder of the primary volume starts with the sharing protocol's mark."""
    descriptor = read_clipped(volume, _DESCRIPTOR_AT, _SECTOR)
    if len(descriptor) < _SECTOR or descriptor[1:6] != b"CD001":
        return False
    extent = struct.unpack_from("<I", descriptor, _ROOT_EXTENT)[0]
    return read_clipped(volume, extent * _SECTOR + _SYSTEM_USE, len(_SUSP)) == _SUSP
