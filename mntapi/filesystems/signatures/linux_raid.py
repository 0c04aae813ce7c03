"""Members of Linux MD arrays. Source: include/uapi/linux/raid/md_p.h of the kernel; md(4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.units import KIB

_MAGIC = 0xA92B4EFC
_RESERVED = 64 * KIB
"""Bytes that a member of version 0.90 keeps free at its end for the superblock."""


@dataclass(frozen=True, slots=True)
class Version0:
    """The start of ``mdp_super_t``; it is stored in the byte order of the machine that made it."""

    magic: int
    major: int
    minor: int
    uuid0: int
    size_kib: int
    uuid1: int
    uuid2: int
    uuid3: int

    @classmethod
    def parse(cls, raw: bytes) -> Version0:
        order = "<" if int.from_bytes(raw[:4], "little") == _MAGIC else ">"
        return cls(*struct.unpack(_VERSION0.replace("<", order), raw))

    @property
    def uuid(self) -> str | None:
        """The array's UUID; before 0.90 only its first quarter existed."""
        rest = (self.uuid1, self.uuid2, self.uuid3) if self.minor >= 90 else (0, 0, 0)
        return values.uuid(struct.pack(">4I", self.uuid0, *rest))


_VERSION0 = "<3I8xI8xI16x3I"


def version0(source: Source, base: int) -> Found | None:
    """Version 0.90, 64 to 128 KiB before the end: no label, and the UUID in four scattered words."""
    superblock = Version0.parse(source.read(base, struct.calcsize(_VERSION0)))
    size = superblock.size_kib * KIB
    if superblock.major != 0 or size > base or source.size < size + _RESERVED:
        return None
    return Found(uuid=superblock.uuid)


@dataclass(frozen=True, slots=True)
class Version1:
    """The start of ``struct mdp_superblock_1``, always little-endian. ``super_offset`` is in sectors."""

    major: int
    set_uuid: bytes
    set_name: bytes
    super_offset: int


_VERSION1 = struct.Struct("<4xI8x16s32s80xQ")


def version1(source: Source, base: int) -> Found | None:
    """Versions 1.0 (8 KiB from the end), 1.1 (at the start) and 1.2 (at 4 KiB); it knows its own place."""
    superblock = Version1(*_VERSION1.unpack(source.read(base, _VERSION1.size)))
    if superblock.major != 1 or superblock.super_offset * 512 != base:
        return None
    return Found(values.text(superblock.set_name), values.uuid(superblock.set_uuid))
