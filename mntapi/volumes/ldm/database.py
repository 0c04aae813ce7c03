"""The database: a header (VMDB) and numbered slots (VBLK), of which one record may take several, anywhere. Pure.

A change is made in two steps: new records are written beside the old ones, then the old ones are deleted. So a database that
was cut off in between holds both, and what its header says decides which count.

Source: flatcap "LDM documentation", pages VMDB and VBLK; FreeBSD sys/geom/part/g_part_ldm.c (BSD licence) for the limits and
the values of the update status. No database in the middle of a change was seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.units import MIB
from mntapi.volumes.ldm.records import ComponentRecord, DiskRecord, PartitionRecord, Record, VolumeRecord, parse_record

MAX_CONFIG = 8 * MIB
"""Bytes of a database: as many as 2048 sectors of 4096 bytes can hold. On disks with sectors of 512 bytes it has 741 KiB."""
MAX_FRAGMENTS = 16
"""Slots one record may take. Linux and FreeBSD stop at 4."""
MAX_NOTES = 4
"""Damaged records that are told one by one."""

_HEADER = struct.Struct(">4sIIIHHH 31x 64x QQ 4I")
_SLOT = struct.Struct(">4sIIHH")
_RECORD = struct.Struct(">HBBI")
_VERSION = (4, 10)
_DELETING = 3
"""The header's update status in the second step of a change; 2 in the first, 1 when there is none."""
_NEW, _OLD = 1, 2
"""A record's update status; 0 when it is neither."""


@dataclass(frozen=True, slots=True)
class DatabaseHeader:
    """The header. ``slots`` counts also those the header itself takes; ``counts``: volumes, components, partitions, disks."""

    slots: int
    slot_size: int
    first_slot: int
    status: int
    committed: int
    pending: int
    counts: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Database:
    """The committed state of a disk group, as one disk has it. ``damage`` says what of it cannot be used."""

    sequence: int
    volumes: tuple[VolumeRecord, ...]
    components: tuple[ComponentRecord, ...]
    partitions: tuple[PartitionRecord, ...]
    disks: tuple[DiskRecord, ...]
    damage: tuple[str, ...]


class _Raw(NamedTuple):
    """A record put together from its slots, and where the first of them is."""

    place: int
    content: bytes


def parse_header(config: bytes) -> DatabaseHeader:
    """The header of a configuration.

    Raises:
        Corrupt: there is none, or its numbers make no sense.
        Unsupported: it is of another version.
    """
    if not config.startswith(b"VMDB") or len(config) < _HEADER.size:
        raise Corrupt("no VMDB", offset=0, found=config[:4].hex(" ") or "nothing")
    _, slots, slot_size, first, status, major, minor, committed, pending, *counts = _HEADER.unpack_from(config)
    if (major, minor) != _VERSION:
        raise Unsupported("LDM database version", offset=18, expected="4.10", found=f"{major}.{minor}")
    if not 64 <= slot_size <= 4096 or slot_size % 16:
        raise Corrupt("the size of a slot is wrong", offset=8, expected="64 to 4096", found=slot_size)
    if not _HEADER.size <= first <= len(config):
        raise Corrupt("the first slot is outside of the database", offset=12, found=first)
    return DatabaseHeader(slots, slot_size, first, status, committed, pending, (counts[0], counts[1], counts[2], counts[3]))


def parse_database(config: bytes) -> Database:
    """The committed records of a configuration of at most ``MAX_CONFIG`` bytes; what cannot be read is in ``damage``.

    Raises:
        Corrupt, Unsupported: its header cannot be used.
    """
    header = parse_header(config)
    notes = _Notes()
    records: dict[tuple[type, int], Record] = {}
    unwanted = _OLD if header.status == _DELETING else _NEW
    for raw in _raw_records(config, header, notes):
        try:
            record = _record(raw.content, unwanted)
        except MntapiError as error:
            notes.add(raw.place, str(error))
            continue
        if record is not None:
            records[type(record), record.id] = record
    volumes = tuple(record for record in records.values() if isinstance(record, VolumeRecord))
    components = tuple(record for record in records.values() if isinstance(record, ComponentRecord))
    partitions = tuple(record for record in records.values() if isinstance(record, PartitionRecord))
    disks = tuple(record for record in records.values() if isinstance(record, DiskRecord))
    _compare(header, (len(volumes), len(components), len(partitions), len(disks)), notes)
    return Database(header.committed, volumes, components, partitions, disks, notes.told())


class _Notes:
    """What is wrong, the first few in full."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = 0

    def add(self, place: int, text: str) -> None:
        if len(self._texts) < MAX_NOTES:
            self._texts.append(f"{text} (record at byte {place} of the database)")
        else:
            self._more += 1

    def told(self) -> tuple[str, ...]:
        return (*self._texts, f"{self._more} more damaged records") if self._more else tuple(self._texts)


def _compare(header: DatabaseHeader, found: tuple[int, ...], notes: _Notes) -> None:
    if header.counts != found:
        state = "" if header.status == 1 else ", the database was being changed"
        notes.add(0, f"{header.counts} volumes, components, partitions and disks are announced, {found} are there{state}")


def _raw_records(config: bytes, header: DatabaseHeader, notes: _Notes) -> Iterator[_Raw]:
    """Every record in use, those of one slot first."""
    size = header.slot_size
    end = min(len(config), header.slots * size)
    parts: dict[int, dict[int, _Raw]] = {}
    wanted: dict[int, int] = {}
    for place in range(header.first_slot, end - size + 1, size):
        magic, _, group, number, count = _SLOT.unpack_from(config, place)
        if magic != b"VBLK":
            notes.add(place, "no VBLK")
        elif group and count <= 1:
            yield _Raw(place, config[place + _SLOT.size : place + size])
        elif group and number < count <= MAX_FRAGMENTS:
            parts.setdefault(group, {})[number] = _Raw(place, config[place + _SLOT.size : place + size])
            wanted[group] = max(count, wanted.get(group, 0))
        elif group:
            notes.add(place, f"fragment {number} of {count}")
    for group, fragments in parts.items():
        first = min(fragments.values())
        if len(fragments) == wanted[group]:
            yield _Raw(first.place, b"".join(fragments[number].content for number in range(wanted[group])))
        else:
            notes.add(first.place, f"{len(fragments)} of {wanted[group]} fragments are there")


def _record(content: bytes, unwanted: int) -> Record | None:
    """The record, or None if it is empty or does not count."""
    status, flags, kind, length = _RECORD.unpack_from(content)
    if kind == 0 or status == unwanted:
        return None
    body = content[_RECORD.size : _RECORD.size + length]
    if length > len(body):
        raise Corrupt("the record is longer than its slots", expected=f"at most {len(body)}", found=length)
    return parse_record(kind, flags, body)
