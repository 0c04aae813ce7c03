"""The private header of a dynamic disk and the table of contents of its private region. Pure: bytes in, dataclasses out.

Source: flatcap "LDM documentation", pages PRIVHEAD and TOCBLOCK (reverse-engineered; checksums and fields checked on ten disks
of Windows Server 2003 R2). All numbers are big-endian; LBAs count sectors of the disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt, Unsupported

_HEADER = struct.Struct(">8sIHH 8x Q 16x 64s 64x 64s 31sI 8x 4Q 2Q")
_TOC = struct.Struct(">8sIQ 16x")
_REGION = struct.Struct(">8s2xQQ8x")
_CHECKSUM = 8

HEADER_MAGIC = b"PRIVHEAD"
TOC_MAGIC = b"TOCBLOCK"
VERSIONS = frozenset({(2, 11), (2, 12)})
"""Windows 2000 to Server 2003; Vista and later."""
ABSENT = "ldm-absent"
"""The reason of an error that only says that there is no header in this place."""


@dataclass(frozen=True, slots=True)
class PrivateHeader:
    """Which disk this is, of which group, and where its parts are. All places in bytes: ``data_start`` and ``database_start``
    from the start of the disk, ``contents`` (the copies of the table of contents) from ``database_start``."""

    sequence: int
    disk_guid: str
    group_guid: str
    group_name: str
    sector_size: int
    data_start: int
    data_length: int
    database_start: int
    database_length: int
    contents: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Contents:
    """Where in the private region the configuration is, in bytes; of two tables the one with the higher sequence counts."""

    sequence: int
    config_start: int
    config_length: int


def parse_header(sector: bytes) -> PrivateHeader:
    """The header in a whole sector; offsets in its errors are from the start of the sector.

    Raises:
        Corrupt: it is none, or its checksum or numbers are wrong.
        Unsupported: it is of another version, or made for another size of sector.
    """
    _check(sector, HEADER_MAGIC, _HEADER.size)
    _, _, major, minor, sequence, disk, group, name, block, start, length, db_start, db_length, toc1, toc2 = (
        _HEADER.unpack_from(sector)
    )
    if (major, minor) not in VERSIONS:
        raise Unsupported("LDM version", offset=12, expected="2.11 or 2.12", found=f"{major}.{minor}")
    size = len(sector)
    if block not in (0, size):
        raise Unsupported("private header for another sector size", offset=0x10F, expected=size, found=block, reason=ABSENT)
    for place in (toc1, toc2):
        if place >= db_length:
            raise Corrupt("the table of contents is outside of the private region", offset=0x13B, found=place)
    return PrivateHeader(
        sequence,
        _guid(disk, 0x30),
        _guid(group, 0xB0),
        name.partition(b"\0")[0].decode("latin-1"),
        size,
        start * size,
        length * size,
        db_start * size,
        db_length * size,
        (toc1 * size, toc2 * size),
    )


def parse_contents(sector: bytes) -> Contents:
    """The table of contents in a whole sector.

    Raises:
        Corrupt: it is none, its checksum is wrong, or it names no configuration.
    """
    _check(sector, TOC_MAGIC, _TOC.size + 2 * _REGION.size)
    _, _, sequence = _TOC.unpack_from(sector)
    for number in range(2):
        name, start, length = _REGION.unpack_from(sector, _TOC.size + number * _REGION.size)
        if name.partition(b"\0")[0] == b"config":
            return Contents(sequence, start * len(sector), length * len(sector))
    raise Corrupt("the table of contents names no configuration", offset=_TOC.size)


def _check(sector: bytes, magic: bytes, size: int) -> None:
    """Raise Corrupt unless it begins with the magic and its bytes add up to the checksum."""
    if not sector.startswith(magic):
        raise Corrupt(f"no {magic.decode()}", offset=0, found=sector[:8].hex(" ") or "nothing", reason=ABSENT)
    if len(sector) < size:
        raise Corrupt(f"the {magic.decode()} is cut off", offset=len(sector))
    stored = int.from_bytes(sector[_CHECKSUM : _CHECKSUM + 4], "big")
    computed = sum(sector) - sum(sector[_CHECKSUM : _CHECKSUM + 4])
    if stored != computed:
        raise Corrupt(f"the checksum of the {magic.decode()} is wrong", offset=_CHECKSUM, expected=computed, found=stored)


def _guid(text: bytes, offset: int) -> str:
    """A GUID stored as text."""
    try:
        return str(UUID(text.partition(b"\0")[0].decode("ascii")))
    except ValueError as error:
        raise Corrupt("not a GUID", offset=offset, found=text[:36].hex()) from error
