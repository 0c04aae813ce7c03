"""File records and index blocks: the fixups that guard each sector, and the attributes of a record.

Source: Linux-NTFS project documentation, "FILE Record", "Attribute Header", "Fixup"; fs/ntfs3/ntfs.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mntapi.errors import Corrupt

FIXUP_STRIDE = 512
"""Bytes guarded by one fixup, whatever the sector size of the medium."""
IN_USE = 0x1
MAX_ATTRIBUTES = 4096
"""Attributes in one record; the smallest has 16 bytes and the largest record 64 KiB."""
_GUARD = struct.Struct("<4s2H")
_RECORD = struct.Struct("<16x4H2I Q")
_ATTRIBUTE = struct.Struct("<2I2B3H IH")
"""The last two, size and place of the value, only in resident ones."""
_END = b"\xff\xff\xff\xff"
_NONRESIDENT = struct.Struct("<2QHB5x3Q")


def apply_fixups(raw: bytes, magic: bytes, at: int) -> bytes:
    """The record as it was before it was written, each sector's last two bytes put back.

    Args:
        raw: the whole record.
        magic: ``FILE`` or ``INDX``.
        at: its byte on the volume (or in its stream), for errors.

    Raises:
        Corrupt: another magic, or a sector of an older or newer write ("torn").
    """
    found, offset, count = _GUARD.unpack_from(raw)
    if found != magic:
        raise Corrupt("no such record here", offset=at, expected=magic, found=found)
    if count - 1 != len(raw) // FIXUP_STRIDE or offset < 8 or offset + 2 * count > FIXUP_STRIDE - 2:
        raise Corrupt(
            "the fixups of a record are impossible", offset=at + 4, expected=len(raw) // FIXUP_STRIDE, found=count - 1
        )
    result = bytearray(raw)
    number = raw[offset : offset + 2]
    for index in range(1, count):
        end = index * FIXUP_STRIDE
        if raw[end - 2 : end] != number:
            raise Corrupt(
                "a record was not written whole", offset=at + end - 2, expected=number.hex(), found=raw[end - 2 : end].hex()
            )
        result[end - 2 : end] = raw[offset + 2 * index : offset + 2 * index + 2]
    return bytes(result)


class Nonresident(NamedTuple):
    """A piece of a stream that lies in clusters; the sizes (bytes) hold in the first piece only."""

    lowest_vcn: int
    highest_vcn: int
    compression_unit: int
    """Exponent: clusters compressed together."""
    allocated: int
    size: int
    initialised: int
    stored: int
    """Bytes that take space, where sparse or compressed."""
    pairs: bytes
    """The mapping pairs: runs, packed."""


class Attribute(NamedTuple):
    """One attribute of a record: resident (``value``) or in clusters (``runs``)."""

    type: int
    name: str
    flags: int
    id: int
    value: bytes
    runs: Nonresident | None


class Record(NamedTuple):
    """A file record. ``base`` is the record this one continues (0: none)."""

    sequence: int
    links: int
    flags: int
    base: int
    attributes: tuple[Attribute, ...]


def parse_record(raw: bytes, at: int) -> Record:
    """The file record in ``raw``, fixups already applied.

    Raises:
        Corrupt: an attribute lies outside the record.
    """
    sequence, links, first, flags, used, _allocated, base = _RECORD.unpack_from(raw)
    attributes = tuple(_attributes(raw[: min(used, len(raw))], first, at))
    return Record(sequence, links, flags, base, attributes)


def _attributes(raw: bytes, offset: int, at: int) -> list[Attribute]:
    found: list[Attribute] = []
    while raw[offset : offset + 4] != _END and len(found) < MAX_ATTRIBUTES:
        if offset + _ATTRIBUTE.size > len(raw):
            missing = "an attribute is cut off" if offset + 4 <= len(raw) else "the attributes of a record have no end"
            raise Corrupt(missing, offset=at + offset)
        kind, length, nonresident, name_length, name_at, flags, identifier, size, value_at = _ATTRIBUTE.unpack_from(raw, offset)
        end = offset + length
        if length < _ATTRIBUTE.size or length % 8 or end > len(raw):
            raise Corrupt(
                "an attribute lies outside its record",
                offset=at + offset,
                expected=f"at most {len(raw) - offset}",
                found=length,
            )
        name = _name(raw[offset:end], name_at, name_length, at + offset) if name_length else ""
        if nonresident:
            found.append(Attribute(kind, name, flags, identifier, b"", _nonresident(raw[offset:end], at + offset)))
        elif value_at + size > length:
            raise Corrupt(
                "a resident attribute is cut off", offset=at + offset, expected=f"at most {length - value_at}", found=size
            )
        else:
            value_at += offset
            found.append(Attribute(kind, name, flags, identifier, raw[value_at : value_at + size], None))
        offset = end
    return found


def _name(raw: bytes, name_at: int, length: int, at: int) -> str:
    name = raw[name_at : name_at + 2 * length]
    if len(name) < 2 * length:
        raise Corrupt("the name of an attribute is cut off", offset=at)
    return name.decode("utf-16-le", "surrogatepass")


def _nonresident(raw: bytes, at: int) -> Nonresident:
    if len(raw) < 16 + _NONRESIDENT.size:
        raise Corrupt("an attribute in clusters is cut off", offset=at)
    lowest, highest, pairs_at, unit, allocated, size, initialised = _NONRESIDENT.unpack_from(raw, 16)
    stored = struct.unpack_from("<Q", raw, 64)[0] if unit and len(raw) >= 72 else allocated
    if pairs_at > len(raw) or size >> 63 or (initialised > size and lowest == 0):
        raise Corrupt(
            "an attribute in clusters with impossible sizes", offset=at, expected=f"at most {size}", found=initialised
        )
    return Nonresident(lowest, highest, unit, allocated, size, initialised, stored, raw[pairs_at:])
