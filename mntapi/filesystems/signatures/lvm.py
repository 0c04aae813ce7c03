"""LVM physical volumes, and what device-mapper targets leave at the start of a device.

Sources: lvm2 lib/format_text/layout.h and lib/label/label.h (label, CRC); Linux Documentation/admin-guide/device-mapper
(snapshot, verity, dm-integrity); Stratis Software Design, section "Static header".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from mntapi.crc32c import crc32c_raw
from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.checksums import crc32_raw
from mntapi.filesystems.signatures.source import Found, Source


def _lvm_uuid(raw: bytes) -> str | None:
    """32 letters and digits in groups of 6-4-4-4-4-4-6."""
    if not raw.isalnum() or not raw.isascii():
        return None
    letters = raw.decode("ascii")
    ends = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(letters[start:end] for start, end in pairwise(ends))


@dataclass(frozen=True, slots=True)
class Label:
    """``struct label_header`` and the UUID of the ``pv_header`` behind it."""

    id: bytes
    sector: int
    crc: int
    uuid: bytes


_LABEL = struct.Struct("<8sQI4x8x32s")


def lvm2(source: Source, base: int) -> Found | None:
    """A label in one of the first four sectors, which knows its sector and has a CRC over the rest of it."""
    raw = source.read(base, 512)
    label = Label(*_LABEL.unpack_from(raw))
    if label.id != b"LABELONE" or label.sector * 512 != base or crc32_raw(0xF597A6CF, raw[20:]) != label.crc:
        return None
    return Found(uuid=_lvm_uuid(label.uuid))


def lvm1(source: Source, base: int) -> Found | None:
    """LVM1: version 1 or 2, and a UUID made of letters and digits (the magic is two letters only)."""
    version, raw = struct.unpack("<2xH40x32s", source.read(base, 76))
    uuid = _lvm_uuid(raw)
    return Found(uuid=uuid) if version in (1, 2) and uuid else None


def snapshot_cow(source: Source, base: int) -> Found | None:
    """The exception store of a device-mapper snapshot: valid flag, version 1, chunk size in sectors."""
    valid, version, chunk = struct.unpack("<4x3I", source.read(base, 16))
    return Found() if valid <= 1 and version == 1 and values.is_power_of_two(chunk) else None


def verity(source: Source, base: int) -> Found | None:
    """The hash device of dm-verity, version 1."""
    version, hash_type, uuid, data_block, hash_block = struct.unpack("<8xII16s32xII", source.read(base, 72))
    good = version == 1 and hash_type <= 1 and values.is_power_of_two(data_block) and values.is_power_of_two(hash_block)
    return Found(uuid=values.uuid(uuid)) if good else None


def integrity(source: Source, base: int) -> Found | None:
    """dm-integrity, versions 1 to 6; it has neither name nor UUID."""
    return Found() if 1 <= source.read(base, 9)[8] <= 6 else None


def vdo(source: Source, base: int) -> Found | None:
    """A VDO storage device."""
    return Found(uuid=values.uuid(source.read(base, 56)[40:]))


def stratis(source: Source, base: int) -> Found | None:
    """One of the two copies of a Stratis static header; UUIDs are 32 hexadecimal digits."""
    raw = source.read(base, 512)
    if crc32c_raw(0xFFFFFFFF, raw[4:]) ^ 0xFFFFFFFF != int.from_bytes(raw[:4], "little"):
        return None
    digits = values.text(raw[64:96]) or ""
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return Found(uuid="-".join(parts) if len(digits) == 32 else None)
