"""Superblocks of version 1: 1.0 near the end of a member, 1.1 at its start, 1.2 at 4 KiB; little-endian everywhere.

Source: ``struct mdp_superblock_1`` in include/uapi/linux/raid/md_p.h, ``super_1_load`` and ``super_1_validate`` in
drivers/md/md.c of the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Corrupt
from mntapi.units import KIB, SECTOR, align_down
from mntapi.volumes.md.superblock import LINEAR, Geometry, Superblock

SIZE = 4 * KIB
MAX_ROLES = (SIZE - 256) // 2
"""Devices that a superblock has room for, and so members of an array."""

_MAGIC = 0xA92B4EFC
_FIXED = struct.Struct("<4I 16s32sQiIQIIiIQIIIi QQQQII16sBBHi QQQII32x")
_NONE = (1 << 64) - 1
_JOURNAL = 0xFFFD

_RECOVERY_OFFSET, _RESHAPE, _BAD_BLOCKS, _REPLACEMENT = 1 << 1, 1 << 2, 1 << 3, 1 << 4
_PARTIAL_PARITY_LOGS = 1 << 8 | 1 << 11
_HAS_JOURNAL, _RAID0_LAYOUT = 1 << 9, 1 << 12
_KNOWN = (1 << 13) - 1
"""Feature bits: these are all that Linux has."""

MAX_LOG = 4 * KIB
"""Bytes of a bad block log. Linux takes no more."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fixed part, as stored: lengths in sectors, ``size`` and all offsets too."""

    magic: int
    major: int
    features: int
    pad: int
    set_uuid: bytes
    set_name: bytes
    created: int
    level: int
    layout: int
    size: int
    chunk: int
    raid_disks: int
    bitmap_offset: int
    new_level: int
    reshape_position: int
    delta_disks: int
    new_layout: int
    new_chunk: int
    new_offset: int
    data_offset: int
    data_size: int
    super_offset: int
    recovery_offset: int
    number: int
    corrected_reads: int
    device_uuid: bytes
    device_flags: int
    log_shift: int
    log_size: int
    log_offset: int
    updated: int
    events: int
    resync_offset: int
    checksum: int
    max_roles: int


