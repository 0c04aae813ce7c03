"""A metadata area: a header of one sector and a circular buffer of texts, each the whole metadata of the volume group.

The header names the text that counts. A text that reaches the end of the area goes on behind the header. What older generations
the buffer still holds is never used: their map of the volumes is out of date. Source: lib/format_text/layout.h of LVM2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import MIB, SECTOR
from mntapi.volumes.lvm.label import Area, checksum

MAX_TEXT = 16 * MIB
"""Bytes of metadata that are read. LVM's own default leaves room for half a mebibyte; the text has a limit of its own."""

_MAGIC = b" LVM2 x[5A%r0N*>"
_VERSION = 1
_HEADER = struct.Struct("<I16sIQQ")
"""Checksum of all behind it, magic, version, offset of the area, size of the area with the header."""
_LOCATION = struct.Struct("<QQII")
_IGNORED = 1


@dataclass(frozen=True, slots=True)
class Location:
    """Where a text is: ``offset`` from the start of the area and ``length`` in bytes."""

    offset: int
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says: the area, and its text (None: no volume group). Ignored areas are not kept up to date."""

    area: Area
    location: Location | None
    is_ignored: bool


@dataclass(frozen=True, slots=True)
class StoredText:
    """A metadata text as read, and where each byte of it lies: ``volume`` is the name of the physical volume."""

    content: bytes
    volume: str
    area: Area
    offset: int

    def place(self, position: int) -> int:
        """The byte of the physical volume that holds the text's byte at ``position``."""
        offset = self.offset + position
        return self.area.offset + (offset if offset < self.area.length else offset - self.area.length + SECTOR)


def parse_header(sector: bytes, area: Area) -> Header:
    """The header of the area at ``area.offset``; offsets in errors are from the start of the header.

    Raises:
        Corrupt: checksum, magic, place or numbers are wrong.
        Unsupported: another version.
    """
    if len(sector) < SECTOR:
        raise Corrupt("the header of the metadata is cut off", offset=len(sector), reason="lvm-metadata")
    crc, magic, version, start, length = _HEADER.unpack_from(sector)
    found = checksum(sector[4:SECTOR])
    if magic != _MAGIC or crc != found:
        raise Corrupt(
            "the metadata's header or its checksum is wrong",
            offset=0,
            expected=f"{crc:08x}",
            found=f"{found:08x}",
            reason="lvm-metadata",
        )
    if version != _VERSION:
        raise Unsupported("the metadata's version", offset=20, expected=_VERSION, found=version, reason="lvm-version")
    if start != area.offset or not SECTOR < length <= (area.length or length):
        raise Corrupt(
            "the metadata's header belongs to another place",
            offset=24,
            expected=area,
            found=(start, length),
            reason="lvm-metadata",
        )
    offset, size, text_crc, flags = _LOCATION.unpack_from(sector, _HEADER.size)
    location = Location(offset, size, text_crc) if offset else None
    return Header(Area(start, length), location, bool(flags & _IGNORED))


def read_text(blocks: Blocks, area: Area, volume: str) -> StoredText | None:
    """The text an area holds; None if it holds none or is not kept up to date. ``volume`` is the name for messages.

    Raises:
        Corrupt: the area or the text is outside the volume, or a checksum is wrong.
        Unsupported: another version, or a text of more than ``MAX_TEXT``.
        MntapiError: what reading raises.
    """
    if area.offset + SECTOR > blocks.size:
        raise Corrupt("the metadata is past the end", path=volume, offset=area.offset, reason="lvm-metadata")
    try:
        header = parse_header(read(blocks, area.offset, SECTOR), area)
    except (Corrupt, Unsupported) as error:
        raise error.located(path=volume, base=area.offset) from error.__cause__
    if header.location is None or header.is_ignored:
        return None
    content = _content(blocks, header.area, header.location, volume)
    return StoredText(content, volume, header.area, header.location.offset)


def _content(blocks: Blocks, area: Area, where: Location, volume: str) -> bytes:
    at = area.offset + _HEADER.size
    if where.length > MAX_TEXT:
        raise Unsupported(
            "too much metadata",
            path=volume,
            offset=at + 8,
            expected=f"at most {MAX_TEXT}",
            found=where.length,
            reason="lvm-too-large",
        )
    if (
        not SECTOR <= where.offset < area.length
        or where.length > area.length - SECTOR
        or area.offset + area.length > blocks.size
    ):
        raise Corrupt(
            "the metadata is outside its area",
            path=volume,
            offset=at,
            found=(where.offset, where.length),
            reason="lvm-metadata",
        )
    first = min(where.length, area.length - where.offset)
    content = read(blocks, area.offset + where.offset, first) + read(blocks, area.offset + SECTOR, where.length - first)
    found = checksum(content)
    if found != where.checksum:
        raise Corrupt(
            "the checksum of the metadata is wrong",
            path=volume,
            offset=area.offset + where.offset,
            expected=f"{where.checksum:08x}",
            found=f"{found:08x}",
            reason="lvm-metadata",
        )
    return content
