"""The label of a physical volume: one of its first four sectors says who it is and where its data and its metadata lie.

Source: lib/label/label.h, lib/format_text/layout.h and lib/misc/crc.c of LVM2 (structures and the checksum's start value).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt
from mntapi.types import Blocks
from mntapi.units import SECTOR

LABEL_SECTORS = 4
"""Sectors of 512 bytes in which a label may be, whatever the sectors of the medium."""

_MAGIC = b"LABELONE"
_TYPE = b"LVM2 001"
_LABEL = struct.Struct("<8sQII8s")
"""Magic, own sector number, checksum of all behind it, where the PV header begins in the sector, type."""
_CHECKED_FROM = 20
_HEADER = struct.Struct("<32sQ")
"""UUID, size of the device in bytes; then two lists of areas, data and metadata."""
_AREA = struct.Struct("<QQ")
_EXTENSION = struct.Struct("<II")
_USED = 1
_UUID = re.compile(rb"[A-Za-z0-9!#]{32}")
_CRC_START = 0xF597A6CF
_ALL = 0xFFFFFFFF


class Area(NamedTuple):
    """A range of a physical volume. ``length`` is 0 for the data area: it goes to the end."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Label:
    """What a label says. Areas are in bytes from the start of the volume; ``is_used`` is None in old versions."""

    uuid: str
    device_size: int
    data_areas: tuple[Area, ...]
    metadata_areas: tuple[Area, ...]
    is_used: bool | None


def checksum(content: bytes) -> int:
    """LVM's CRC-32: the usual polynomial, another start value, no inversion at the end."""
    return crc32(content, _CRC_START ^ _ALL) ^ _ALL


def dashed(uuid: str) -> str:
    """A UUID of 32 characters as LVM writes it: groups of 6, 4, 4, 4, 4, 4, 6."""
    return "-".join((uuid[:6], *(uuid[start : start + 4] for start in range(6, 26, 4)), uuid[26:]))


def has_label(start: bytes) -> bool:
    """Whether one of the first sectors bears LVM2's magic, damaged or not."""
    return any(sector.startswith(_MAGIC) and sector[24:32] == _TYPE for sector in _sectors(start))


def find_label(blocks: Blocks) -> Label | None:
    """The label, None if there is none. Raises Corrupt if the only ones are damaged, and what reading raises."""
    start = read_clipped(blocks, 0, LABEL_SECTORS * SECTOR)
    trouble: Corrupt | None = None
    for number, sector in enumerate(_sectors(start)):
        if has_label(sector):
            try:
                return parse_label(sector, number)
            except Corrupt as error:
                trouble = trouble or error.located(base=number * SECTOR)
    if trouble is not None:
        raise trouble
    return None


def parse_label(sector: bytes, number: int) -> Label:
    """The label in a whole sector, the ``number``-th. Offsets in its errors are from the start of the sector.

    Raises:
        Corrupt: it is none, or its checksum, place or numbers are wrong.
    """
    if len(sector) < SECTOR or not has_label(sector):
        raise Corrupt("no LVM2 label", offset=0, reason="lvm-label")
    _, own, crc, start, _ = _LABEL.unpack_from(sector)
    found = checksum(sector[_CHECKED_FROM:SECTOR])
    if crc != found:
        raise Corrupt(
            "the checksum of the LVM2 label is wrong",
            offset=16,
            expected=f"{crc:08x}",
            found=f"{found:08x}",
            reason="lvm-label",
        )
    if own != number:
        raise Corrupt("the LVM2 label belongs to another sector", offset=8, expected=number, found=own, reason="lvm-label")
    if not _LABEL.size <= start <= SECTOR - _HEADER.size:
        raise Corrupt("the PV header is outside its sector", offset=20, found=start, reason="lvm-label")
    uuid, size = _HEADER.unpack_from(sector, start)
    if not _UUID.fullmatch(uuid):
        raise Corrupt("the PV's UUID is none", offset=start, found=uuid.hex(" "), reason="lvm-label")
    data, position = _areas(sector, start + _HEADER.size)
    metadata, position = _areas(sector, position)
    return Label(dashed(uuid.decode("ascii")), size, data, metadata, _is_used(sector, position))


def _sectors(start: bytes) -> Iterator[bytes]:
    return (start[offset : offset + SECTOR] for offset in range(0, len(start), SECTOR))


def _areas(sector: bytes, position: int) -> tuple[tuple[Area, ...], int]:
    """The areas of a list that a zero offset ends, and where it ends."""
    areas: list[Area] = []
    while position + _AREA.size <= SECTOR:
        area = Area(*_AREA.unpack_from(sector, position))
        position += _AREA.size
        if not area.offset:
            return tuple(areas), position
        areas.append(area)
    raise Corrupt("a list of areas in the PV header has no end", offset=position, reason="lvm-label")


def _is_used(sector: bytes, position: int) -> bool | None:
    """Whether the extension of the header says that a volume group uses it. Version 2 brought that flag."""
    if position + _EXTENSION.size > SECTOR:
        return None
    version, flags = _EXTENSION.unpack_from(sector, position)
    return bool(flags & _USED) if version >= 2 else None
