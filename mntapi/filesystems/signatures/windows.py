"""NTFS, ReFS, dynamic disks (LDM), and the Novell pools that share their servers.

Sources: libyal "New Technologies File System (NTFS)" and Linux fs/ntfs3/ntfs.h; libyal "Resilient File System (ReFS)" and
woffko "refs-format" (boot sector and its checksum, checked on real 1.2 and 3.14 volumes); Linux block/partitions/ldm.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.units import KIB, MIB

_VOLUME_RECORD = 3
_VOLUME_NAME, _VOLUME_INFORMATION, _END = 0x60, 0x70, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class NtfsBoot:
    """The boot sector of NTFS. ``cluster_code`` and ``record_code`` are counts, or (negative) powers of two."""

    sector_size: int
    cluster_code: int
    unused: tuple[int, ...]
    sector_count: int
    mft_cluster: int
    mirror_cluster: int
    record_code: int
    serial: int

    @classmethod
    def parse(cls, raw: bytes) -> NtfsBoot:
        sector, cluster, reserved, fats, entries, sectors, fat, large, *rest = _NTFS.unpack(raw)
        return cls(sector, cluster, (reserved, fats, entries, sectors, fat, large), *rest)

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster; 0 if the code means nothing."""
        if values.is_power_of_two(self.cluster_code):
            return self.sector_size * self.cluster_code
        return self.sector_size << (256 - self.cluster_code) if self.cluster_code > 0xF0 else 0

    @property
    def record_size(self) -> int:
        """Bytes in an MFT record; 0 if the code means nothing."""
        if self.record_code > 0:
            return self.record_code * self.cluster_size
        return 1 << -self.record_code if -31 <= self.record_code <= -9 else 0

    def is_sane(self) -> bool:
        """Whether sizes are possible, FAT's fields unused, and the MFT is inside the volume."""
        if not values.is_power_of_two(self.sector_size) or not 256 <= self.sector_size <= 4096 or any(self.unused):
            return False
        if not 0 < self.cluster_size <= 2 * MIB or not 256 <= self.record_size <= 64 * KIB:
            return False
        clusters = self.sector_count * self.sector_size // self.cluster_size
        return max(self.mft_cluster, self.mirror_cluster) <= clusters


_NTFS = struct.Struct("<11xHBHBHHxH8xI4xQQQb7xQ")


def ntfs(source: Source, base: int) -> Found | None:
    """NTFS; label and dirty flag come from the MFT record of $Volume where that can be read."""
    boot = NtfsBoot.parse(source.read(base, _NTFS.size))
    if not boot.is_sane():
        return None
    label, flags = None, 0
    offset = boot.mft_cluster * boot.cluster_size + _VOLUME_RECORD * boot.record_size
    for kind, value in _attributes(_repaired(source.detail(offset, boot.record_size))):
        if kind == _VOLUME_NAME:
            label = values.utf16(value, "le")
        elif kind == _VOLUME_INFORMATION and len(value) >= 12:
            flags = int.from_bytes(value[10:12], "little")
    dirty = "volume is marked dirty" if flags & 1 else None
    return Found(label, f"{boot.serial:016X}" if boot.serial else None, dirty)


def _repaired(record: bytes) -> bytes:
    """The record with the last two bytes of each 512 put back from its update sequence array; nothing if it is none."""
    if len(record) < 48 or not record.startswith(b"FILE"):
        return b""
    at, count = struct.unpack_from("<HH", record, 4)
    fixed = bytearray(record)
    for index in range(1, min(count, len(record) // 512 + 1)):
        fixed[index * 512 - 2 : index * 512] = record[at + index * 2 : at + index * 2 + 2].ljust(2, b"\0")
    return bytes(fixed)


def _attributes(record: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of the resident attributes. Each is at least 24 bytes long, so the loop ends."""
    at = int.from_bytes(record[20:22], "little")
    while at + 24 <= len(record):
        kind, length, non_resident, value_length, value_at = struct.unpack_from("<IIB7xIH", record, at)
        if kind == _END or length < 24 or at + length > len(record):
            return
        if not non_resident and value_at + value_length <= length:
            yield kind, record[at + value_at : at + value_at + value_length]
        at += length


@dataclass(frozen=True, slots=True)
class RefsBoot:
    """The boot sector of ReFS."""

    signature: bytes
    length: int
    checksum: int
    sector_count: int
    sector_size: int
    cluster_sectors: int
    major: int
    serial: int


_REFS = struct.Struct("<16x4sHHQIIB15xQ")


def refs(source: Source, base: int) -> Found | None:
    """ReFS 1.x to 3.x. The label lies deep inside; the UUID is the volume's serial number, written like that of NTFS."""
    raw = source.read(base, 512)
    boot = RefsBoot(*_REFS.unpack_from(raw))
    if boot.signature != b"FSRS" or not 24 <= boot.length <= len(raw) or _refs_checksum(raw[: boot.length]) != boot.checksum:
        return None
    return Found(uuid=f"{boot.serial:016X}" if boot.serial else None)


def _refs_checksum(raw: bytes) -> int:
    """Rotate right by one and add each byte, modulo 2^16; jump and checksum itself are left out."""
    total = 0
    for byte in raw[3:22] + raw[24:]:
        total = ((total >> 1 | (total & 1) << 15) + byte) & 0xFFFF
    return total


@dataclass(frozen=True, slots=True)
class PrivateHeader:
    """``PRIVHEAD``, big-endian: which group of dynamic disks this one belongs to."""

    major: int
    minor: int
    group_id: bytes
    group_name: bytes


_PRIVHEAD = struct.Struct(">12xHH160x64s32s")


def ldm(source: Source, base: int) -> Found | None:
    """A dynamic disk of Windows (an MBR disk, or the metadata partition of a GPT one). Libblkid has no word for it."""
    header = PrivateHeader(*_PRIVHEAD.unpack(source.read(base, _PRIVHEAD.size)))
    if header.major != 2 or header.minor not in (11, 12):
        return None
    return Found(values.text(header.group_name), values.text(header.group_id))


def nss(source: Source, base: int) -> Found | None:
    """A pool of Novell Storage Services."""
    return Found(uuid=values.uuid(source.read(base, 636)[348:364]))
