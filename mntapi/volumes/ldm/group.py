"""A disk group: the disks that share a database, and the volumes on them.

Each disk has a copy of the database. The copy with the highest transaction number counts for all; what it says a disk was given
since then, that disk has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mntapi.blocks import Missing
from mntapi.blocks.writable import Unwritable
from mntapi.errors import MntapiError, Unsupported
from mntapi.types import Volume, VolumeState
from mntapi.units import format_size
from mntapi.volumes.copies import why_not_alike
from mntapi.volumes.ldm.assembly import Assembled, Assembler, Copy
from mntapi.volumes.ldm.database import Database
from mntapi.volumes.ldm.disk import DynamicDisk
from mntapi.volumes.ldm.records import ComponentRecord, Layout, VolumeRecord
from mntapi.volumes.names import component_name

KIND = "ldm"

_USUAL_STATES = frozenset({"ACTIVE", "CLEAN"})


def group_volumes(disks: Sequence[DynamicDisk]) -> Iterator[Volume]:
    """The volumes of one group, then what is to be said of its disks; ``disks`` have the same group GUID."""
    chosen = _one_each(disks)
    doubtful, twins = _compared(disks, chosen)
    database = _newest(chosen.values())
    stale = frozenset(guid for guid, disk in chosen.items() if database and disk.database and disk.sequence < database.sequence)
    if database is not None:
        assembler = Assembler(database, chosen, stale, doubtful, twins)
        for record in database.volumes:
            yield _volume(record, assembler, disks[0].header.group_name, database.sequence)
    for disk in disks:
        yield from _container(disk, database, is_copy=chosen[disk.header.disk_guid] is not disk)


def _one_each(disks: Iterable[DynamicDisk]) -> dict[str, DynamicDisk]:
    """By GUID. Of copies of a disk one with the newest database is used, whatever the order they came in."""
    chosen: dict[str, DynamicDisk] = {}
    for disk in sorted(disks, key=lambda disk: (-disk.sequence, disk.volume.id)):
        chosen.setdefault(disk.header.disk_guid, disk)
    return chosen


def _compared(disks: Iterable[DynamicDisk], chosen: Mapping[str, DynamicDisk]) -> tuple[dict[str, str], frozenset[str]]:
    """Of disks that are there several times with equally new databases: by GUID why they must not be combined with others; and
    the GUIDs of those that are known to be alike."""
    doubtful: dict[str, str] = {}
    copied = set()
    for disk in disks:
        guid = disk.header.disk_guid
        if disk is not chosen[guid] and disk.sequence == chosen[guid].sequence:
            copied.add(guid)
            why = _why_not_alike(disk, chosen[guid])
            if why is not None:
                doubtful[guid] = f"{disk.volume.name}, {chosen[guid].volume.name} {why}"
    return doubtful, frozenset(copied - doubtful.keys())


def _why_not_alike(disk: DynamicDisk, chosen: DynamicDisk) -> str | None:
    if len(disk.areas) != len(chosen.areas):
        return "differ"
    reasons = (why_not_alike(one.blocks, other.blocks) for one, other in zip(disk.areas, chosen.areas, strict=True))
    return next(filter(None, reasons), None)


def _newest(disks: Iterable[DynamicDisk]) -> Database | None:
    """The database with the highest transaction number, undamaged if one of them is."""
    databases = [disk.database for disk in disks if disk.database is not None]
    return max(databases, key=lambda database: (database.sequence, not database.damage), default=None)


def _volume(record: VolumeRecord, assembler: Assembler, group: str, sequence: int) -> Volume:
    details = {"group": group, "transaction": str(sequence)}
    if record.hint:
        details["drive"] = record.hint
    try:
        assembled = assembler.assemble(record)
    except MntapiError as error:
        return _unusable(record, error, details)
    content = assembled.content
    there = [disk for disk in map(assembler.disk_of, assembled.partitions) if disk is not None]
    reason = _reason(record, content)
    place = _place(record, assembled, there)
    return Volume(
        id=f"ldm:{record.guid}",
        name=component_name("ldm-" + record.name),
        kind=KIND,
        blocks=Unwritable(content.blocks, _not_written(content, reason)) if content.lacks else content.blocks,
        disk=None if place is None else there[0].volume.disk,
        offset=place,
        state=_state(content),
        reason=reason,
        type_code=f"0x{record.partition_type:02x}",
        members=tuple(dict.fromkeys(member for disk in there for member in disk.members)),
        details=details | _told(assembled) | _missing(assembler.missing(assembled.partitions)),
    )


def _place(record: VolumeRecord, assembled: Assembled, disks: Sequence[DynamicDisk]) -> int | None:
    """Where on its disk a simple volume is, in bytes; None for all others."""
    if len(assembled.partitions) != 1 or not disks:
        return None
    return disks[0].place(assembled.partitions[0].start, record.size)


def _unusable(record: VolumeRecord, error: MntapiError, details: Mapping[str, str]) -> Volume:
    """A volume the database does not describe well enough: listed, and every read of it says why."""
    size = max(0, min(record.size, 1 << 62))
    return Volume(
        id=f"ldm:{record.guid}",
        name=component_name("ldm-" + record.name),
        kind=KIND,
        blocks=Missing(size, str(error)),
        state=VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED,
        reason=str(error),
        type_code=f"0x{record.partition_type:02x}",
        details=details,
    )


def _state(content: Copy) -> VolumeState:
    if not content.lacks:
        return VolumeState.OK
    return VolumeState.DEGRADED if content.is_whole and not content.stale else VolumeState.INCOMPLETE


def _not_written(content: Copy, reason: str | None) -> str:
    return f"{'degraded: ' if content.is_whole else ''}{reason}"


def _reason(record: VolumeRecord, content: Copy) -> str | None:
    texts = [*dict.fromkeys((*content.lacks, *content.stale))]
    if record.state not in _USUAL_STATES:
        texts.append(f"the database says it is {record.state or 'in no state'}")
    return "; ".join(texts) or None


def _told(assembled: Assembled) -> dict[str, str]:
    first = assembled.components[0]
    told = {"layout": _layout(assembled.components), "partitions": ", ".join(one.name for one in assembled.partitions)}
    return told | ({"chunk": format_size(first.chunk)} if first.chunk else {})


def _missing(guids: Sequence[str]) -> dict[str, str]:
    return {"missing": ", ".join(guids)} if guids else {}


def _layout(components: Sequence[ComponentRecord]) -> str:
    """In the words of Windows' disk management."""
    first = components[0]
    if first.layout is Layout.SPANNED:
        inner = "spanned" if first.partition_count > 1 else "simple"
    else:
        inner = "striped" if first.layout is Layout.STRIPED else "raid5"
    if len(components) == 1:
        return inner
    return "mirrored" if inner == "simple" else f"mirrored {inner}"


