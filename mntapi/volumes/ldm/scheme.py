"""From dynamic disks to the volumes of their groups; see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.types import Volume, VolumeState
from mntapi.units import SECTOR
from mntapi.volumes.bootrecord import parse_record
from mntapi.volumes.ldm.disk import DynamicDisk, open_gpt_disk, open_mbr_disk
from mntapi.volumes.ldm.group import group_volumes
from mntapi.volumes.ldm.marks import DATA_TYPE, MBR_TYPE, METADATA_TYPE
from mntapi.volumes.partition import may_hold_table, partition


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The volumes of all groups, and the disks again with their names in the group and what is wrong with them."""
    groups: dict[str, list[DynamicDisk]] = {}
    for parts in _disks(claimed):
        try:
            disk = _open(parts)
        except MntapiError as error:
            yield from (replace(part, state=VolumeState.DAMAGED, reason=str(error)) for part in parts)
            continue
        groups.setdefault(disk.header.group_guid, []).append(disk)
        if not may_hold_table(disk.volume):
            continue
        yield from _other_partitions(disk.volume)
    for disks in groups.values():
        yield from group_volumes(disks)


def _disks(claimed: Sequence[Volume]) -> Iterator[list[Volume]]:
    """What was claimed, disk by disk: an MBR disk by itself, or the LDM partitions of one GPT disk."""
    of_disk: dict[tuple[str, ...], list[Volume]] = {}
    for volume in claimed:
        key = (volume.id,) if may_hold_table(volume) else ("", *volume.members)
        of_disk.setdefault(key, []).append(volume)
    yield from of_disk.values()


def _open(parts: Sequence[Volume]) -> DynamicDisk:
    if may_hold_table(parts[0]):
        return open_mbr_disk(parts[0])
    metadata = [part for part in parts if part.type_code == METADATA_TYPE]
    return open_gpt_disk(metadata, [part for part in parts if part.type_code == DATA_TYPE])


def _other_partitions(disk: Volume) -> Iterator[Volume]:
    """The partitions of an MBR disk that are not LDM's, with the ids the MBR scheme would give them."""
    record = parse_record(read(disk.blocks, 0, SECTOR))
    base = f"{record.signature:08x}" if record.signature else disk.id
    for number, entry in enumerate(record.entries, 1):
        if entry.is_used and entry.type != MBR_TYPE:
            yield partition(
                disk,
                number,
                entry.first_sector * disk.blocks.sector_size,
                entry.sector_count * disk.blocks.sector_size,
                key=f"mbr:{base}-{number:02x}",
                type_code=f"0x{entry.type:02x}",
                reason="logical partitions are not looked for on a dynamic disk" if entry.is_extended else None,
            )
