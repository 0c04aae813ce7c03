"""File systems of other Unixes and their neighbours: UFS, HPFS, Minix, VxFS, SCO BFS, BeOS BFS.

Sources: FreeBSD sys/ufs/ffs/fs.h; Linux fs/hpfs/hpfs.h, include/uapi/linux/minix_fs.h, fs/freevxfs/vxfs.h,
include/uapi/linux/bfs_fs.h, fs/befs/befs_fs_types.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_UFS2 = 0x19540119


@dataclass(frozen=True, slots=True)
class UfsSuper:
    """``struct fs``, what a probe needs of it."""

    block_size: int
    fragment_size: int
    id0: int
    id1: int
    label: bytes
    magic: int


_UFS = "<48xII88xII528x32s652xI"


def ufs(source: Source, base: int) -> Found | None:
    """UFS1 and UFS2 in either byte order; only UFS2 has a label."""
    raw = source.read(base, struct.calcsize(_UFS))
    superblock = UfsSuper(*struct.unpack(_UFS, raw))
    if superblock.block_size & 0xFFFF == 0 or superblock.fragment_size > superblock.block_size:
        superblock = UfsSuper(*struct.unpack(_UFS.replace("<", ">"), raw))
    sizes = (superblock.block_size, superblock.fragment_size)
    if not all(values.is_power_of_two(size) and 512 <= size <= 65536 for size in sizes):
        return None
    label = values.text(superblock.label) if superblock.magic == _UFS2 else None
    has_id = superblock.id0 or superblock.id1
    return Found(label, f"{superblock.id0:08x}{superblock.id1:08x}" if has_id else None)


def hpfs(source: Source, base: int) -> Found | None:
    """HPFS: superblock, spare superblock behind it, and the boot block for label and serial number."""
    if not source.has(base + 512, b"\x49\x18\x91\xf9"):
        return None
    boot = source.read(0, 512)
    if boot[510:] != b"\x55\xaa" or boot[54:58] != b"HPFS" or boot[38] != 0x28:
        return Found()
    return Found(values.text(boot[43:54]), values.serial32(boot[39:43]))


@dataclass(frozen=True, slots=True)
class MinixSuper:
    """``struct minix_super_block`` of versions 1 and 2; blocks are 1024 bytes."""

    inode_count: int
    zones16: int
    inode_map_blocks: int
    zone_map_blocks: int
    first_zone: int
    log_zone_size: int
    max_size: int
    magic: int
    zones32: int

    def is_sane(self) -> bool:
        """Whether the maps are large enough for what they map, and the first zone lies behind them."""
        zones = self.zones32 if self.magic in (0x2468, 0x2478) else self.zones16
        return (
            self.inode_count > 0
            and self.inode_map_blocks * 8192 > self.inode_count
            and self.zone_map_blocks * 8192 > zones - self.first_zone >= 0
            and self.first_zone >= 2 + self.inode_map_blocks + self.zone_map_blocks
            and self.log_zone_size == 0
            and self.max_size > 0
        )


_MINIX = "<6HIH2xI"


def minix(source: Source, base: int) -> Found | None:
    """Versions 1 and 2 in either byte order; the magic is two bytes only, so the maps are checked."""
    raw = source.read(base, struct.calcsize(_MINIX))
    orders = (MinixSuper(*struct.unpack(_MINIX.replace("<", order), raw)) for order in "<>")
    found = any(superblock.magic in (0x137F, 0x138F, 0x2468, 0x2478) and superblock.is_sane() for superblock in orders)
    return Found() if found and not _is_ext(source) else None


def minix3(source: Source, base: int) -> Found | None:
    """Version 3: block sizes of 1 to 4 KiB, and maps that are there."""
    raw = source.read(base, 32)
    order = "<" if raw[24:26] == b"\x5a\x4d" else ">"
    inodes, inode_map, zone_map, block_size = struct.unpack(f"{order}I2xHH18xH2x", raw)
    good = inodes and zone_map and block_size in (1024, 2048, 4096) and inode_map * block_size * 8 > inodes
    return Found() if good and not _is_ext(source) else None


def _is_ext(source: Source) -> bool:
    """Parts of an ext superblock can look like Minix."""
    return source.has(0x438, b"\x53\xef")


def vxfs(source: Source, base: int) -> Found | None:
    """Veritas, version 1 to 13 of the layout, little-endian at 1 KiB (x86) or big-endian at 8 KiB (SPARC, HP-UX)."""
    raw = source.read(base, 36)
    order = "<" if raw[0] == 0xF5 else ">"
    version, block_size = struct.unpack(f"{order}4xI24xI", raw)
    return Found() if 1 <= version <= 17 and values.is_power_of_two(block_size) else None


def bfs(source: Source, base: int) -> Found | None:
    """The boot file system of SCO UnixWare: data starts behind the superblock and ends behind its start."""
    start, end = struct.unpack("<4xII", source.read(base, 12))
    return Found() if 512 <= start < end else None


@dataclass(frozen=True, slots=True)
class BefsSuper:
    """The superblock of BeOS and Haiku."""

    label: bytes
    byte_order: int
    block_size: int
    block_shift: int
    magic2: int
    magic3: int


_BEFS = "<32s4xIII20xI32x8xI"


def befs(source: Source, base: int) -> Found | None:
    """BFS of BeOS and Haiku; its volume id is an attribute of the root folder and not looked for."""
    order = "<" if source.has(base + 32, b"1SFB") else ">"
    layout = _BEFS.replace("<", order)
    superblock = BefsSuper(*struct.unpack(layout, source.read(base, struct.calcsize(layout))))
    if (superblock.byte_order, superblock.magic2, superblock.magic3) != (0x42494745, 0xDD121031, 0x15B6830E):
        return None
    if not 10 <= superblock.block_shift <= 13 or superblock.block_size != 1 << superblock.block_shift:
        return None
    return Found(values.text(superblock.label))
