"""What lies on what: the volumes each kind of segment names, the physical extents it takes, and what contradicts that.

No bytes are read here. Every other module may rely on it: a volume for which ``Map.check`` raised nothing does not lie on
itself, is not nested beyond ``MAX_NESTING``, and shares no physical extent with another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.volumes.lvm.group import MAX_EXTENTS, LogicalVolume, Segment, VolumeGroup

MAX_NESTING = 32
"""Volumes under a volume. A snapshot of a cached thin pool on RAID on a mirror being moved takes 8."""

MAX_AREAS = 4096
"""Areas of a segment. LVM stripes over 128, RAID takes 253."""

_AREA_LISTS = {"striped": "stripes", "linear": "stripes", "mirror": "mirrors"}
"""Kinds whose areas may be on physical volumes, and the list that names them: a volume, a first extent, a volume ..."""

_NAMES = {
    "mirror": ("mirror_log",),
    "snapshot": ("origin", "cow_store", "merging_store"),
    "thin-pool": ("metadata", "pool"),
    "thin": ("thin_pool", "external_origin"),
    "cache": ("cache_pool", "origin"),
    "cache-pool": ("metadata", "data"),
    "writecache": ("origin", "writecache"),
    "integrity": ("origin", "meta_dev"),
    "vdo": ("vdo_pool",),
    "vdo-pool": ("data",),
}
"""Keys that name another volume."""


class Place(NamedTuple):
    """A part of a segment's bytes: ``length`` extents from ``first`` on, of a physical or a logical volume."""

    volume: str
    first: int
    length: int


