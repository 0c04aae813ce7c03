"""Read-only and flash file systems: squashfs, cramfs, romfs, erofs, UBI and UBIFS, zonefs.

Sources: Linux Documentation/filesystems/squashfs.rst, cramfs.rst, romfs.rst, erofs.rst, zonefs.rst;
include/uapi/linux/cramfs_fs.h; drivers/mtd/ubi/ubi-media.h; fs/ubifs/ubifs-media.h; fs/zonefs/zonefs.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.crc32c import crc32c_raw
from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.checksums import crc32_raw
from mntapi.filesystems.signatures.source import Found, Source

_ALL_ONES = 0xFFFFFFFF


def squashfs(source: Source, base: int) -> Found | None:
    """Version 4, always little-endian; block size and its logarithm agree."""
    block_size, log, major = struct.unpack("<12xI4x2xH4xH2x", source.read(base, 32))
    return Found() if major == 4 and log <= 20 and block_size == 1 << log else None


def squashfs3(source: Source, base: int) -> Found | None:
    """Versions 1 to 3, in either byte order."""
    raw = source.read(base, 32)
    major = int.from_bytes(raw[28:30], "big" if raw.startswith(b"sqsh") else "little")
    return Found() if 1 <= major <= 3 else None


def cramfs(source: Source, base: int) -> Found | None:
    """Either byte order."""
    signature, name = struct.unpack("16x16s16x16s", source.read(base, 64))
    return Found(values.text(name)) if signature == b"Compressed ROMFS" else None


def romfs(source: Source, base: int) -> Found | None:
    """romfs; the first 512 bytes (or all of a smaller one) add up to zero as big-endian words."""
    size = int.from_bytes(source.read(base, 12)[8:], "big")
    covered = source.read(base, min(512, size) & ~3)
    if size < 32 or sum(struct.unpack(f">{len(covered) // 4}I", covered)) & _ALL_ONES:
        return None
    return Found(values.text(source.read(base + 16, 16)))


@dataclass(frozen=True, slots=True)
class ErofsSuper:
    """``struct erofs_super_block``; ``checksum`` counts when the first compatible feature is set."""

    checksum: int
    compatible: int
    block_log: int
    uuid: bytes
    label: bytes


_EROFS = struct.Struct("<4xIIB35x16s16s")


def erofs(source: Source, base: int) -> Found | None:
    """Blocks of 512 bytes to 64 KiB; the checksum, if any, covers the rest of the superblock's block."""
    superblock = ErofsSuper(*_EROFS.unpack(source.read(base, _EROFS.size)))
    if not 9 <= superblock.block_log <= 16:
        return None
    block_size = 1 << superblock.block_log
    if superblock.compatible & 1:
        raw = source.read(base, block_size - base if block_size > base else block_size)
        if crc32c_raw(_ALL_ONES, raw[:4] + bytes(4) + raw[8:]) != superblock.checksum:
            return None
    return Found(values.text(superblock.label), values.uuid(superblock.uuid))


def ubi(source: Source, base: int) -> Found | None:
    """The erase counter header of UBI's first block, version 1, with its CRC; the UUID is the image sequence number."""
    raw = source.read(base, 64)
    version, sequence, checksum = struct.unpack(">4xB19xI32xI", raw)
    if version != 1 or crc32_raw(_ALL_ONES, raw[:60]) != checksum:
        return None
    return Found(uuid=str(sequence) if sequence else None)


def ubifs(source: Source, base: int) -> Found | None:
    """The superblock node of UBIFS, with its CRC."""
    raw = source.read(base, 4096)
    checksum, length, kind, uuid = struct.unpack_from("<4xI8xIB87x16s", raw)
    if kind != 6 or length != 4096 or crc32_raw(_ALL_ONES, raw[8:]) != checksum:
        return None
    return Found(uuid=values.uuid(uuid))


def zonefs(source: Source, base: int) -> Found | None:
    """zonefs; the CRC covers the whole superblock with its own field as zero."""
    raw = source.read(base, 4096)
    checksum, label, uuid = struct.unpack_from("<4xI64s16s", raw)
    if crc32_raw(_ALL_ONES, raw[:4] + bytes(4) + raw[8:]) != checksum:
        return None
    return Found(values.text(label), values.uuid(uuid))
