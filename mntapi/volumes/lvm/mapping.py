"""From the description of a logical volume to its bytes: every kind of segment, over physical volumes that may be missing.

``Mapper.volume`` is what a user sees; below it ``_raw`` is what the segments of a volume make, without the snapshot that the
volume may be the store of. A volume lies only on what ``references.Map`` has checked, so nothing here can go round in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mntapi.blocks import Concat, Missing, Slice, Zero
from mntapi.blocks.writable import Unwritable
from mntapi.errors import MntapiError, Unsupported
from mntapi.types import Blocks
from mntapi.units import SECTOR
from mntapi.volumes.lvm import mirror, raid
from mntapi.volumes.lvm.cache import Cached
from mntapi.volumes.lvm.group import LogicalVolume, PhysicalVolume, Segment, VolumeGroup
from mntapi.volumes.lvm.integrity import with_journal
from mntapi.volumes.lvm.references import Map, Place, places, raid_names
from mntapi.volumes.lvm.snapshot import Snapshot, merging
from mntapi.volumes.lvm.text import Section
from mntapi.volumes.lvm.thin import ThinPool
from mntapi.volumes.lvm.writecache import write_cached
from mntapi.volumes.raid import Mirrored, Striped

MAX_CHUNK = 2**32
"""Sectors in a stripe or chunk."""

_ERROR = "an error segment: LVM has given these extents up"
_UNSUPPORTED = {
    "vdo": "deduplication (VDO)",
    "vdo-pool": "deduplication (VDO)",
}
_NOT_WRITTEN = {
    "snapshot": "a snapshot is not written: its store would have to take the chunks that change",
    "thin": "a thin volume is not written: its pool would have to give it chunks",
    "cache": "a cached volume is not written: its cache would have to be told",
    "writecache": "a volume with a write cache is not written: its cache would have to be told",
}
"""Kinds of segments that lie on what could be written, by why they are only read."""


class Mapped(NamedTuple):
    """Bytes, and why not all of them can be read, or not safely."""

    blocks: Blocks
    notes: tuple[str, ...] = ()
    is_whole: bool = True
    """Whether all can be read in spite of the notes, by redundancy."""

    @property
    def is_degraded(self) -> bool:
        """Whether redundancy has to help."""
        return bool(self.notes) and self.is_whole


class Start(NamedTuple):
    """A byte of a physical volume, by the volume's name in the group."""

    name: str
    start: int


class _Store(NamedTuple):
    """A snapshot: the volume that keeps what it has of its own, and the volume it was taken of."""

    origin: str
    extent_count: int
    is_merging: bool
    is_visible: bool


