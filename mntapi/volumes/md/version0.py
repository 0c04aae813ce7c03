"""Superblocks of version 0.90: 4 KiB in the last aligned 64 KiB of a member, in the byte order of the machine that made it.

Source: ``mdp_super_t`` in include/uapi/linux/raid/md_p.h, ``super_90_load`` and ``super_90_validate`` in drivers/md/md.c.
"""

from __future__ import annotations

import struct

from mntapi.errors import Corrupt, Unsupported
from mntapi.units import KIB, SECTOR, align_down
from mntapi.volumes.md.superblock import Geometry, Superblock

SIZE = 4 * KIB
_RESERVED = 64 * KIB
_MAGIC = 0xA92B4EFC
_WORDS = struct.Struct("<1024I")
_MAX_DISKS = 27
_DESCRIPTORS, _DESCRIPTOR_WORDS, _THIS = 128, 32, 992
"""Words: where the table of disks begins, how many each has, where the one of this disk is."""

_FAULTY, _ACTIVE, _SYNC = 1 << 0, 1 << 1, 1 << 2
_CLEAN = 1 << 0


def place(size: int) -> int:
    """Where the superblock of a member of ``size`` bytes is; negative if it is too small to have one."""
    return align_down(size, _RESERVED) - _RESERVED


def parse(raw: bytes, offset: int) -> Superblock | None:
    """The superblock in 4 KiB read from byte ``offset`` of the member; None if it is none.

    Raises:
        Corrupt: its checksum is wrong, or its numbers make no sense.
        Unsupported: it is of a big-endian machine.
    """
    if len(raw) < SIZE:
        return None
    if raw[:8] == struct.pack(">II", _MAGIC, 0):
        raise Unsupported("an MD superblock 0.90 of a big-endian machine is not read", offset=offset, reason="md-big-endian")
    words = _WORDS.unpack(raw)
    if words[0] != _MAGIC or words[1] != 0:
        return None
    _check_sum(words, offset)
    minor, raid_disks, this = words[2], words[10], words[_THIS : _THIS + 5]
    if not 1 <= raid_disks <= _MAX_DISKS or words[9] > _MAX_DISKS:
        raise Corrupt(
            "the MD superblock has too many members", offset=offset + 40, expected=f"1 to {_MAX_DISKS}", found=raid_disks
        )
    if words[8] * KIB > offset:
        raise Corrupt("the MD superblock uses more than the member has", offset=offset + 32, found=f"{words[8]} KiB")
    if not words[33] & _CLEAN:
        same = words[39:41] == words[41:43]  # the checkpoint is as new as the superblock
        synced = words[43] * SECTOR if same else 0
    level = _signed(words[7])
    return Superblock(
        version=f"0.{minor}",
        uuid=":".join(f"{words[at]:08x}" for at in (5, 13, 14, 15)),
        name=None,
        geometry=Geometry(level, None if level == 0 else words[64], words[65], raid_disks, words[8] * KIB if level > 0 else 0),
        created=words[6],
        updated=words[32],
        events=words[40] << 32 | words[39],
        number=this[0],
        roles=_roles(words),
        data_offset=0,
        data_size=offset,
        synced=None if words[33] & _CLEAN else synced,
        unsupported=None if minor == 90 else f"a reshape is in progress (metadata 0.{minor})",
        last_seen=_last_seen(words),
    )


def _check_sum(words: tuple[int, ...], offset: int) -> None:
    """The sum of all words but itself, folded to 32 bits; old kernels of some machines folded it to 16, so both are."""
    total = sum(words) - words[38]
    if _fold(total) != _fold(words[38]):
        total = (total & 0xFFFFFFFF) + (total >> 32)
        raise Corrupt(
            "the checksum of the MD superblock is wrong",
            offset=offset + 152,
            expected=f"{total & 0xFFFFFFFF:08x}",
            found=f"{words[38]:08x}",
            reason="md-checksum",
        )


def _fold(total: int) -> int:
    """As ones' complement sums do it: to 16 bits, carries added in."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _descriptors(words: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Number, major, minor, place in the array and state of each disk."""
    return [words[at : at + 5] for at in range(_DESCRIPTORS, _DESCRIPTORS + _MAX_DISKS * _DESCRIPTOR_WORDS, _DESCRIPTOR_WORDS)]


def _roles(words: tuple[int, ...]) -> dict[int, int | None]:
    roles: dict[int, int | None] = {}
    for index, (_, _, _, role, state) in enumerate(_descriptors(words)):
        is_used = state & _SYNC and state & _ACTIVE and not state & _FAULTY and role < words[10]
        roles[index] = role if is_used else None
    return roles


def _last_seen(words: tuple[int, ...]) -> dict[int, str]:
    return {role: f"{major}:{minor}" for _, major, minor, role, _ in _descriptors(words) if major}
