"""The content of a volume: partitions of disks into components, components into the volume.

A volume that lacks something is put together all the same: what the disks that are there can give is read, and the rest raises.
A disk that was away while the others changed is not trusted for what redundancy gives without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.blocks import Concat, Missing, Slice
from mntapi.blocks.writable import Unwritable
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.volumes.ldm.database import Database
from mntapi.volumes.ldm.disk import DynamicDisk
from mntapi.volumes.ldm.records import ComponentRecord, Layout, PartitionRecord, VolumeRecord
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Striped
from mntapi.volumes.raid.parity import MAX_MEMBERS

MAX_SIZE = 1 << 63
"""Bytes of a volume; behind that, the system cannot ask for an offset."""

PARITY = ParityLayout.LEFT_SYMMETRIC
"""What Windows uses: libldm gives it to device-mapper as ``raid5_ls``, and only so the NTFS of the sample is whole."""

_GOOD_STATES = frozenset({"ACTIVE", "CLEAN"})
"""States of a component whose content counts. Source: Veritas Volume Manager Administrator's Guide, "Plex states"."""


class Copy(NamedTuple):
    """The content of a volume or component, or of one partition of it."""

    blocks: Blocks
    lacks: tuple[str, ...] = ()
    """What is not there or not used, for people."""
    stale: tuple[str, ...] = ()
    """What is used although it may be old."""
    is_whole: bool = True
    """Whether all of it can be read, if need be with the help of redundancy."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A volume put together; ``partitions`` in the order of its components."""

    content: Copy
    components: tuple[ComponentRecord, ...]
    partitions: tuple[PartitionRecord, ...]


class Assembler:
    """Puts the volumes of one database together.

    Args:
        database: the group's.
        disks: those that are there, by GUID.
        stale: GUIDs of those whose own database is older than the group's.
        doubtful: by GUID of those that are there several times and not known to be alike, why: a volume is not put together of
            them and others.
        twins: GUIDs of those that are there several times and alike: a volume of them and others is not written.
    """

    def __init__(
        self,
        database: Database,
        disks: Mapping[str, DynamicDisk],
        stale: frozenset[str],
        doubtful: Mapping[str, str],
        twins: frozenset[str],
    ) -> None:
        self._disks = disks
        self._stale = stale
        self._doubtful = doubtful
        self._twins = twins
        self._records = {record.id: record for record in database.disks}
        self._components: dict[int, list[ComponentRecord]] = {}
        for component in database.components:
            self._components.setdefault(component.volume_id, []).append(component)
        self._partitions: dict[int, list[PartitionRecord]] = {}
        for partition in database.partitions:
            self._partitions.setdefault(partition.component_id, []).append(partition)

    def assemble(self, volume: VolumeRecord) -> Assembled:
        """The volume.

        Raises:
            Corrupt: the records of its parts are missing or contradict each other.
            Unsupported: its parts are arranged in a way that was never seen.
        """
        components = sorted(self._components.get(volume.id, ()), key=lambda component: component.id)
        if not components or len(components) != volume.component_count:
            raise Corrupt("components are not in the database", expected=volume.component_count, found=len(components))
        if not 0 < volume.size < MAX_SIZE:
            raise Corrupt("the database gives it an impossible size", found=volume.size)
        parts = {partition.disk_id for component in components for partition in self._partitions.get(component.id, ())}
        copies = [self._component(component, volume.size, is_on_one=len(parts) == 1) for component in components]
        content = copies[0] if len(copies) == 1 else _mirror(components, copies, volume.size)
        partitions = tuple(partition for component in components for partition in self._parts(component))
        return Assembled(content, tuple(components), partitions)

    def disk_of(self, partition: PartitionRecord) -> DynamicDisk | None:
        """The disk it lies on, None if that is missing."""
        return self._disks.get(self._records[partition.disk_id].guid)

    def missing(self, partitions: Sequence[PartitionRecord]) -> list[str]:
        """The GUIDs of the disks of these that are missing."""
        guids = dict.fromkeys(self._records[partition.disk_id].guid for partition in partitions)
        return [guid for guid in guids if guid not in self._disks]

    def _component(self, component: ComponentRecord, size: int, *, is_on_one: bool) -> Copy:
        partitions = self._parts(component)
        parts = [self._part(partition, is_on_one=is_on_one) for partition in partitions]
        if component.layout is Layout.SPANNED:
            return _spanned(component, partitions, parts, size)
        _check_columns(component, partitions, size)
        if component.layout is Layout.STRIPED:
            return _together(Striped([part.blocks for part in parts], component.chunk, size), parts)
        return _raid5(component, parts, size)

    def _parts(self, component: ComponentRecord) -> list[PartitionRecord]:
        """The partitions of a component in their order."""
        partitions = self._partitions.get(component.id, [])
        if not partitions or len(partitions) != component.partition_count:
            what = f"partitions of component {component.name} are not in the database"
            raise Corrupt(what, expected=component.partition_count, found=len(partitions))
        return sorted(partitions, key=lambda partition: (partition.column, partition.offset))

    def _part(self, partition: PartitionRecord, *, is_on_one: bool) -> Copy:
        record = self._records.get(partition.disk_id)
        if record is None:
            raise Corrupt(f"the disk of partition {partition.name} is not in the database", found=partition.disk_id)
        disk = self._disks.get(record.guid)
        who = f"disk {record.name} ({record.guid})"
        if disk is None:
            hint = "give the disk that is missing too"
            return Copy(Missing(partition.size, f"{who} is missing", hint=hint), (f"{who} is missing",), is_whole=False)
        if record.guid in self._doubtful and not is_on_one:
            why = f"{who} is there several times, and {self._doubtful[record.guid]}"
            hint = "open the disks of one machine at a time"
            return Copy(Missing(partition.size, why, hint=hint), (why,), is_whole=False)
        blocks = disk.slice(partition.start, partition.size)
        if record.guid in self._twins and not is_on_one:
            blocks = Unwritable(blocks, f"a copy of {who} is in the set, and would differ from it then")
        if not disk.has(partition.start, partition.size):
            return Copy(blocks, (f"{who} ends before partition {partition.name} does",), is_whole=False)
        return Copy(blocks, stale=(f"{who} was away while others changed",) if record.guid in self._stale else ())


