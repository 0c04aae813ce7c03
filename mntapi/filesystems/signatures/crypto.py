"""Encrypted volumes. Sources: LUKS1 On-Disk Format Specification 1.2.3; LUKS2 On-Disk Format Specification 1.1.0 section 2;
libyal "BitLocker Drive Encryption (BDE) format" and "FileVault Drive Encryption (FVDE)" (open documentation).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.crc32c import crc32c_raw
from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source


@dataclass(frozen=True, slots=True)
class LuksHeader:
    """The fields of a binary LUKS header; ``label`` and ``offset`` (its own place, in bytes) exist in version 2 only."""

    version: int
    label: bytes
    uuid: bytes
    offset: int


_LUKS = struct.Struct(">6xH16x48s96x40s48xQ")


def luks(source: Source, base: int) -> Found | None:
    """A primary header, version 1 or 2."""
    header = LuksHeader(*_LUKS.unpack(source.read(base, _LUKS.size)))
    if header.version == 1:
        return Found(uuid=values.text(header.uuid))
    return _luks2(header, base)


def luks2_copy(source: Source, base: int) -> Found | None:
    """The secondary header of version 2, for when the first one is gone."""
    return _luks2(LuksHeader(*_LUKS.unpack(source.read(base, _LUKS.size))), base)


def _luks2(header: LuksHeader, base: int) -> Found | None:
    if header.version != 2 or header.offset != base:
        return None
    return Found(values.text(header.label), values.text(header.uuid))


@dataclass(frozen=True, slots=True)
class BitLockerBoot:
    """The parts of a BitLocker boot sector. Offsets of the first metadata block are bytes; which one counts, the magic says."""

    magic: bytes
    serial: int
    fixed_offset: int
    to_go_offset: int


_BITLOCKER = struct.Struct("<11s56xI105xQ256xQ")


def bitlocker(source: Source, base: int) -> Found | None:
    """Vista, Windows 7 and later, and To Go; the last two must lead to a metadata block.

    Libblkid prints a UUID only for Windows 7 and later, from a serial number that is zero on every volume seen.
    """
    boot = BitLockerBoot(*_BITLOCKER.unpack(source.read(base, _BITLOCKER.size)))
    if boot.magic.startswith(b"\xeb\x52\x90"):
        return Found()
    to_go = boot.magic.endswith(b"MSWIN4.1")
    metadata = boot.to_go_offset if to_go else boot.fixed_offset
    if not metadata or not source.has(metadata, b"-FVE-FS-"):
        return None
    return Found(uuid=f"{boot.serial:016d}" if boot.serial and not to_go else None)


@dataclass(frozen=True, slots=True)
class CoreStorage:
    """An Apple Core Storage physical volume header."""

    crc: int
    seed: int
    version: int
    block_type: int
    checksum_kind: int
    key_size: int
    cipher: int
    uuid: bytes


_CORE_STORAGE = struct.Struct("<IIHH78xI74xII128x16s192x")


def core_storage(source: Source, base: int) -> Found | None:
    """FileVault 2: a Core Storage volume with an AES-XTS key. Without a key Core Storage is no encryption, and not told."""
    raw = source.read(base, _CORE_STORAGE.size)
    header = CoreStorage(*_CORE_STORAGE.unpack(raw))
    if header.version != 1 or header.checksum_kind != 1 or header.block_type != 0x10:
        return None
    if header.key_size != 16 or header.cipher != 2 or crc32c_raw(header.seed, raw[8:]) != header.crc:
        return None
    return Found(uuid=values.uuid(header.uuid))
