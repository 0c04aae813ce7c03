"""Where blocks of metadata of version 5 keep their checksum, and the log sequence number and UUID they were last written with.

Source: Linux fs/xfs/libxfs/xfs_format.h, xfs_da_format.h; fs/xfs/xfs_buf_item_recover.c ``xlog_recover_get_buf_lsn``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple


class Stamp(NamedTuple):
    """Bytes in a block. ``lsn`` is None where what the log has is always newer."""

    checksum: int
    lsn: int | None
    uuid: int


_SHORT_TREE = Stamp(checksum=52, lsn=24, uuid=32)
_LONG_TREE = Stamp(checksum=64, lsn=32, uuid=40)
_DIRECTORY = Stamp(checksum=4, lsn=16, uuid=24)
_INDEX = Stamp(checksum=12, lsn=24, uuid=32)
_BLOCKS = {
    b"XFSB": Stamp(checksum=224, lsn=240, uuid=32),
    b"XAGF": Stamp(checksum=216, lsn=208, uuid=64),
    b"XAGI": Stamp(checksum=312, lsn=320, uuid=296),
    b"XAFL": Stamp(checksum=32, lsn=24, uuid=8),
    b"AB3B": _SHORT_TREE,
    b"AB3C": _SHORT_TREE,
    b"IAB3": _SHORT_TREE,
    b"FIB3": _SHORT_TREE,
    b"RMB3": _SHORT_TREE,
    b"R3FC": _SHORT_TREE,
    b"BMA3": _LONG_TREE,
    b"XDB3": _DIRECTORY,
    b"XDD3": _DIRECTORY,
    b"XDF3": _DIRECTORY,
    b"XSLM": Stamp(checksum=12, lsn=48, uuid=16),
    b"XARM": Stamp(checksum=12, lsn=None, uuid=16),
}
_MAGIC_AT = 8
"""Of blocks of an index of names or attributes."""
_INDEXES = frozenset({b"\x3d\xf1", b"\x3d\xff", b"\x3b\xee", b"\x3e\xbe"})
_LSN = struct.Struct(">Q")
NO_LSN = (1 << 64) - 1


def stamp_of(raw: bytes) -> Stamp | None:
    """Where the block that begins with ``raw`` has them; None if it is none that we know."""
    return _BLOCKS.get(raw[:4], _INDEX if raw[_MAGIC_AT : _MAGIC_AT + 2] in _INDEXES else None)


def is_newer(raw: bytes, uuids: tuple[bytes, ...], lsn: int) -> bool:
    """Whether the block that begins with ``raw`` has what the transaction ``lsn`` of its file system changed already.

    ``uuids``: those of the file system. A block without one of them was something else before.
    """
    stamp = stamp_of(raw)
    if stamp is None or stamp.lsn is None or raw[stamp.uuid : stamp.uuid + 16] not in uuids:
        return False
    there = int(_LSN.unpack_from(raw, stamp.lsn)[0])
    return there not in (0, NO_LSN) and there >= lsn