def places(size: int) -> dict[str, int]:
    """Where to look on a member of ``size`` bytes: the version's name and the byte offset."""
    end = align_down(size // SECTOR - 16, 8) * SECTOR
    return {"1.1": 0, "1.2": 4 * KIB, **({"1.0": end} if end > 0 else {})}


def parse(raw: bytes, version: str, offset: int) -> Superblock | None:
    """The superblock in the up to 4 KiB read from byte ``offset`` of a member; None if it is none, or belongs elsewhere.

    Raises:
        Corrupt: its checksum is wrong, or its numbers make no sense.
    """
    if len(raw) < _FIXED.size:
        return None
    fields = _Fields(*_FIXED.unpack_from(raw))
    if fields.magic != _MAGIC or fields.major != 1 or fields.super_offset * SECTOR != offset:
        return None
    if not fields.max_roles <= (len(raw) - _FIXED.size) // 2:
        raise Corrupt("the MD superblock has too many devices", offset=offset + 220, found=fields.max_roles)
    _check_sum(raw, fields, offset)
    if not 1 <= fields.raid_disks <= MAX_ROLES:
        raise Corrupt(
            "the MD superblock has too many members", offset=offset + 92, expected=f"1 to {MAX_ROLES}", found=fields.raid_disks
        )
    if fields.size > fields.data_size or fields.data_size >= 1 << 54 or fields.data_offset >= 1 << 54:
        raise Corrupt("the MD superblock uses more than the member has", offset=offset + 80, found=f"{fields.size} sectors")
    roles = struct.unpack_from(f"<{fields.max_roles}H", raw, _FIXED.size)
    return _superblock(fields, version, offset, roles)


def _superblock(fields: _Fields, version: str, offset: int, roles: tuple[int, ...]) -> Superblock:
    is_striped = fields.level in (0, LINEAR)
    has_layout = fields.level != 0 or fields.features & _RAID0_LAYOUT
    return Superblock(
        version=version,
        uuid=_uuid(fields.set_uuid),
        name=fields.set_name.partition(b"\0")[0].decode("utf-8", "replace") or None,
        geometry=Geometry(
            fields.level,
            fields.layout if has_layout else None,
            fields.chunk * SECTOR,
            fields.raid_disks,
            0 if is_striped else fields.size * SECTOR,
        ),
        created=fields.created & ((1 << 40) - 1),
        updated=fields.updated & ((1 << 40) - 1),
        events=fields.events,
        number=fields.number,
        roles={number: role if role < fields.raid_disks else None for number, role in enumerate(roles)},
        data_offset=fields.data_offset * SECTOR,
        data_size=fields.data_size * SECTOR,
        device_uuid=_uuid(fields.device_uuid),
        recovered=fields.recovery_offset * SECTOR if fields.features & _RECOVERY_OFFSET else None,
        synced=None if fields.resync_offset == _NONE else fields.resync_offset * SECTOR,
        is_replacement=bool(fields.features & _REPLACEMENT),
        is_journal=fields.number < len(roles) and roles[fields.number] == _JOURNAL,
        has_partial_parity_log=bool(fields.features & _PARTIAL_PARITY_LOGS),
        bad_block_log=_log(fields, offset),
        unsupported=_unsupported(fields, roles),
    )


def _check_sum(raw: bytes, fields: _Fields, offset: int) -> None:
    """The sum of all 32-bit words but itself, and of the last two bytes if there are such, folded to 32 bits."""
    used = raw[: _FIXED.size + 2 * fields.max_roles]
    words = struct.unpack_from(f"<{len(used) // 4}I", used)
    total = sum(words) - fields.checksum + (int.from_bytes(used[-2:], "little") if len(used) % 4 else 0)
    total = ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF
    if total != fields.checksum:
        raise Corrupt(
            "the checksum of the MD superblock is wrong",
            offset=offset + 216,
            expected=f"{total:08x}",
            found=f"{fields.checksum:08x}",
            reason="md-checksum",
        )


def _uuid(raw: bytes) -> str:
    """As mdadm writes it: four groups of eight digits."""
    return ":".join(raw[at : at + 4].hex() for at in range(0, 16, 4))


def _unsupported(fields: _Fields, roles: tuple[int, ...]) -> str | None:
    if fields.features & ~_KNOWN:
        return f"its metadata has features that are not known (0x{fields.features & ~_KNOWN:x})"
    if fields.features & _RESHAPE:
        return "a reshape is in progress"
    if fields.features & _HAS_JOURNAL or _JOURNAL in roles:
        return "it has a write journal, which may hold newer data than the members"
    return None


def _log(fields: _Fields, offset: int) -> tuple[int, int, int] | None:
    """Where the bad block log is, and the unit its numbers are in, if there is anything in it."""
    if not fields.features & _BAD_BLOCKS:
        return None
    start, length = offset + fields.log_offset * SECTOR, fields.log_size * SECTOR
    if start < 0 or length > MAX_LOG or not fields.log_offset or fields.log_shift > 30:
        raise Corrupt("the place of the MD bad block log makes no sense", offset=offset + 184, found=f"{length} at {start}")
    return start, length, SECTOR << fields.log_shift


def parse_bad_blocks(raw: bytes, unit: int) -> Iterator[tuple[int, int]]:
    """Ranges (offset and length in bytes, from the member's start) in a bad block log of at most ``MAX_LOG`` bytes."""
    for (entry,) in struct.iter_unpack("<Q", raw):
        if entry == _NONE:
            return
        if entry & 0x3FF:
            yield (entry >> 10) * unit, (entry & 0x3FF) * unit
