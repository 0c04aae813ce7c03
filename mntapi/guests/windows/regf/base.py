"""The base block: the first sector of a hive, and of each of its logs. Pure.

Source: "Windows registry file format specification", section "Base block". That the checksum is never 0 or all ones: observed
there and in ReactOS's description of ``HBASE_BLOCK``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import reduce
from operator import xor

from mntapi.errors import Corrupt, Unsupported
from mntapi.units import SECTOR

BINS_START = 4096
"""Byte of a hive at which its bins begin; offsets of cells count from here."""
PAGE = 4096
"""Hive bins are multiples of this."""
MAX_BINS = 1 << 31
"""Bytes of bins: bit 31 of a cell's offset means memory that is not stored."""
PRIMARY, NEW_LOG = 0, 6

_FIELDS = struct.Struct("<4sIIQ7I64s")
_CHECKSUM_AT = 508
_WORDS = struct.Struct("<127I")
_MAGIC = b"regf"
_MAX_CLUSTERING = 8


@dataclass(frozen=True, slots=True)
class Base:
    """What it says. ``written`` counts 100 ns since 1601; ``root`` is the offset of a cell; ``sector`` is in bytes."""

    primary_sequence: int
    secondary_sequence: int
    written: int
    minor: int
    file_type: int
    root: int
    bins_size: int
    sector: int
    name: str

    @property
    def is_dirty(self) -> bool:
        """Whether a write to the hive was begun and not ended."""
        return self.primary_sequence != self.secondary_sequence


def checksum(raw: bytes) -> int:
    """What should be at byte 508 of the sector."""
    found: int = reduce(xor, _WORDS.unpack_from(raw))
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(found, found)


def parse_base(raw: bytes) -> Base:
    """The base block in the first 512 bytes of a hive or log.

    Raises:
        Corrupt: it is none, its checksum is wrong, or its sizes are impossible.
        Unsupported: a version before NT 4, or one that is not known.
    """
    if len(raw) < SECTOR or not raw.startswith(_MAGIC):
        raise Corrupt("no registry hive", offset=0, expected=_MAGIC.hex(" "), found=raw[:4].hex(" ") or "nothing")
    stored = int.from_bytes(raw[_CHECKSUM_AT:SECTOR], "little")
    if stored != checksum(raw):
        what = "the checksum of the hive's base block is wrong"
        raise Corrupt(what, offset=_CHECKSUM_AT, expected=f"{checksum(raw):08x}", found=f"{stored:08x}")
    _, first, second, written, major, minor, kind, _, root, bins_size, clustering, name = _FIELDS.unpack_from(raw)
    if major != 1 or not 3 <= minor <= 6:
        raise Unsupported("a registry hive of this version", offset=20, expected="1.3 to 1.6", found=f"{major}.{minor}")
    if bins_size % PAGE or not 0 < bins_size <= MAX_BINS:
        raise Corrupt("the size of the hive's bins is impossible", offset=40, expected=f"n * {PAGE}", found=bins_size)
    sector = SECTOR * (clustering if 1 <= clustering <= _MAX_CLUSTERING else 1)
    text = name.decode("utf-16-le", "replace").partition("\0")[0]
    return Base(first, second, written, minor, kind, root, bins_size, sector, text)
