"""One inode: what ``stat`` says, its flags, and the 60 bytes that lead to its contents.

Source: Linux Documentation/filesystems/ext4/inodes.rst; fs/ext4/ext4.h ``ext4_decode_extra_time``, ``ext4_isize``;
include/linux/kdev_t.h for device numbers.
"""

from __future__ import annotations

import enum
import os
import struct
from typing import NamedTuple

from mntapi.filesystems.kinds import kind_of_mode
from mntapi.types import FileKind

BASE_SIZE = 128
_BASE = struct.Struct("<2H I 3i I 2H 2I 4x 60s 4x 2I 4x 4H 4x")
_EXTRA = struct.Struct("<H 2x 3I i I")
"""From byte 128 on: how much of it is used, then the high halves of the times."""
_WORDS = struct.Struct("<2I")


class Flag(enum.IntEnum):
    """Bits of ``i_flags`` that decide how contents are read."""

    ENCRYPT = 0x800
    HUGE_FILE = 0x40000
    EXTENTS = 0x80000
    EA_INODE = 0x200000
    INLINE_DATA = 0x10000000
    CASEFOLD = 0x40000000


class Inode(NamedTuple):
    """An inode. Sizes in bytes, times in nanoseconds since 1970; ``sectors`` counts as ``i_blocks`` does."""

    mode: int
    uid: int
    gid: int
    size: int
    size_high: int
    links: int
    sectors: int
    flags: int
    """Of ``Flag``, and others."""
    acl_block: int
    block: bytes
    """``i_block``: extent tree root, block map, inline data, link target, or device number."""
    atime_ns: int
    ctime_ns: int
    mtime_ns: int
    birthtime_ns: int | None
    body: bytes
    """What follows the fixed fields: in-inode extended attributes."""

    @property
    def kind(self) -> FileKind | None:
        """None where the mode has no known type, as in an inode that was never used."""
        return kind_of_mode(self.mode)

    @property
    def rdev(self) -> int:
        """The device number, 0 for all that is no device."""
        if self.kind not in (FileKind.CHAR_DEVICE, FileKind.BLOCK_DEVICE):
            return 0
        old, new = _WORDS.unpack_from(self.block)
        if old:
            return os.makedev(old >> 8 & 0xFF, old & 0xFF)
        return os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)


def parse_inode(raw: bytes) -> Inode:
    """The inode in ``raw``, 128 bytes or as many as the superblock says."""
    (
        mode, uid, size, atime, ctime, mtime, _deleted, gid, links, sectors, flags, block, acl, size_high,
        sectors_high, acl_high, uid_high, gid_high,
    ) = _BASE.unpack_from(raw)  # fmt: skip
    extra_size = 0
    ctime_extra = mtime_extra = atime_extra = birth = birth_extra = 0
    if len(raw) > BASE_SIZE:
        extra_size, ctime_extra, mtime_extra, atime_extra, birth, birth_extra = _EXTRA.unpack_from(raw, BASE_SIZE)
        extra_size = min(extra_size, len(raw) - BASE_SIZE)
    return Inode(
        mode,
        uid | uid_high << 16,
        gid | gid_high << 16,
        size,
        size_high,
        links,
        sectors | sectors_high << 32,
        flags,
        acl | acl_high << 32,
        block,
        _time_ns(atime, atime_extra if extra_size >= 16 else 0),
        _time_ns(ctime, ctime_extra if extra_size >= 8 else 0),
        _time_ns(mtime, mtime_extra if extra_size >= 12 else 0),
        _time_ns(birth, birth_extra) if extra_size >= 24 else None,
        raw[BASE_SIZE + extra_size :],
    )


def _time_ns(seconds: int, extra: int) -> int:
    """The low two bits of ``extra`` carry the seconds, which are signed, past 2038; the rest are nanoseconds."""
    return (seconds + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2) if extra else seconds * 1_000_000_000