def _container(disk: DynamicDisk, database: Database | None, *, is_copy: bool) -> Iterator[Volume]:
    """The disk again, or the partition that speaks for it, with what the group says of it."""
    volume, header = disk.volume, disk.header
    record = next((one for one in database.disks if one.guid == header.disk_guid), None) if database else None
    details = {
        "group": header.group_name,
        "group-guid": header.group_guid,
        "dynamic-disk": record.name if record else header.disk_guid,
        "dynamic-disk-guid": header.disk_guid,
    }
    texts = [*disk.damage, *(disk.database.damage if disk.database else ())]
    state = VolumeState.DAMAGED if database is None else VolumeState.OK
    if is_copy:
        state = VolumeState.UNSUPPORTED
        texts.append(f"is a copy of dynamic disk {header.disk_guid}, of which another is used")
    elif database is not None and disk.database is not None and disk.sequence < database.sequence:
        texts.append(f"its LDM database is old: transaction {disk.sequence}, the group is at {database.sequence}")
    if database is not None and record is None:
        texts.append("the group's database does not know this disk")
    yield replace(
        volume,
        state=state if volume.state is VolumeState.OK else volume.state,
        reason="; ".join(text for text in (volume.reason, *texts) if text) or None,
        details={**volume.details, **details},
    )
