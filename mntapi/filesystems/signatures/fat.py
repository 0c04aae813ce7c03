"""FAT12, FAT16, FAT32 and exFAT. Sources: Microsoft "FAT: General Overview of On-Disk Format" 1.03 and "exFAT file system
specification"; the first sector's checks are libblkid's, because FAT's own signature is shared with every boot sector.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.units import KIB

_DIRECTORY_LIMIT = 256 * KIB
"""Bytes of a root directory that are searched for the label; formatters put it first."""
_CHAIN_LIMIT = 100
"""Clusters of a root directory that are searched for the label."""
_DIRTY = "volume is marked dirty"


@dataclass(frozen=True, slots=True)
class BootSector:
    """The BIOS parameter block. Sizes are sectors unless they say bytes."""

    sector_size: int
    cluster_sectors: int
    reserved: int
    fat_count: int
    root_entries: int
    sectors16: int
    media: int
    fat_length16: int
    sectors32: int
    fat_length32: int
    root_cluster: int
    fsinfo_sector: int

    @property
    def is_fat32(self) -> bool:
        """FAT32 has the length of a FAT in the wide field only."""
        return not self.fat_length16

    @property
    def fat_length(self) -> int:
        """Sectors in one FAT."""
        return self.fat_length16 or self.fat_length32

    @property
    def root_sector(self) -> int:
        """First sector after the FATs: the root directory of FAT12 and FAT16, the first cluster of FAT32."""
        return self.reserved + self.fat_count * self.fat_length

    @property
    def cluster_count(self) -> int:
        """Clusters of data; negative if the areas before them do not fit."""
        directory = -(-self.root_entries * 32 // self.sector_size)
        return ((self.sectors16 or self.sectors32) - self.root_sector - directory) // self.cluster_sectors

    def is_sane(self) -> bool:
        """Whether the fields are those of a FAT."""
        if not (values.is_power_of_two(self.cluster_sectors) and values.is_power_of_two(self.sector_size)):
            return False
        if not 512 <= self.sector_size <= 4096 or not (self.media >= 0xF8 or self.media == 0xF0):
            return False
        if not (self.fat_count and self.reserved and self.fat_length):
            return False
        return 0 <= self.cluster_count <= (0x0FFFFFF6 if self.is_fat32 else 0xFFF4)


_BOOT = struct.Struct("<11xHBHBHHBH8xII4xIH")
_NAMES = (
    (0x52, b"MSWIN"),
    (0x52, b"FAT32   "),
    (0x36, b"MSDOS"),
    (0x36, b"FAT16   "),
    (0x36, b"FAT12   "),
    (0x36, b"FAT     "),
)


def vfat(source: Source, base: int) -> Found | None:
    """FAT of any width. The label is that of the root directory, never the stale one of the boot sector."""
    raw = source.read(base, 512)
    boot = BootSector(*_BOOT.unpack_from(raw))
    if not (_is_named(raw) or _is_plain(raw)) or not boot.is_sane() or not _has_fsinfo(source, boot):
        return None
    extra = 66 if boot.is_fat32 else 38  # where the extended boot signature stands; the serial number follows it
    serial = values.serial32(raw[extra + 1 : extra + 5]) if raw[extra] in (0x28, 0x29) else None
    dirty = raw[extra - 1] & 1 or _is_marked_in_fat(source, boot)
    return Found(_label(source, boot), serial, _DIRTY if dirty else None)


def _is_named(raw: bytes) -> bool:
    return any(raw.startswith(name, at) for at, name in _NAMES)


def _is_plain(raw: bytes) -> bool:
    """A boot sector without FAT's name, as DOS 3 wrote it; JFS and HPFS of OS/2 put a FAT-like sector in front of theirs."""
    return raw[0x1FE:] == b"\x55\xaa" and raw[0x36:0x3E] not in (b"JFS     ", b"HPFS    ")


def _has_fsinfo(source: Source, boot: BootSector) -> bool:
    """FAT32: the information sector has its two signatures, or none at all."""
    if not boot.is_fat32 or not boot.fsinfo_sector:
        return True
    raw = source.read(boot.fsinfo_sector * boot.sector_size, 512)
    return raw[:4] in (b"RRaA", b"RRdA", bytes(4)) and raw[484:488] in (b"rrAa", bytes(4))


def _is_marked_in_fat(source: Source, boot: BootSector) -> bool:
    """Whether the clean-shutdown bit in the second entry of the first FAT is off. FAT12 has no such bit."""
    fat = boot.reserved * boot.sector_size
    if boot.is_fat32:
        entry = source.detail(fat + 4, 4)
        return len(entry) == 4 and not entry[3] & 0x08
    entry = source.detail(fat + 2, 2)
    return boot.cluster_count >= 0xFF4 and len(entry) == 2 and not entry[1] & 0x80


