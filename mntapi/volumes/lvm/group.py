"""A volume group as its metadata describes it: physical volumes, logical volumes, and the segments these are made of.

Sizes in the text are 512-byte sectors and extents; here sizes are bytes, extents stay extents. What a kind of segment says of
itself stays in its ``section``, for the module that reads that kind. Source: lib/format_text/import_vsn1.c of LVM2; lvm(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mntapi.errors import MntapiError, Unsupported
from mntapi.units import SECTOR
from mntapi.volumes.lvm.text import Section, Source, parse

MAX_EXTENTS = 2**32 - 1
"""Extents of a volume: LVM counts them in 32 bits."""

_UUID = re.compile(r"[A-Za-z0-9!#]{6}(?:-[A-Za-z0-9!#]{4}){5}-[A-Za-z0-9!#]{6}")
_MAX_SECTORS = 2**54
_MAX_BYTES = 2**63 - 1
_MAX_DEVICE = 80
"""Characters of a device's name that are told."""
_CONTENTS = "Text Format Volume Group"


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A physical volume of the group: ``extent_count`` extents from byte ``start`` on."""

    name: str
    uuid: str
    start: int
    extent_count: int
    is_marked_missing: bool
    """LVM once worked on the group without it: what RAID has on it is out of date."""
    device: str
    """The device file it had when the metadata was written; empty where that is not told."""

    @property
    def absence(self) -> str:
        """What to say where it is missing."""
        return f"PV {self.uuid} is missing" + (f" (it was {self.device})" if self.device else "")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of extents of a logical volume, all of one ``kind``, with what follows the kind's name (``+FLAG``)."""

    first: int
    count: int
    kind: str
    flags: frozenset[str]
    section: Section


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume. Only visible ones have a device of their own."""

    name: str
    uuid: str
    status: frozenset[str]
    tags: tuple[str, ...]
    segments: tuple[Segment, ...]
    section: Section

    @property
    def extent_count(self) -> int:
        """Extents of all its segments."""
        return sum(segment.count for segment in self.segments)


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """A volume group. ``damaged`` are the logical volumes whose description makes no sense, with why."""

    name: str
    uuid: str
    generation: int
    extent_size: int
    tags: tuple[str, ...]
    is_exported: bool
    physical: Mapping[str, PhysicalVolume]
    logical: Mapping[str, LogicalVolume]
    damaged: Mapping[str, MntapiError]
    source: Source


def parse_group(source: Source) -> VolumeGroup:
    """The group a metadata text describes.

    Raises:
        Corrupt: it cannot be understood.
        Unsupported: another format or version, or over a limit of ``text``.
    """
    root = parse(source)
    if len(root.sections) != 1 or root.text("contents", _CONTENTS) != _CONTENTS or root.number("version", 1) != 1:
        raise Unsupported("metadata of another format", path=source.volume, offset=source.place(0), reason="lvm-version")
    (section,) = root.sections.values()
    if section.text("format", "lvm2") != "lvm2":
        raise Unsupported(
            "a group of another format", path=source.volume, offset=source.place(section.at), reason="lvm-version"
        )
    extent_size = section.number("extent_size", least=1, most=_MAX_SECTORS) * SECTOR
    most = min(MAX_EXTENTS, _MAX_BYTES // extent_size)
    logical: dict[str, LogicalVolume] = {}
    damaged: dict[str, MntapiError] = {}
    for name, inner in section.sections.get("logical_volumes", Section("", 0, source)).sections.items():
        try:
            logical[name] = _logical(inner, most)
        except MntapiError as error:
            damaged[name] = error
    return VolumeGroup(
        name=section.name,
        uuid=uuid_of(section),
        generation=section.number("seqno"),
        extent_size=extent_size,
        tags=section.words("tags"),
        is_exported="EXPORTED" in section.words("status"),
        physical={name: _physical(inner, most) for name, inner in section.inner("physical_volumes").sections.items()},
        logical=logical,
        damaged=damaged,
        source=source,
    )


def uuid_of(section: Section) -> str:
    """The ``id`` of a section, checked: it becomes a part of ids and names."""
    uuid = section.text("id")
    if not _UUID.fullmatch(uuid):
        raise section.corrupt("id is no UUID", found=repr(uuid[:80]))
    return uuid


def _physical(section: Section, most: int) -> PhysicalVolume:
    return PhysicalVolume(
        name=section.name,
        uuid=uuid_of(section),
        start=section.number("pe_start", most=_MAX_SECTORS) * SECTOR,
        extent_count=section.number("pe_count", most=most),
        is_marked_missing="MISSING" in (*section.words("flags"), *section.words("status")),
        device=device[:_MAX_DEVICE] if isinstance(device := section.values.get("device"), str) else "",
    )


def _logical(section: Section, most: int) -> LogicalVolume:
    return LogicalVolume(
        name=section.name,
        uuid=uuid_of(section),
        status=frozenset((*section.words("status"), *section.words("flags"))),
        tags=section.words("tags"),
        segments=tuple(_segments(section, most)),
        section=section,
    )


def _segments(section: Section, most: int) -> Iterator[Segment]:
    """The segments in order: each begins where the one before it ends."""
    found = sorted(
        ((inner.number("start_extent", most=most), inner) for inner in section.sections.values()),
        key=lambda pair: pair[0],
    )
    if len(found) != section.number("segment_count", len(found)) or not found:
        raise section.corrupt("segment_count is wrong", expected=len(found), found=section.values.get("segment_count"))
    end = 0
    for first, inner in found:
        if first != end:
            raise inner.corrupt("the segment does not begin where the one before it ends", expected=end, found=first)
        count = inner.number("extent_count", least=1, most=most - end)
        kind, *flags = inner.text("type").split("+")
        yield Segment(first, count, kind, frozenset(flags), inner)
        end += count
