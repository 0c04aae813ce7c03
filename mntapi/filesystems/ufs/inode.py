"""One inode of UFS1 or UFS2: what ``stat`` says, its flags, and the 15 pointers.

Source: FreeBSD sys/ufs/ufs/dinode.h ``struct ufs1_dinode``, ``struct ufs2_dinode``; where older systems keep user and group:
Linux fs/ufs/ufs_fs.h ``struct ufs_inode``, fs/ufs/util.h ``ufs_get_inode_uid``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from mntapi.filesystems.kinds import kind_of_mode
from mntapi.filesystems.ufs.superblock import Superblock
from mntapi.types import FileKind

DIRECT = 12
SNAPSHOT = 0x200000
"""``SF_SNAPSHOT``: the file is a snapshot of the file system, and the pointers 1 and 2 in it mean something else."""
_UFS1 = "4HQ 6i 60s 2I 4x 2I 8x"
_UFS2 = "2H2I 4x 2Q 4q 4i 8x I 20x 120s 24x"
_MOVED = 0xFFFF
"""A user or group too large for its old place."""


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode. Sizes in bytes, times in nanoseconds since 1970; ``sectors`` of 512 bytes are what it takes on disk."""

    mode: int
    uid: int
    gid: int
    size: int
    links: int
    sectors: int
    flags: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birthtime_ns: int | None
    area: bytes
    """The pointers as they are on disk: 12 direct ones, 3 indirect ones; or the target of a short link."""
    pointers: tuple[int, ...]

    @property
    def kind(self) -> FileKind | None:
        """None where the mode has no known type, as in an inode that was never used."""
        return kind_of_mode(self.mode)

    @property
    def rdev(self) -> int:
        """The device number, 0 for all that is no device. The systems agree on the 16 bits of old only."""
        if self.kind not in (FileKind.CHAR_DEVICE, FileKind.BLOCK_DEVICE) or self.pointers[0] >> 16:
            return 0
        return os.makedev(self.pointers[0] >> 8, self.pointers[0] & 0xFF)


def parse_inode(raw: bytes, superblock: Superblock) -> Inode:
    """The inode in ``raw``, of ``superblock.inode_size`` bytes."""
    return (_parse_ufs1 if superblock.version == 1 else _parse_ufs2)(raw, superblock)


def _parse_ufs1(raw: bytes, superblock: Superblock) -> Inode:
    order = superblock.order
    fields = struct.unpack(order + _UFS1, raw)
    mode, links, uid, gid, size, atime, atime_part, mtime, mtime_part, ctime, ctime_part, area, flags, sectors, *ids = fields
    if superblock.is_44bsd:
        uid, gid = ids
    else:
        moved = struct.unpack_from(order + "2I", raw, 116)
        uid, gid = (new if old == _MOVED else old for old, new in zip((uid, gid), moved, strict=True))
    return Inode(
        mode=mode,
        uid=uid,
        gid=gid,
        size=size,
        links=links,
        sectors=sectors,
        flags=flags if superblock.is_44bsd else 0,
        atime_ns=_time_ns(atime, atime_part),
        mtime_ns=_time_ns(mtime, mtime_part),
        ctime_ns=_time_ns(ctime, ctime_part),
        birthtime_ns=None,
        area=area,
        pointers=struct.unpack(order + "15I", area),
    )


def _parse_ufs2(raw: bytes, superblock: Superblock) -> Inode:
    fields = struct.unpack(superblock.order + _UFS2, raw)
    mode, links, uid, gid, size, blocks, atime, mtime, ctime, birth, mtime_part, atime_part, ctime_part, birth_part = fields[
        :14
    ]
    flags, area = fields[14:]
    return Inode(
        mode=mode,
        uid=uid,
        gid=gid,
        size=size,
        links=links,
        sectors=blocks,
        flags=flags,
        atime_ns=_time_ns(atime, atime_part),
        mtime_ns=_time_ns(mtime, mtime_part),
        ctime_ns=_time_ns(ctime, ctime_part),
        birthtime_ns=_time_ns(birth, birth_part) or None,
        area=area,
        pointers=struct.unpack(superblock.order + "15Q", area),
    )


def _time_ns(seconds: int, part: int) -> int:
    """Some systems keep another thing in the place of the nanoseconds."""
    return seconds * 1_000_000_000 + (part if 0 <= part < 1_000_000_000 else 0)
