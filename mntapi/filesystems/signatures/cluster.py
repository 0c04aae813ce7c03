"""Storage shared or replicated between machines: DRBD, GFS, GFS2, OCFS2, Oracle ASM, Ceph BlueStore, mpool, ScoutFS.

Sources: drbd-headers drbd_meta_data.h; Linux include/uapi/linux/gfs2_ondisk.h, fs/ocfs2/ocfs2_fs.h; libblkid of util-linux
for the rest (open source, no specification published).
"""

from __future__ import annotations

import string
import struct
from dataclasses import dataclass

from mntapi.crc32c import crc32c_raw
from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_ALL_ONES = 0xFFFFFFFF


def bluestore(source: Source, base: int) -> Found | None:
    """A device of a Ceph OSD."""
    return Found()


def drbd8(source: Source, base: int) -> Found | None:
    """Internal metadata of DRBD 8.0 to 8.4, in the last 4 KiB; the UUID is the device's, as a bare number."""
    return _drbd(source, base + 40)


def drbd9(source: Source, base: int) -> Found | None:
    """Internal metadata of DRBD 9, in the last 4 KiB."""
    return _drbd(source, base + 48)


def _drbd(source: Source, uuid_at: int) -> Found | None:
    uuid = int.from_bytes(source.read(uuid_at, 8), "big")
    return Found(uuid=f"{uuid:x}" if uuid else None)


def drbdmanage(source: Source, base: int) -> Found | None:
    """The control volume of drbdmanage: 32 hexadecimal digits and a line feed behind the magic."""
    digits, end = struct.unpack("11x32ss", source.read(base, 44))
    if end != b"\n" or not set(digits) <= set(string.hexdigits.encode()):
        return None
    return Found(uuid=values.text(digits))


@dataclass(frozen=True, slots=True)
class GfsSuper:
    """``struct gfs2_sb``: the lock table, ``cluster:name``, serves as label."""

    format: int
    multihost: int
    block_size: int
    block_log: int
    table: bytes
    uuid: bytes


_GFS = struct.Struct(">24xII4xII116x64s32x16s")


def gfs(source: Source, base: int) -> Found | None:
    """Version 1."""
    return _gfs(source, base, (1309,), 1401)


def gfs2(source: Source, base: int) -> Found | None:
    """Version 2."""
    return _gfs(source, base, (1801, 1802), 1900)


def _gfs(source: Source, base: int, formats: tuple[int, ...], multihost: int) -> Found | None:
    superblock = GfsSuper(*_GFS.unpack(source.read(base, _GFS.size)))
    if superblock.format not in formats or superblock.multihost != multihost:
        return None
    return Found(values.text(superblock.table), values.uuid(superblock.uuid))


@dataclass(frozen=True, slots=True)
class OcfsSuper:
    """``struct ocfs2_dinode`` with the superblock in it; ``block`` is its own number."""

    block: int
    block_log: int
    cluster_log: int
    label: bytes
    uuid: bytes


_OCFS = struct.Struct("<80xQ160xII16x64s16s")


def ocfs2(source: Source, base: int) -> Found | None:
    """OCFS2; the superblock is block 2 and knows it."""
    superblock = OcfsSuper(*_OCFS.unpack(source.read(base, _OCFS.size)))
    if not 9 <= superblock.block_log <= 12 or not 12 <= superblock.cluster_log <= 20:
        return None
    if superblock.block << superblock.block_log != base:
        return None
    return Found(values.text(superblock.label), values.uuid(superblock.uuid))


def oracleasm(source: Source, base: int) -> Found | None:
    """A disk labelled by Oracle's ASMLib."""
    return Found(values.text(source.read(base, 64)[40:]))


def mpool(source: Source, base: int) -> Found | None:
    """A drive of a Micron media pool; 62 bytes and their CRC-32C."""
    name, uuid, checksum = struct.unpack("<8x32s16s6xI", source.read(base, 66))
    if crc32c_raw(_ALL_ONES, source.read(base, 62)) ^ _ALL_ONES != checksum:
        return None
    return Found(values.text(name), values.uuid(uuid))


def scoutfs_meta(source: Source, base: int) -> Found | None:
    """The metadata device of a ScoutFS."""
    return _scoutfs(source, base, is_meta=True)


def scoutfs_data(source: Source, base: int) -> Found | None:
    """The data device of a ScoutFS."""
    return _scoutfs(source, base, is_meta=False)


def _scoutfs(source: Source, base: int, *, is_meta: bool) -> Found | None:
    raw = source.read(base, 4096)
    checksum, flags, uuid = struct.unpack_from("<I44xQ16s", raw)
    if bool(flags & 1) is not is_meta or crc32c_raw(_ALL_ONES, raw[4:]) != checksum:
        return None
    return Found(uuid=values.uuid(uuid))