def _together(blocks: Blocks, parts: Iterable[Copy]) -> Copy:
    """Blocks that need all of the parts."""
    lacks = tuple(text for part in parts for text in part.lacks)
    return Copy(blocks, lacks, tuple(text for part in parts for text in part.stale), not lacks)


def _spanned(component: ComponentRecord, partitions: Sequence[PartitionRecord], parts: Sequence[Copy], size: int) -> Copy:
    end = 0
    for partition in partitions:
        if partition.offset != end:
            what = f"partition {partition.name} does not begin where the one before it ends"
            raise Corrupt(what, expected=end, found=partition.offset)
        end += partition.size
    if end < size:
        raise Corrupt(f"component {component.name} is too small", expected=f"{size} bytes", found=end)
    return _together(Slice(Concat([part.blocks for part in parts]), 0, size), parts)


def _check_columns(component: ComponentRecord, partitions: Sequence[PartitionRecord], size: int) -> None:
    """Raise unless there is one partition for each column, and they are large enough."""
    count, chunk = len(partitions), component.chunk
    if not chunk or count > MAX_MEMBERS or count < 2:
        raise Corrupt(f"component {component.name} has {count} columns in chunks of {chunk} bytes")
    if component.columns != count or [partition.column for partition in partitions] != list(range(count)):
        raise Unsupported(f"component {component.name}: columns of several partitions", expected=component.columns, found=count)
    data = count - (component.layout is Layout.RAID5)
    held = min(partition.size // chunk for partition in partitions) * chunk * data
    if held < size:
        raise Corrupt(f"component {component.name} is too small", expected=f"{size} bytes", found=held)


def _raid5(component: ComponentRecord, parts: Sequence[Copy], size: int) -> Copy:
    """What is old is computed from the others like what is missing: the parity is that of the newer content."""
    members = [None if part.stale or isinstance(part.blocks, Missing) else part.blocks for part in parts]
    lacks = tuple(text for part in parts for text in (*part.lacks, *part.stale))
    is_whole = sum(bool(part.lacks or part.stale) for part in parts) <= 1
    return Copy(ParityArray(members, component.chunk, size, PARITY), lacks, is_whole=is_whole)


def _mirror(components: Sequence[ComponentRecord], copies: Sequence[Copy], size: int) -> Copy:
    """The current copies, whole ones first. If none is whole but an old one is, that one alone: parts of different times are no
    volume."""
    current = [
        copy for component, copy in zip(components, copies, strict=True) if component.state in _GOOD_STATES and not copy.stale
    ]
    old = [copy for copy in copies if copy not in current and copy.is_whole]
    is_current = any(copy.is_whole for copy in current) or not old
    used = sorted(current or copies, key=lambda copy: not copy.is_whole) if is_current else old[:1]
    lacks = [text for copy in copies for text in (*copy.lacks, *(copy.stale if is_current else ()))]
    lacks += [f"copy {one.name} is {one.state or 'in no state'}" for one in components if one.state not in _GOOD_STATES]
    stale = () if is_current else used[0].stale or ("what is read is an old copy",)
    members = [*(copy.blocks for copy in used), *[None] * (len(copies) - len(used))]
    return Copy(Mirrored(members, size), tuple(lacks), stale, used[0].is_whole)
