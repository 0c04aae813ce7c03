"""The boot record: sector 0 of an MBR disk, the head of each link of logical partitions, or a file system's boot sector.

All three end in 55 AA and only look alike. A table has a boot indicator of 00 or 80 in each entry; a file system's boot sector
has a BIOS parameter block, or a name, where a table has code. Pure: bytes in, answers out.

Source: UEFI Specification 2.10, section 5.2 (legacy MBR); the rules for telling them apart are those of Linux
(block/partitions/msdos.c) and libblkid (partitions/dos.c, superblocks/vfat.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.units import SECTOR

_TABLE = 446
_ENTRY = struct.Struct("<B3xB3xII")
_DISK_SIGNATURE = struct.Struct("<I")
_PARAMETERS = struct.Struct("<HBHBHHBH8xII")
"""BIOS parameter block at 11: sector size, sectors per cluster, reserved sectors, FATs, root entries, sectors (16 bit), media,
sectors per FAT (16 bit), then at 32 sectors (32 bit) and, FAT32 only, sectors per FAT (32 bit)."""

_AIX = bytes.fromhex("c9c2d4c1")
"""``IBMA`` in EBCDIC at 0: an AIX disk, whose table area is not a table."""
_NAMES = (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-")
"""At 3: NTFS, exFAT, BitLocker."""
_NOT_FAT = (b"JFS     ", b"HPFS    ")
"""At 54: OS/2 puts a parameter block in front of these."""
_FAT16_MAX, _FAT32_MAX = 0xFFF4, 0x0FFFFFF6
"""Clusters that each kind of FAT can count."""

EXTENDED_TYPES = frozenset({0x05, 0x0F, 0x85})
PROTECTIVE = 0xEE


@dataclass(frozen=True, slots=True)
class Entry:
    """One of the four entries. Numbers are in sectors of the medium; what the first is counted from depends on the table."""

    boot: int
    type: int
    first_sector: int
    sector_count: int

    @property
    def is_used(self) -> bool:
        """As Linux sees it: whatever has a size, even of type 0 (isohybrid images)."""
        return self.sector_count != 0

    @property
    def is_extended(self) -> bool:
        """Whether it holds a chain of logical partitions."""
        return self.is_used and self.type in EXTENDED_TYPES


@dataclass(frozen=True, slots=True)
class BootRecord:
    """The disk signature (0 if there is none) and the four entries."""

    signature: int
    entries: tuple[Entry, ...]

    @property
    def is_protective(self) -> bool:
        """Whether it says that the real table is a GPT."""
        return any(entry.type == PROTECTIVE for entry in self.entries)


def has_magic(sector: bytes) -> bool:
    """Whether it is a whole sector that ends in 55 AA."""
    return sector[SECTOR - 2 : SECTOR] == b"\x55\xaa"


def parse_record(sector: bytes) -> BootRecord:
    """The record in a sector of at least 512 bytes."""
    entries = (Entry(*_ENTRY.unpack_from(sector, _TABLE + index * _ENTRY.size)) for index in range(4))
    return BootRecord(_DISK_SIGNATURE.unpack_from(sector, 440)[0], tuple(entries))


def is_table(sector: bytes) -> bool:
    """Whether it is a partition table with at least one entry in use, and no file system's boot sector."""
    if not has_magic(sector) or sector.startswith(_AIX) or is_filesystem(sector):
        return False
    entries = parse_record(sector).entries
    return all(entry.boot in (0x00, 0x80) for entry in entries) and any(entry.is_used for entry in entries)


def has_partition_at(sector: bytes, unit: int, offset: int) -> bool:
    """Whether it is a table one of whose partitions has byte ``offset`` of the disk; ``unit``: bytes in a sector of that."""
    return is_table(sector) and any(
        entry.first_sector * unit <= offset < (entry.first_sector + entry.sector_count) * unit
        for entry in parse_record(sector).entries
    )


def is_filesystem(sector: bytes) -> bool:
    """Whether it is the boot sector of NTFS, exFAT, BitLocker or FAT, of 512 bytes at least."""
    return sector[3:11] in _NAMES or (sector[54:62] not in _NOT_FAT and _has_fat_parameters(sector))


def _has_fat_parameters(sector: bytes) -> bool:
    size, cluster, reserved, fats, root_entries, sectors16, media, fat16, sectors32, fat32 = _PARAMETERS.unpack_from(sector, 11)
    if not (fats and reserved and (media == 0xF0 or media >= 0xF8)):
        return False
    if size not in (512, 1024, 2048, 4096) or cluster.bit_count() != 1:
        return False
    root = (root_entries * 32 + size - 1) // size
    clusters: int = ((sectors16 or sectors32) - reserved - fats * (fat16 or fat32) - root) // cluster
    return 0 <= clusters <= (_FAT32_MAX if fat32 and not fat16 else _FAT16_MAX)
