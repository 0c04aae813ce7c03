"""The records of the database: volumes made of components, made of partitions, which lie on disks. Pure.

A volume with several components is a mirror of them. A component is its partitions one after the other, in stripes, or RAID-5.
Sizes and places are stored in units of 512 bytes whatever the disks' sectors are; here they are bytes.

Source: flatcap "LDM documentation", page VBLK; which fields exist was checked against ``ldmtool`` on the libldm samples.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from mntapi.errors import Corrupt, Unsupported
from mntapi.units import SECTOR
from mntapi.volumes.ldm.fields import Fields


class Layout(enum.IntEnum):
    """How a component arranges its partitions."""

    STRIPED = 1
    SPANNED = 2
    RAID5 = 3


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume. ``state`` is Veritas' word for it, ``ACTIVE`` where all is well; ``hint`` the drive letter it last had."""

    id: int
    name: str
    state: str
    component_count: int
    size: int
    partition_type: int
    guid: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class ComponentRecord:
    """One copy of a volume's content. ``chunk`` (bytes) and ``columns`` are 0 unless it is striped or RAID-5."""

    id: int
    name: str
    state: str
    layout: Layout
    partition_count: int
    volume_id: int
    chunk: int
    columns: int


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """A range of a disk: ``start`` bytes into the disk's data area. ``offset`` is its place in the component, ``column`` its
    number in stripes and RAID-5."""

    id: int
    name: str
    start: int
    offset: int
    size: int
    component_id: int
    disk_id: int
    column: int


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """A disk of the group, there or not."""

    id: int
    name: str
    guid: str


Record = VolumeRecord | ComponentRecord | PartitionRecord | DiskRecord


def parse_record(kind: int, flags: int, body: bytes) -> Record | None:
    """The record behind its header; None for the disk group's own, which tells nothing that the header of a disk does not.

    Args:
        kind: the type byte: revision in the upper four bits, what it is in the lower ones.
        flags: which of the optional fields are there.
        body: what follows the record's header.

    Raises:
        Corrupt: its fields do not fit.
        Unsupported: a kind or revision that is not known.
    """
    if kind in _GROUP_KINDS:
        return None
    parser = _PARSERS.get(kind)
    if parser is None:
        raise Unsupported("a record of unknown kind", found=f"0x{kind:02x}")
    return parser(Fields(body), flags)


def _volume(fields: Fields, flags: int) -> VolumeRecord:
    id_, name = fields.number(), fields.text()
    fields.variable()  # "gen" or "raid5": the components say it better
    fields.variable()
    state = fields.take(14).partition(b"\0")[0].decode("latin-1")
    fields.take(6)  # type, unknown, number, zeros
    fields.take(1)
    components = fields.number()
    fields.take(16)  # transaction, id
    size = fields.number() * SECTOR
    fields.take(4)
    partition_type = fields.fixed(1)
    guid = fields.guid()
    for flag in (0x08, 0x20, 0x80):
        if flags & flag:
            fields.variable()
    hint = fields.text() if flags & 0x02 else None
    return VolumeRecord(id_, name, state, components, size, partition_type, guid, hint)


def _component(fields: Fields, flags: int) -> ComponentRecord:
    id_, name, state = fields.number(), fields.text(), fields.text()
    layout = fields.fixed(1)
    if layout not in _LAYOUTS:
        raise Unsupported(f"component {name} has an unknown layout", found=layout)
    fields.take(4)
    partitions = fields.number()
    fields.take(16)
    volume_id = fields.number()
    fields.take(1)
    chunk, columns = (fields.number() * SECTOR, fields.number()) if flags & 0x10 else (0, 0)
    return ComponentRecord(id_, name, state, Layout(layout), partitions, volume_id, chunk, columns)


def _partition(fields: Fields, flags: int) -> PartitionRecord:
    id_, name = fields.number(), fields.text()
    fields.take(12)  # zeros, transaction
    start, offset = fields.fixed(8) * SECTOR, fields.fixed(8) * SECTOR
    size = fields.number() * SECTOR
    component_id, disk_id = fields.number(), fields.number()
    column = fields.number() if flags & 0x08 else 0
    return PartitionRecord(id_, name, start, offset, size, component_id, disk_id, column)


def _disk(fields: Fields, flags: int) -> DiskRecord:
    id_, name, guid = fields.number(), fields.text(), fields.text()
    try:
        return DiskRecord(id_, name, str(UUID(guid)))
    except ValueError as error:
        raise Corrupt(f"disk {name} has no GUID", found=guid) from error


def _disk_of_vista(fields: Fields, flags: int) -> DiskRecord:
    return DiskRecord(fields.number(), fields.text(), fields.guid())


_LAYOUTS = frozenset(layout.value for layout in Layout)
_GROUP_KINDS = frozenset({0x35, 0x45})
_PARSERS: dict[int, Callable[[Fields, int], Record]] = {
    0x51: _volume,
    0x32: _component,
    0x33: _partition,
    0x34: _disk,
    0x44: _disk_of_vista,
}
