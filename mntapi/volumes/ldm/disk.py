"""A dynamic disk: its private header found, its database read, its data area at hand.

On an MBR disk a partition of type 42 covers the data area, and the private region is the last MiB of the disk, outside of all
partitions; so the disk as a whole is the member. On a GPT disk private region and data area are partitions, and only these are
members: an EFI system partition beside them is no business of LDM.

Source: flatcap "LDM documentation", page PRIVHEAD; places of the copies also in FreeBSD sys/geom/part/g_part_ldm.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.blocks import Concat, Missing, Slice, read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks, Volume
from mntapi.volumes.ldm.database import MAX_CONFIG, Database, parse_database
from mntapi.volumes.ldm.header import ABSENT, Contents, PrivateHeader, parse_contents, parse_header

_FIRST_HEADER = 6
"""Sector of the first header, on MBR disks only."""
_PRIVATE_SECTORS = 2048
_COPIES = (1856, 2047)
"""Sectors of the other two, counted from the start of the private region."""


@dataclass(frozen=True, slots=True)
class Area:
    """Bytes of the disk that can be read: ``start`` is where ``blocks`` begin, in bytes from the start of the disk."""

    start: int
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class DynamicDisk:
    """A disk of a group.

    ``volume`` is what speaks for it: the disk, or the partition with the private region. ``members`` are the ids of all volumes
    of the scan that are parts of it. ``database`` is None where it cannot be read; ``damage`` says why, and what else is wrong.
    """

    volume: Volume
    members: tuple[str, ...]
    header: PrivateHeader
    areas: tuple[Area, ...]
    database: Database | None
    damage: tuple[str, ...]

    @property
    def sequence(self) -> int:
        """Which state of the group its database tells; -1 without one."""
        return self.database.sequence if self.database else -1

    def slice(self, start: int, length: int) -> Blocks:
        """``length`` bytes of the disk's data area from ``start`` on; what the disk has not got is ``Missing``."""
        offset = self.header.data_start + start
        for area in self.areas:
            there = min(length, area.start + area.blocks.size - offset)
            if offset >= area.start and there > 0:
                part = Slice(area.blocks, offset - area.start, there)
                return part if there == length else Concat([part, self._cut_off(length - there)])
        return self._cut_off(length)

    def has(self, start: int, length: int) -> bool:
        """Whether all of that range can be read."""
        offset = self.header.data_start + start
        return any(area.start <= offset and offset + length <= area.start + area.blocks.size for area in self.areas)

    def place(self, start: int, length: int) -> int | None:
        """Where that range of the data area is on the scan's disk, in bytes; None if it is not one range of a disk."""
        return self.header.data_start + start if self.volume.disk is not None and self.has(start, length) else None

    def _cut_off(self, length: int) -> Missing:
        return Missing(length, f"{self.volume.name} ends before it", sector_size=self.header.sector_size)


def has_header(volume: Volume) -> bool:
    """Whether one of the private headers of a disk with an MBR is there. An I/O error is raised."""
    return bool(_valid_headers(volume.blocks, _mbr_places(volume.blocks), []))


def open_mbr_disk(volume: Volume) -> DynamicDisk:
    """The disk of which ``has_header`` is true. Raises Corrupt if it is not true any more."""
    header, damage = _header(volume.blocks, _mbr_places(volume.blocks))
    there = max(0, min(header.database_length, volume.blocks.size - header.database_start))
    private = Slice(volume.blocks, min(header.database_start, volume.blocks.size), there)
    return _disk(volume, (volume.id,), header, private, (Area(0, volume.blocks),), damage)


def open_gpt_disk(metadata: Sequence[Volume], data: Sequence[Volume]) -> DynamicDisk:
    """The disk of which these are the LDM partitions.

    Raises:
        Corrupt: there is no private region on it, or no header in that.
        Unsupported: there are several, or it cannot be told where the data partitions are.
    """
    if not metadata:
        raise Corrupt("there is no LDM metadata partition on this disk")
    if len(metadata) > 1:
        raise Unsupported("several LDM metadata partitions on a disk", found=len(metadata))
    private = metadata[0]
    header, damage = _header(private.blocks, _private_places(private.blocks))
    members = (private.id, *(volume.id for volume in data))
    areas = tuple(Area(_place(volume, header, is_only=len(data) == 1), volume.blocks) for volume in data)
    return _disk(private, members, header, private.blocks, areas, damage)