def _label(source: Source, boot: BootSector) -> str | None:
    parts = _root32(source, boot) if boot.is_fat32 else _root16(source, boot)
    for part in parts:
        for at in range(0, len(part) - 31, 32):
            entry = part[at : at + 32]
            if entry[0] == 0:
                return None
            if _is_label(entry):
                name = entry[:11]
                return values.text(b"\xe5" + name[1:] if name[0] == 0x05 else name)
    return None


def _is_label(entry: bytes) -> bool:
    """In use, not part of a long name, no contents, and the volume attribute without the folder one."""
    attributes = entry[11] & 0x3F
    return (
        entry[0] != 0xE5 and attributes != 0x0F and attributes & 0x18 == 0x08 and not (any(entry[20:22]) or any(entry[26:28]))
    )


def _root16(source: Source, boot: BootSector) -> Iterator[bytes]:
    yield source.detail(boot.root_sector * boot.sector_size, min(boot.root_entries * 32, _DIRECTORY_LIMIT))


def _root32(source: Source, boot: BootSector) -> Iterator[bytes]:
    """The clusters of the root directory, as far as the limits go."""
    cluster_size = boot.cluster_sectors * boot.sector_size
    cluster = boot.root_cluster
    for _ in range(min(_CHAIN_LIMIT, max(1, _DIRECTORY_LIMIT // cluster_size))):
        if not 2 <= cluster < boot.fat_length * boot.sector_size // 4:
            return
        yield source.detail((boot.root_sector + (cluster - 2) * boot.cluster_sectors) * boot.sector_size, cluster_size)
        entry = source.detail(boot.reserved * boot.sector_size + cluster * 4, 4)
        cluster = int.from_bytes(entry, "little") & 0x0FFFFFFF


@dataclass(frozen=True, slots=True)
class ExfatBoot:
    """The main boot sector of exFAT. Offsets and lengths are sectors, shifts are powers of two."""

    jump: bytes
    must_be_zero: bytes
    volume_length: int
    fat_offset: int
    fat_length: int
    heap_offset: int
    cluster_count: int
    root_cluster: int
    serial: bytes
    flags: int
    sector_shift: int
    cluster_shift: int
    fat_count: int
    signature: int

    def is_sane(self) -> bool:
        """Whether the fields are within what the specification allows."""
        if self.jump != b"\xeb\x76\x90" or any(self.must_be_zero) or self.signature != 0xAA55:
            return False
        if not 9 <= self.sector_shift <= 12 or self.cluster_shift > 25 - self.sector_shift or self.fat_count not in (1, 2):
            return False
        return self.fat_offset >= 24 and self.fat_offset + self.fat_length <= self.heap_offset < self.volume_length

    def cluster_offset(self, cluster: int) -> int:
        """Byte offset of a cluster."""
        return (self.heap_offset + ((cluster - 2) << self.cluster_shift)) << self.sector_shift


_EXFAT = struct.Struct("<3s8x53s8xQIIIII4s2xHBBB399xH")


def exfat(source: Source, base: int) -> Found | None:
    """exFAT; the label is an entry of the root directory. The boot checksum is not asked for: Windows too reads without it."""
    boot = ExfatBoot(*_EXFAT.unpack(source.read(base, _EXFAT.size)))
    if not boot.is_sane():
        return None
    return Found(_exfat_label(source, boot), values.serial32(boot.serial), _DIRTY if boot.flags & 2 else None)


def _exfat_label(source: Source, boot: ExfatBoot) -> str | None:
    cluster_size = 1 << (boot.sector_shift + boot.cluster_shift)
    part_size = min(cluster_size, _DIRECTORY_LIMIT)
    cluster = boot.root_cluster
    for _ in range(min(_CHAIN_LIMIT, _DIRECTORY_LIMIT // part_size)):
        if not 2 <= cluster < boot.cluster_count + 2:
            return None
        part = source.detail(boot.cluster_offset(cluster), part_size)
        for at in range(0, len(part) - 31, 32):
            if part[at] == 0:
                return None
            if part[at] == 0x83:
                return values.utf16(part[at + 2 : at + 2 + min(part[at + 1] * 2, 22)], "le")
        cluster = int.from_bytes(source.detail((boot.fat_offset << boot.sector_shift) + cluster * 4, 4), "little")
    return None
