"""The MBR: four primary partitions in sector 0, and chains of logical ones inside extended partitions.

Numbers are those of Linux: primary 1 to 4 by position, logical from 5 in the order of the chain. An extended partition is not a
volume, unless its chain is broken: then it is listed as DAMAGED, so that what lies behind the break can still be looked at.

Source: UEFI Specification 2.10, section 5.2; logical partitions are in no standard: Linux block/partitions/msdos.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import SECTOR
from mntapi.volumes.bootrecord import EXTENDED_TYPES, BootRecord, Entry, has_magic, is_table, parse_record
from mntapi.volumes.partition import each_table, may_hold_table, partition

name = "mbr"

_FIRST_LOGICAL = 5
_LARGE_SECTOR = 4096

MAX_LINKS = 1024
"""Boot records in the chain of one extended partition. Linux stops at 256 partitions."""


def claims(volume: Volume) -> bool:
    """Whether it has a partition table that is not GPT's. An I/O error is raised."""
    if not may_hold_table(volume):
        return False
    record = find_table(volume.blocks)
    return record is not None and not record.is_protective


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The primary and logical partitions of all, disk by disk."""
    return each_table(claimed, _partitions)


def find_table(blocks: Blocks) -> BootRecord | None:
    """The table in sector 0, protective or not; None if there is none. Raises what reading raises."""
    sector = read_clipped(blocks, 0, SECTOR)
    return parse_record(sector) if is_table(sector) else None


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a partition lies, in bytes from the start of the disk, and what the table says of it."""

    start: int
    length: int
    type: int
    reason: str | None = None

    @property
    def end(self) -> int:
        return self.start + self.length


def _extent(entry: Entry, sector_size: int, base: int = 0) -> _Extent:
    return _Extent(base + entry.first_sector * sector_size, entry.sector_count * sector_size, entry.type)


def _partitions(container: Volume) -> Iterator[Volume]:
    record = find_table(container.blocks)
    if record is None:
        raise Corrupt("the partition table is no longer there", offset=0, reason="changed")
    sector_size = _sector_size(container.blocks, record)
    extents = [(number, _extent(entry, sector_size)) for number, entry in enumerate(record.entries, 1) if entry.is_used]
    logical: list[_Extent] = []
    for number, extent in extents:
        if extent.type not in EXTENDED_TYPES:
            yield _volume(container, record, number, extent)
            continue
        try:
            for inner in _logical(container.blocks, extent, sector_size):
                logical.append(inner)
        except MntapiError as error:
            yield _broken(_volume(container, record, number, extent), error)
    for number, extent in enumerate(logical, _FIRST_LOGICAL):
        yield _volume(container, record, number, extent)


def _volume(container: Volume, record: BootRecord, number: int, extent: _Extent) -> Volume:
    disk = f"{record.signature:08x}" if record.signature else container.id
    return partition(
        container,
        number,
        extent.start,
        extent.length,
        key=f"mbr:{disk}-{number:02x}",
        type_code=f"0x{extent.type:02x}",
        reason=extent.reason,
    )


def _broken(extended: Volume, error: MntapiError) -> Volume:
    """The extended partition itself, because its chain breaks."""
    state = VolumeState.DAMAGED if extended.state is VolumeState.OK else extended.state
    text = f"extended partition, logical partitions may be missing: {error}"
    return replace(extended, state=state, reason="; ".join(part for part in (extended.reason, text) if part))


def _sector_size(blocks: Blocks, record: BootRecord) -> int:
    """Bytes in the sectors the table counts in: what the disk declares, unless that is 512 and only 4096 makes sense.

    512 is what a raw file declares for want of knowing. A larger size was told by somebody who knows; and a smaller reading
    always fits, also where a disk was cut off and the partitions are not there.
    """
    declared = blocks.sector_size
    if declared == SECTOR and not _fits(blocks, record, SECTOR) and _fits(blocks, record, _LARGE_SECTOR):
        return _LARGE_SECTOR
    return declared


def _fits(blocks: Blocks, record: BootRecord, sector_size: int) -> bool:
    """Whether all partitions end on the disk and all extended ones begin with a boot record."""
    extents = [(entry, _extent(entry, sector_size)) for entry in record.entries if entry.is_used]
    if any(extent.end > blocks.size for _, extent in extents):
        return False
    return all(_may_begin_chain(blocks, extent.start) for entry, extent in extents if entry.is_extended)


def _may_begin_chain(blocks: Blocks, offset: int) -> bool:
    try:
        return has_magic(read_clipped(blocks, offset, SECTOR))
    except MntapiError:
        return True  # unreadable is not impossible; reading the chain tells about it


def _logical(blocks: Blocks, extended: _Extent, sector_size: int) -> Iterator[_Extent]:
    """The logical partitions of one extended partition, in the order of the chain.

    The first entry of each link is a partition, the second leads to the next link. DR-DOS had them the other way round and OS/2
    used all four, so any entry may be either; but the third and fourth often hold garbage and must make sense.

    Raises:
        Corrupt: the chain leaves the disk, loops, or a link is no boot record; after all partitions in front of that.
        Unsupported: it has too many links.
        MntapiError: a link cannot be read.
    """
    link: _Extent | None = extended
    seen: set[int] = set()
    while link is not None:
        if link.start in seen:
            raise Corrupt("the chain of logical partitions loops", offset=link.start, reason="ebr-loop")
        if len(seen) == MAX_LINKS:
            raise Unsupported(f"more than {MAX_LINKS} links of logical partitions", offset=link.start, reason="ebr-too-long")
        seen.add(link.start)
        entries = _read_link(blocks, link.start, is_first=link is extended)
        for position, entry in enumerate(entries):
            inner = _extent(entry, sector_size, link.start)
            if entry.is_used and not entry.is_extended and (position < 2 or _is_within(inner, link, extended)):
                yield inner if extended.start <= inner.start and inner.end <= extended.end else _outside(inner)
        following = next((entry for entry in entries if entry.is_extended), None)
        link = _extent(following, sector_size, extended.start) if following is not None else None


def _read_link(blocks: Blocks, offset: int, *, is_first: bool) -> tuple[Entry, ...]:
    sector = read_clipped(blocks, offset, SECTOR)
    if len(sector) < SECTOR:
        raise Corrupt("a link of the logical partitions is past the end of the disk", offset=offset, reason="ebr-missing")
    if is_first and not any(sector):
        return ()  # an extended partition in which nothing was ever made
    if not has_magic(sector):
        raise Corrupt(
            "a link of the logical partitions is no boot record",
            offset=offset + SECTOR - 2,
            expected="55 aa",
            found=sector[-2:].hex(" "),
            reason="ebr-damaged",
        )
    return parse_record(sector).entries


def _is_within(inner: _Extent, link: _Extent, extended: _Extent) -> bool:
    return inner.end <= link.end and extended.start <= inner.start and inner.end <= extended.end


def _outside(inner: _Extent) -> _Extent:
    return replace(inner, reason="lies outside its extended partition")