class Mapper:
    """The volumes of a group over those of its physical volumes that are there.

    Args:
        group: the group.
        found: physical volumes by their name in the group.
        graph: what lies on what.
    """

    def __init__(self, group: VolumeGroup, found: Mapping[str, Blocks], graph: Map) -> None:
        self._group = group
        self._found = found
        self._graph = graph
        self._raw_volumes: dict[str, Mapped] = {}
        self._pools: dict[str, ThinPool] = {}
        self._stores = dict(_snapshots(group))
        self._merging_into = {store.origin: name for name, store in self._stores.items() if store.is_merging}

    def volume(self, name: str) -> Mapped:
        """The volume of that name, as it has a device on the machine.

        Raises:
            Corrupt: its description contradicts itself, or the metadata on it is damaged.
            Unsupported: a kind of segment, or a state of it, that is not read.
            MntapiError: what reading its metadata raises.
        """
        mapped = self._whole(name)
        degraded = "degraded: " if mapped.is_degraded else ""
        why = degraded + "; ".join(mapped.notes) or self._why_not_written(name)
        return mapped if why is None else mapped._replace(blocks=Unwritable(mapped.blocks, why))

    def _why_not_written(self, name: str) -> str | None:
        """Why it must not be written although what it lies on may be, or None."""
        volume = self._group.logical[name]
        if any(store.origin == name for store in self._stores.values()):
            return "snapshots were taken of it, which would change with it"
        if "WRITE" not in volume.status:
            return "its volume group has it as read-only"
        return next((_NOT_WRITTEN[kind] for kind in self.kinds(volume) if kind in _NOT_WRITTEN), None)

    def _whole(self, name: str) -> Mapped:
        self._graph.check(name)
        if name in self._stores and not self._stores[name].is_merging:
            return self._snapshot(name, self._stores[name])
        if name in self._merging_into:
            store = self._merging_into[name]
            origin, cow = self._raw(name), self._raw(store)
            self._graph.check(store)
            return _over(merging(origin.blocks, cow.blocks, origin.blocks.size), origin, cow)
        return self._raw(name)

    def is_shown(self, volume: LogicalVolume) -> bool:
        """Whether it is a volume of the user's, not a part of one, a pool or a store."""
        store = self._stores.get(volume.name)
        if store is not None:
            return store.is_visible and not store.is_merging
        pools = ("thin-pool", "cache-pool", "vdo-pool", "snapshot")
        is_inner = "CACHE_VOL" in volume.status or volume.segments[0].kind in pools
        return "VISIBLE" in volume.status and not is_inner

    def kinds(self, volume: LogicalVolume) -> tuple[str, ...]:
        """The kinds of its segments, in LVM's words for people."""
        if volume.name in self._stores:
            return ("snapshot",)
        return tuple(dict.fromkeys(_kind(segment) for segment in volume.segments))

    def origin(self, volume: LogicalVolume) -> LogicalVolume | None:
        """The volume that it is a snapshot of, classic or thin; None if it is none, or that one is gone."""
        store = self._stores.get(volume.name)
        name = store.origin if store is not None else volume.segments[0].section.values.get("origin")
        is_snapshot = store is not None or volume.segments[0].kind == "thin"
        return self._group.logical.get(name) if is_snapshot and isinstance(name, str) else None

    def place(self, volume: LogicalVolume) -> Start | None:
        """Where it begins, if it is one range of one physical volume that is there with all of it."""
        segment, *more = volume.segments
        if more or volume.name in self._stores or volume.name in self._merging_into or _kind(segment) != "linear":
            return None
        (area,) = places(segment)
        physical = self._group.physical.get(area.volume)
        if physical is None or self.volume(volume.name).notes:
            return None
        return Start(physical.name, physical.start + area.first * self._group.extent_size)

    def size(self, volume: LogicalVolume) -> int:
        """Bytes of the volume, as far as the description tells."""
        store = self._stores.get(volume.name)
        size = (store.extent_count if store is not None else volume.extent_count) * self._group.extent_size
        segment = volume.segments[0]
        if store is not None or segment.kind not in raid.KINDS or len(volume.segments) > 1:
            return size
        try:
            return raid.size_without_room(segment, size, segment.section.number("device_count", 1, least=1))
        except MntapiError:
            return size

    def _raw(self, name: str) -> Mapped:
        known = self._raw_volumes.get(name)
        if known is None:
            volume = self._group.logical[name]
            parts = [self._segment(segment) for segment in volume.segments]
            blocks = parts[0].blocks if len(parts) == 1 else Concat([part.blocks for part in parts])
            known = self._raw_volumes[name] = _over(blocks, *parts)
        return known

    def _segment(self, segment: Segment) -> Mapped:
        kind, size = segment.kind, segment.count * self._group.extent_size
        if kind in ("striped", "linear"):
            return self._striped(segment, size)
        if kind in raid.KINDS:
            return self._raid(segment, size)
        if kind == "mirror":
            return self._mirror(segment, size)
        if kind == "zero":
            return Mapped(Zero(size))
        if kind == "error":
            return Mapped(Missing(size, _ERROR), (_ERROR,), is_whole=False)
        if kind == "thin":
            return self._thin(segment, size)
        if kind == "cache":
            return self._cached(segment)
        if kind == "writecache":
            return self._write_cached(segment.section)
        if kind == "integrity":
            return self._with_integrity(segment.section)
        what = _UNSUPPORTED.get(kind, f"segments of kind {kind[:40]}")
        raise Unsupported(f"{what} cannot be read in this version", reason=f"lvm-{kind[:40]}")

    def _striped(self, segment: Segment, size: int) -> Mapped:
        areas = [self._place(place, segment.section) for place in places(segment)]
        if len(areas) == 1:
            return areas[0]
        chunk = segment.section.number("stripe_size", least=1, most=MAX_CHUNK) * SECTOR
        return _over(Striped([area.blocks for area in areas], chunk, size), *areas)

    def _place(self, place: Place, section: Section) -> Mapped:
        """A part of a physical or logical volume."""
        unit = self._group.extent_size
        if place.volume in self._group.physical:
            return self._extents(self._group.physical[place.volume], place.first * unit, place.length * unit)
        below = self._below(place.volume, section)
        if (place.first + place.length) * unit > below.blocks.size:
            raise section.corrupt(f"goes past the end of {place.volume}", expected=below.blocks.size // unit, found=place.first)
        return _over(Slice(below.blocks, place.first * unit, place.length * unit), below)

    def _below(self, name: str, section: Section) -> Mapped:
        if name not in self._group.logical:
            raise section.corrupt("lies on a volume that the group has not", found=repr(name[:80]))
        return self._raw(name)

    def _extents(self, physical: PhysicalVolume, start: int, length: int) -> Mapped:
        blocks = self._found.get(physical.name)
        if blocks is None:
            note = physical.absence
            return Mapped(Missing(length, note, hint="add the disk that holds it"), (note,), is_whole=False)
        start += physical.start
        there = max(0, min(length, blocks.size - start))
        if there == length:
            return Mapped(Slice(blocks, start, length))
        note = f"PV {physical.uuid} ends before its data does"
        parts: list[Blocks] = [Slice(blocks, start, there)] if there else []
        return Mapped(Concat([*parts, Missing(length - there, note)]), (note,), is_whole=False)

    def _raid(self, segment: Segment, size: int) -> Mapped:
        names = raid_names(segment)
        images: list[raid.Image] = []
        metadata: str | None = None
        for name in names:
            if "_rmeta_" in name and metadata is None:
                metadata = name
            else:
                images.append(self._image(len(images), metadata, name, segment.section))
                metadata = None
        if metadata is not None:
            raise segment.section.corrupt("a metadata image without its data", found=metadata)
        array = raid.array(segment, size, images)
        return Mapped(array.blocks, array.notes, array.is_whole)

    def _image(self, index: int, metadata: str | None, data: str, section: Section) -> raid.Image:
        below = self._below(data, section)
        superblock = self._below(metadata, section) if metadata is not None else None
        notes = list(_joined(below, *([superblock] if superblock else [])))
        physical = [self._group.physical[name] for name in self._graph.physical(data)]
        marked = [one for one in physical if one.is_marked_missing and one.name in self._found]
        notes += [
            f"image {index} is old: PV {one.uuid} is here again, but was missing when the group was used" for one in marked
        ]
        is_rebuilt = "REBUILD" in self._group.logical[data].status
        notes += [f"image {index} is to be rebuilt"] if is_rebuilt else []
        is_away = bool(physical) and all(one.name not in self._found for one in physical)
        blocks = superblock.blocks if superblock is not None else None
        return raid.Image(blocks, below.blocks, tuple(notes), bool(marked) or is_rebuilt or is_away)

    def _mirror(self, segment: Segment, size: int) -> Mapped:
        """The first copy; the others only where it is known that they are like it."""
        first, *others = (self._place(place, segment.section) for place in places(segment))
        copies, notes = self._copies(segment, others)
        blocks = Mirrored([first.blocks, *copies], size)
        notes = (*_joined(first, *others), *notes)
        is_whole = first.is_whole or any(
            copy is other.blocks and other.is_whole for copy, other in zip(copies, others, strict=True)
        )
        return Mapped(blocks, notes, is_whole)

    def _copies(self, segment: Segment, others: Sequence[Mapped]) -> tuple[list[Blocks | None], tuple[str, ...]]:
        """The other copies, unreadable where they cannot be trusted; None if nothing tells where. With notes on the log."""
        section = segment.section
        name = section.values.get("mirror_log")
        if not isinstance(name, str):
            are_alike = section.number("extents_moved", 0) == segment.count
            return [other.blocks if are_alike else None for other in others], ()
        region = section.number("region_size", least=1, most=MAX_CHUNK) * SECTOR
        log = self._below(name, section)
        try:
            bits = mirror.clean_regions(log.blocks, -(-segment.count * self._group.extent_size // region))
        except MntapiError as error:
            return [None for _ in others], (*log.notes, f"the mirror's log cannot be used: {error}")
        return [mirror.trusted(other.blocks, bits, region) for other in others], log.notes

    def _thin(self, segment: Segment, size: int) -> Mapped:
        section = segment.section
        name = section.text("thin_pool")
        pool = self._group.logical.get(name)
        if pool is None or pool.segments[0].kind != "thin-pool":
            raise section.corrupt("lies on a thin pool that the group has not", found=repr(name[:80]))
        inner = pool.segments[0].section
        metadata, data = self._below(inner.text("metadata"), inner), self._below(inner.text("pool"), inner)
        external = section.values.get("external_origin")
        origin = self._below(external, section) if isinstance(external, str) else None
        if name not in self._pools:
            chunk = inner.number("chunk_size", least=1, most=MAX_CHUNK) * SECTOR
            self._pools[name] = ThinPool(metadata.blocks, data.blocks, chunk)
        blocks = self._pools[name].volume(section.number("device_id", most=2**24 - 1), size, origin.blocks if origin else None)
        return _over(blocks, metadata, data, *([origin] if origin else []))

    def _snapshot(self, name: str, store: _Store) -> Mapped:
        origin, cow = self._raw(store.origin), self._raw(name)
        blocks = Snapshot(origin.blocks, cow.blocks, store.extent_count * self._group.extent_size)
        return _over(blocks, origin, cow)

    def _cached(self, segment: Segment) -> Mapped:
        section = segment.section
        origin = self._below(section.text("origin"), section)
        name = section.text("cache_pool")
        pool = self._group.logical.get(name)
        if pool is None:
            raise section.corrupt("lies on a cache that the group has not", found=repr(name[:80]))
        if pool.segments[0].kind == "cache-pool":
            inner = pool.segments[0].section
            metadata, data = self._below(inner.text("metadata"), inner), self._below(inner.text("data"), inner)
        else:
            inner = section if "chunk_size" in section.values else pool.segments[0].section
            whole = self._raw(name)
            metadata, data = (self._cut(whole, section, key) for key in ("metadata", "data"))
        chunk = inner.number("chunk_size", least=1, most=MAX_CHUNK) * SECTOR
        return _over(Cached(origin.blocks, metadata.blocks, data.blocks, chunk), origin, metadata, data)

    def _write_cached(self, section: Section) -> Mapped:
        origin, fast = (self._below(section.text(key), section) for key in ("origin", "writecache"))
        return _over(write_cached(origin.blocks, fast.blocks), origin, fast)

    def _with_integrity(self, section: Section) -> Mapped:
        """An image of an array; one that cannot be used is left to the others."""
        data, metadata = (self._below(section.text(key), section) for key in ("origin", "meta_dev"))
        try:
            blocks = with_journal(data.blocks, metadata.blocks)
        except MntapiError as error:
            notes = _joined(data, metadata) or (str(error),)
            return Mapped(Missing(data.blocks.size, notes[0]), notes, is_whole=False)
        return _over(Unwritable(blocks, "its integrity checksums would have to be written too"), data, metadata)

    def _cut(self, whole: Mapped, section: Section, key: str) -> Mapped:
        """A range of a cache volume, which is metadata and data in one."""
        start = section.number(f"{key}_start", most=2**54) * SECTOR
        length = section.number(f"{key}_len", least=1, most=2**54) * SECTOR
        if start + length > whole.blocks.size:
            raise section.corrupt(f"the {key} goes past the end of the cache", expected=whole.blocks.size, found=start + length)
        return _over(Slice(whole.blocks, start, length), whole)


def _snapshots(group: VolumeGroup) -> list[tuple[str, _Store]]:
    """The snapshots of a group, by the volume that is their store; it is visible where the one that names it is."""
    found = []
    for volume in group.logical.values():
        segment = volume.segments[0]
        origin = segment.section.values.get("origin")
        for key in ("cow_store", "merging_store"):
            store = segment.section.values.get(key)
            is_named = isinstance(store, str) and isinstance(origin, str) and {store, origin} <= group.logical.keys()
            if segment.kind == "snapshot" and is_named:
                found.append(
                    (str(store), _Store(str(origin), segment.count, key == "merging_store", "VISIBLE" in volume.status))
                )
    return found


def _kind(segment: Segment) -> str:
    is_linear = segment.kind == "striped" and segment.section.values.get("stripe_count") == 1
    return "linear" if is_linear else segment.kind[:40]


def _over(blocks: Blocks, *parts: Mapped) -> Mapped:
    """Blocks that need all of the parts."""
    return Mapped(blocks, _joined(*parts), all(part.is_whole for part in parts))


def _joined(*parts: Mapped) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for part in parts for note in part.notes))