def _place(data: Volume, header: PrivateHeader, *, is_only: bool) -> int:
    """Where on its disk a data partition begins. The only one is the data area; and on a disk that is itself a volume of
    something, partitions do not know their place."""
    if is_only:
        return header.data_start
    if data.offset is None:
        raise Unsupported("several LDM data partitions on a disk inside another volume")
    return data.offset


def _disk(
    volume: Volume,
    members: tuple[str, ...],
    header: PrivateHeader,
    private: Blocks,
    areas: tuple[Area, ...],
    damage: Sequence[str],
) -> DynamicDisk:
    try:
        database: Database | None = _read_database(private, header)
    except MntapiError as error:
        return DynamicDisk(volume, members, header, areas, None, (*damage, f"its LDM database cannot be used: {error}"))
    return DynamicDisk(volume, members, header, areas, database, tuple(damage))


def _mbr_places(blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Where headers may be, if the disk has not changed its size: (offset, sector size)."""
    for size in _sector_sizes(blocks):
        yield _FIRST_HEADER * size, size
        for copy in _COPIES:
            yield blocks.size - blocks.size % size - (_PRIVATE_SECTORS - copy) * size, size


def _private_places(blocks: Blocks) -> Iterator[tuple[int, int]]:
    """The same for a private region: at its end, or where it would be if the partition were of the usual size."""
    for size in _sector_sizes(blocks):
        for place in dict.fromkeys((blocks.size - size, *(copy * size for copy in _COPIES))):
            yield place, size


def _sector_sizes(blocks: Blocks) -> list[int]:
    return list(dict.fromkeys((blocks.sector_size, 512, 4096)))


def _valid_headers(blocks: Blocks, places: Iterator[tuple[int, int]], damage: list[str]) -> Mapping[int, PrivateHeader]:
    """The headers without fault, by place; what is wrong with the others is added to ``damage``."""
    found: dict[int, PrivateHeader] = {}
    for place, size in places:
        if place < 0 or place + size > blocks.size:
            continue
        try:
            found[place] = parse_header(read(blocks, place, size))
        except MntapiError as error:
            if error.reason != ABSENT:
                damage.append(f"its private header at byte {place} cannot be used: {error}")
    return found


def _header(blocks: Blocks, places: Iterator[tuple[int, int]]) -> tuple[PrivateHeader, list[str]]:
    """The newest header, and what is wrong with the others."""
    damage: list[str] = []
    found = _valid_headers(blocks, places, damage)
    if not found:
        raise Corrupt("; ".join(["no private header of a dynamic disk can be used", *damage]), reason="ldm-header")
    return max(found.values(), key=lambda header: header.sequence), damage


def _read_database(private: Blocks, header: PrivateHeader) -> Database:
    contents = _contents(private, header)
    if contents.config_length > MAX_CONFIG:
        raise Unsupported("LDM database", expected=f"at most {MAX_CONFIG} bytes", found=contents.config_length)
    if contents.config_start + contents.config_length > private.size:
        raise Corrupt("goes past the end of the private region", offset=contents.config_start)
    return parse_database(read(private, contents.config_start, contents.config_length))


def _contents(private: Blocks, header: PrivateHeader) -> Contents:
    """The newest table of contents. Each of the two places has a copy behind or before it that is written in turn with it."""
    size = header.sector_size
    first, last = header.contents
    found: list[Contents] = []
    trouble: MntapiError | None = None
    for place in (first, first + size, last - size, last):
        if place < 0 or place + size > private.size:
            continue
        try:
            found.append(parse_contents(read(private, place, size)))
        except MntapiError as error:
            trouble = trouble or error
    if not found:
        raise trouble or Corrupt("the private region is cut off before its table of contents", offset=private.size)
    return max(found, key=lambda contents: contents.sequence)