def places(segment: Segment) -> tuple[Place, ...]:
    """The areas of a striped, linear or mirror segment.

    Raises:
        Corrupt: their list or their number makes no sense.
    """
    section, key = segment.section, _AREA_LISTS[segment.kind]
    items = section.items(key)
    names, firsts = items[::2], items[1::2]
    count = section.number("mirror_count" if segment.kind == "mirror" else "stripe_count", least=1, most=MAX_AREAS)
    if len(items) != 2 * count:
        raise section.corrupt(f"{key} does not name as many areas as there are", expected=count, found=len(items) // 2)
    parts = 1 if segment.kind == "mirror" else count
    if segment.count % parts:
        raise section.corrupt(f"{segment.count} extents do not fill {parts} stripes evenly")
    found = []
    for name, first in zip(names, firsts, strict=True):
        if not isinstance(name, str) or not isinstance(first, int) or not 0 <= first <= MAX_EXTENTS:
            raise section.corrupt(f"{key} names no area", found=repr((name, first))[:80])
        found.append(Place(name, first, segment.count // parts))
    return tuple(found)


def raid_names(segment: Segment) -> tuple[str, ...]:
    """The volumes of a RAID segment: data, or metadata and data by turns."""
    section = segment.section
    return section.words("raids") or section.words("raid0_lvs")


class Map:
    """The graph of a group: which logical volume lies on which logical and physical ones."""

    def __init__(self, group: VolumeGroup) -> None:
        self._group = group
        self._below: dict[str, frozenset[str]] = {}
        self._height: dict[str, int] = {}
        self._errors: dict[str, MntapiError] = {}
        self._physical = {
            volume.name: {name for segment in volume.segments for name in _areas(segment) if name in group.physical}
            for volume in group.logical.values()
        }
        self.used: dict[str, int] = dict.fromkeys(group.physical, 0)
        """Extents in use of each physical volume."""
        self._find_overlaps()

    def check(self, name: str) -> None:
        """Raise what is wrong with a volume, or with one below it."""
        for inner in (name, *self._walk(name)):
            if inner in self._errors:
                raise self._errors[inner]
            if inner in self._group.damaged:
                raise self._group.damaged[inner]

    def physical(self, name: str) -> frozenset[str]:
        """The names of the physical volumes it lies on, as far as it makes sense."""
        try:
            below = (name, *self._walk(name))
        except MntapiError:
            below = (name,)
        return frozenset(physical for inner in below for physical in self._physical.get(inner, ()))

    def _walk(self, name: str) -> frozenset[str]:
        """All logical volumes below one. Depth first, with a path to find a volume on itself."""
        return self._collect(name, [])

    def _collect(self, name: str, path: list[str]) -> frozenset[str]:
        known = self._below.get(name)
        if known is not None:
            return known
        volume = self._group.logical.get(name)
        if volume is None:
            return frozenset()  # its name is a mistake, which is told when the volume is mapped
        if name in path:
            raise volume.section.corrupt("the volume lies on itself", found=" on ".join((*path[-8:], name)), reason="lvm-cycle")
        if len(path) > MAX_NESTING:
            raise _too_deep(path[0])
        direct = {inner for segment in volume.segments for inner in _named(segment, self._group)}
        found = set(direct)
        for inner in direct:
            found |= self._collect(inner, [*path, name])
        self._height[name] = 1 + max((self._height.get(inner, 0) for inner in direct), default=-1)
        if self._height[name] > MAX_NESTING:
            raise _too_deep(name)
        self._below[name] = frozenset(found)
        return self._below[name]

    def _find_overlaps(self) -> None:
        """Sort all physical extents in use; where two areas share one, none of the volumes can be believed."""
        taken: dict[str, list[tuple[int, int, str]]] = {name: [] for name in self._group.physical}
        for volume in self._group.logical.values():
            for place in self._physical_places(volume):
                taken[place.volume].append((place.first, place.first + place.length, volume.name))
        for name, areas in taken.items():
            areas.sort()
            end, owner = 0, ""
            for first, stop, volume_name in areas:
                if first < end:
                    for one, other in ((owner, volume_name), (volume_name, owner)):
                        self._errors.setdefault(one, self._overlap(one, other, name, first))
                self.used[name] += max(0, stop - max(first, end))
                if stop > end:
                    end, owner = stop, volume_name

    def _physical_places(self, volume: LogicalVolume) -> Iterator[Place]:
        try:
            for segment in volume.segments:
                for place in places(segment) if segment.kind in _AREA_LISTS else ():
                    if place.volume in self._group.physical:
                        yield self._checked(volume, place)
        except MntapiError as error:
            self._errors.setdefault(volume.name, error)

    def _checked(self, volume: LogicalVolume, place: Place) -> Place:
        most = self._group.physical[place.volume].extent_count
        if place.first + place.length > most:
            found = f"{place.first} to {place.first + place.length}"
            raise volume.section.corrupt(f"goes past the extents of {place.volume}", expected=f"at most {most}", found=found)
        return place

    def _overlap(self, one: str, other: str, physical: str, extent: int) -> Corrupt:
        section = self._group.logical[one].section
        return section.corrupt(f"extent {extent} of {physical} is also used by {other}", reason="lvm-overlap")


def _too_deep(name: str) -> Unsupported:
    return Unsupported(f"{name} lies on volumes more than {MAX_NESTING} deep", reason="lvm-nesting")


def _areas(segment: Segment) -> Iterator[str]:
    """The volumes in a segment's list of areas; a list that makes no sense names none, and is an error elsewhere."""
    if segment.kind in _AREA_LISTS:
        yield from (item for item in segment.section.items(_AREA_LISTS[segment.kind]) if isinstance(item, str))


def _named(segment: Segment, group: VolumeGroup) -> Iterator[str]:
    """All logical volumes a segment names. A logical volume may be called ``pv0`` too; areas mean the physical one then."""
    section = segment.section
    if segment.kind in _AREA_LISTS:
        yield from (name for name in _areas(segment) if name not in group.physical)
    elif segment.kind.startswith("raid"):
        yield from (item for key in ("raids", "raid0_lvs") for item in section.items(key) if isinstance(item, str))
    for key in _NAMES.get(segment.kind, ()):
        value = section.values.get(key)
        if isinstance(value, str):
            yield value
