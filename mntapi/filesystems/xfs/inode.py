"""One inode: what ``stat`` says, and its two forks: the map of its contents, and that of its attributes.

Source: XFS Algorithms & Data Structures, chapter "On-disk Inode"; Linux fs/xfs/libxfs/xfs_format.h ``struct xfs_dinode``,
``xfs_dfork_data_extents``; fs/xfs/libxfs/xfs_inode_buf.c ``xfs_inode_from_disk_ts``; fs/xfs/xfs_linux.h
``xfs_to_linux_dev_t``.
"""

from __future__ import annotations

import enum
import os
import struct
from typing import NamedTuple

from mntapi.errors import Corrupt
from mntapi.filesystems.kinds import kind_of_mode
from mntapi.types import FileKind

MAGIC = b"IN"
_CORE = struct.Struct(">2sH2BH3I4x6Q4xIH2B6xH8x")
_MORE = struct.Struct(">20xQ16x2Q16s")
"""What version 3 adds, from byte 100 on."""
CHECKSUM_AT = 100
_SIZE_OLD = 100
_SIZE_NEW = 176
_SECOND_NS = 1_000_000_000
_BIGTIME_EPOCH_NS = -(1 << 31) * _SECOND_NS


class Format(enum.IntEnum):
    """What a fork holds."""

    DEVICE = 0
    LOCAL = 1
    EXTENTS = 2
    BTREE = 3


_REALTIME = 0x1
_BIGTIME = 0x8
_NREXT64 = 0x10


class Fork(NamedTuple):
    """A part of an inode: contents, a list of extents, or the root of a tree of them. ``format`` may be none we know."""

    format: int
    extents: int
    """How many there are, in all blocks of the tree."""
    raw: bytes
    at: int
    """Byte on the volume."""


class Inode(NamedTuple):
    """An inode. Size in bytes, times in nanoseconds since 1970, ``blocks`` of the file system.

    A tuple, as ``Node`` is, because a walk makes one for each file.
    """

    number: int
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birthtime_ns: int | None
    is_realtime: bool
    data: Fork
    attributes: Fork | None

    @property
    def kind(self) -> FileKind | None:
        """None where the mode has no known type, as in an inode that is free."""
        return kind_of_mode(self.mode)

    @property
    def rdev(self) -> int:
        """The device number, 0 for all that is no device."""
        if self.kind not in (FileKind.CHAR_DEVICE, FileKind.BLOCK_DEVICE) or self.data.format != Format.DEVICE:
            return 0
        number = int.from_bytes(self.data.raw[:4], "big")
        return os.makedev(number >> 18 & 0x1FF, number & 0x3FFFF)


def parse_inode(raw: bytes, number: int, at: int, uuid: bytes | None) -> Inode:
    """Inode ``number`` in ``raw``, which is byte ``at`` of the volume and whose checksum, if any, was found right.

    ``uuid`` is what inodes of this file system carry; None in version 4, where they have none.

    Raises:
        Corrupt: it is none, another one, another volume's, or its parts do not fit.
    """
    core = _CORE.unpack_from(raw)
    magic, mode, version, form, links_old, uid, gid, links = core[:8]
    extents_big, atime, mtime, ctime, size, blocks, extents, attribute_extents, fork_at, attribute_form, flags = core[8:]
    if magic != MAGIC or version not in ((1, 2) if uuid is None else (3,)):
        raise Corrupt(f"no inode where number {number} should be", offset=at, expected=MAGIC.hex(), found=magic.hex())
    more = birth = 0
    start = _SIZE_OLD
    if uuid is not None:
        more, birth, own, own_uuid = _MORE.unpack_from(raw, _SIZE_OLD)
        start = _SIZE_NEW
        if own != number:
            raise Corrupt("an inode with another's number", offset=at + 152, expected=number, found=own)
        if own_uuid != uuid:
            raise Corrupt("an inode of another file system", offset=at + 160, expected=uuid.hex(), found=own_uuid.hex())
    if size >> 63:
        raise Corrupt("an inode with an impossible size", offset=at + 56, expected="less than 2^63", found=size)
    split = start + 8 * fork_at if fork_at else len(raw)
    if split > len(raw) or (fork_at and split == len(raw)):
        raise Corrupt("an inode whose attributes lie outside it", offset=at + 82, found=8 * fork_at)
    is_large = version == 3 and more & _NREXT64
    is_big = bool(version == 3 and more & _BIGTIME)
    return Inode(
        number=number,
        mode=mode,
        uid=uid,
        gid=gid,
        links=links_old if version == 1 else links,
        size=size,
        blocks=blocks,
        atime_ns=_time_ns(atime, is_big),
        mtime_ns=_time_ns(mtime, is_big),
        ctime_ns=_time_ns(ctime, is_big),
        birthtime_ns=_time_ns(birth, is_big) if version == 3 else None,
        is_realtime=bool(flags & _REALTIME),
        data=Fork(form, extents_big if is_large else extents, raw[start:split], at + start),
        attributes=Fork(attribute_form, extents if is_large else attribute_extents, raw[split:], at + split)
        if fork_at
        else None,
    )


def _time_ns(raw: int, is_big: bool) -> int:
    """Signed seconds and nanoseconds in 32 bits each, or nanoseconds since the earliest time those can say."""
    if is_big:
        return raw + _BIGTIME_EPOCH_NS
    seconds = raw >> 32
    return (seconds - (1 << 32) if seconds >> 31 else seconds) * _SECOND_NS + (raw & 0xFFFFFFFF)
