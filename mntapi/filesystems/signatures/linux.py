"""Linux file systems without a family: ReiserFS, Reiser4, JFS, NILFS2, F2FS.

Sources: Linux fs/reiserfs/reiserfs.h (until 6.12), Documentation/filesystems/nilfs2.rst and include/uapi/linux/nilfs2_ondisk.h,
include/linux/f2fs_fs.h, fs/jfs/jfs_superblock.h; libblkid of util-linux for Reiser4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.checksums import crc32_raw
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.units import KIB


@dataclass(frozen=True, slots=True)
class ReiserSuper:
    """``struct reiserfs_super_block``: 3.5 ends with the magic, 3.6 adds UUID and label. ``state`` 1 is clean, 2 is not."""

    journal_block: int
    block_size: int
    state: int
    magic: bytes
    uuid: bytes
    label: bytes


_REISER = struct.Struct("<12xI28xH4xH10s22x16s16s")


def reiserfs(source: Source, base: int) -> Found | None:
    """Version 3; not a stale superblock that lies in the journal."""
    superblock = ReiserSuper(*_REISER.unpack(source.read(base, _REISER.size)))
    if superblock.block_size < 512 or base // KIB // (superblock.block_size // 512) > superblock.journal_block // 2:
        return None
    dirty = "not unmounted cleanly" if superblock.state == 2 else None
    if superblock.magic.startswith(b"ReIsErFs"):
        return Found(dirty=dirty)
    return Found(values.text(superblock.label), values.uuid(superblock.uuid), dirty)


def reiser4(source: Source, base: int) -> Found | None:
    """Version 4: the master superblock."""
    uuid, label = struct.unpack("20x16s16s", source.read(base, 52))
    return Found(values.text(label), values.uuid(uuid))


@dataclass(frozen=True, slots=True)
class JfsSuper:
    """``struct jfs_superblock``: block size of the aggregate and of the device, each with its logarithm."""

    block_size: int
    block_log: int
    log_difference: int
    device_block_size: int
    device_block_log: int
    uuid: bytes
    label: bytes

    def is_sane(self) -> bool:
        """Whether sizes and logarithms agree."""
        return (
            self.block_log < 32
            and self.block_size == 1 << self.block_log
            and self.device_block_log < 32
            and self.device_block_size == 1 << self.device_block_log
            and self.block_log - self.device_block_log == self.log_difference
        )


_JFS = struct.Struct("<16xIHHIH106x16s16s")


def jfs(source: Source, base: int) -> Found | None:
    """JFS version 1 and 2 (the magic is the same)."""
    superblock = JfsSuper(*_JFS.unpack(source.read(base, _JFS.size)))
    return Found(values.text(superblock.label), values.uuid(superblock.uuid)) if superblock.is_sane() else None


@dataclass(frozen=True, slots=True)
class NilfsSuper:
    """``struct nilfs_super_block``: ``length`` bytes are covered by ``checksum``, its own field read as zero."""

    length: int
    seed: int
    checksum: int
    uuid: bytes
    label: bytes


_NILFS = struct.Struct("<8xH2xII132x16s80s")


def nilfs2(source: Source, base: int) -> Found | None:
    """Either superblock, the one at 1 KiB or the one 4 KiB before the end; they are written in turn and say the same here."""
    raw = source.read(base, 1024)
    superblock = NilfsSuper(*_NILFS.unpack_from(raw))
    if not _NILFS.size <= superblock.length <= len(raw):
        return None
    covered = raw[:16] + bytes(4) + raw[20 : superblock.length]
    if crc32_raw(superblock.seed, covered) != superblock.checksum:
        return None
    return Found(values.text(superblock.label), values.uuid(superblock.uuid))


@dataclass(frozen=True, slots=True)
class F2fsSuper:
    """``struct f2fs_super_block``; ``checksum_offset`` 0 means that there is no checksum."""

    major: int
    minor: int
    log_block_size: int
    checksum_offset: int
    uuid: bytes
    label: bytes


_F2FS = struct.Struct("<4xHH8xI12xI72x16s1024s")


def f2fs(source: Source, base: int) -> Found | None:
    """The first superblock. Version 1.0 had another layout, so nothing but the kind is told of it."""
    superblock = F2fsSuper(*_F2FS.unpack(source.read(base, _F2FS.size)))
    if (superblock.major, superblock.minor) == (1, 0):
        return Found()
    end = superblock.checksum_offset
    if not 12 <= superblock.log_block_size <= 16 or end > 4 * KIB:
        return None
    if end and crc32_raw(0xF2F52010, source.read(base, end)) != int.from_bytes(source.read(base + end, 4), "little"):
        return None
    return Found(values.utf16(superblock.label, "le"), values.uuid(superblock.uuid))
