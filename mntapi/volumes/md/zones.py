"""The levels without redundancy: linear, and RAID 0 of members that need not be equal.

Source: ``create_strip_zones``, ``map_sector`` and ``raid0_size`` in drivers/md/raid0.c, ``linear_conf`` in md-linear.c of the
kernel; md(4), "RAID0" and "LINEAR".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.blocks import Concat, Missing, Slice
from mntapi.errors import Corrupt
from mntapi.types import Blocks
from mntapi.units import KIB, SECTOR, align_down
from mntapi.volumes.md.superblock import Geometry
from mntapi.volumes.raid import Striped

_ORIGINAL, _ALTERNATE = 1, 2
"""How chunks are dealt out behind the end of the smallest member: as Linux did before 3.14, or since. Recorded since 5.4."""

_NOT_RECORDED = "the layout of this RAID 0 of unequal members was not recorded"

Members = Mapping[int, Blocks]
"""The data of each member that is there, by its place, each as long as the superblock says; those that are whole come first."""


def linear(geometry: Geometry, members: Members) -> Blocks:
    """One after the other. Where a missing member ends is not known, so what follows it cannot be placed, nor the array's end.
    At least the smallest of members is missing, so that nobody who reads to the end takes the rest for the whole.
    """
    parts: list[Blocks] = []
    sizes = _whole_chunks(geometry, members)
    for role in range(geometry.raid_disks):
        if role not in members:
            behind = sum(size for at, size in sizes.items() if at > role)
            parts.append(Missing(_unit(geometry) + behind, f"{_gone(role)}, and what follows it cannot be placed"))
            break
        parts.append(_beginning(members[role], sizes[role]))
    return Concat(parts)


def raid0(geometry: Geometry, members: Members) -> Blocks:
    """Stripes over all members, then, where these are unequal, over those that are larger, and so on: zones.

    The size of a missing member is recorded nowhere, and where the first zone ends depends on it: without all of them there is
    no telling where anything lies, and nothing is read.
    """
    check_chunk(geometry)
    known = _whole_chunks(geometry, members)
    if not known:
        return Missing(_unit(geometry), "all members of the array are missing")
    if not any(known.values()):
        raise Corrupt("no member of the MD array is as large as a chunk", found=geometry.chunk)
    sizes = [known.get(role, min(known.values())) for role in range(geometry.raid_disks)]
    if len(known) < geometry.raid_disks:
        return Missing(
            sum(sizes), "a member of the RAID 0 is missing: how large it was, and so where anything lies, is not known"
        )
    parts: list[Blocks] = []
    for zone in zones(sizes, geometry.chunk):
        if zone.shift and geometry.layout not in (_ORIGINAL, _ALTERNATE):
            parts.append(Missing(zone.size, _NOT_RECORDED))
        else:
            parts.append(_zone(zone, geometry, members))
    blocks = Concat(parts)
    return Slice(blocks, 0, min(blocks.size, sum(_counted(size, geometry.chunk) for size in sizes)))


def _zone(zone: Zone, geometry: Geometry, members: Members) -> Blocks:
    first = zone.shift if geometry.layout == _ORIGINAL else 0
    length = zone.end - zone.start
    striped = [Slice(members[role], zone.start, length) for role in (*zone.roles[first:], *zone.roles[:first])]
    return Striped(striped, geometry.chunk, zone.size)


def unrecorded(geometry: Geometry, members: Members) -> str | None:
    """Why a part of it cannot be read although all members are there, or None: the two layouts differ, and which it is was not
    recorded."""
    if geometry.level != 0 or geometry.layout in (_ORIGINAL, _ALTERNATE):
        return None
    sizes = [*_whole_chunks(geometry, members).values()]
    return _NOT_RECORDED if any(zone.shift for zone in zones(sizes, geometry.chunk)) else None


def _counted(size: int, chunk: int) -> int:
    """Bytes of a member that count for the size of a RAID 0: ``raid0_size`` rounds with a mask, whatever the chunk."""
    return (size // SECTOR & ~(chunk // SECTOR - 1)) * SECTOR


@dataclass(frozen=True, slots=True)
class Zone:
    """Bytes ``start`` to ``end`` of some members, which take turns there. ``shift``: where the original layout begins."""

    start: int
    end: int
    roles: list[int]
    shift: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return (self.end - self.start) * len(self.roles)


def zones(sizes: Sequence[int], chunk: int) -> Iterator[Zone]:
    """One behind the other, for members of these sizes: all take part in the first, the largest in the last."""
    start = array_start = 0
    for end in sorted(set(sizes) - {0}):
        roles = [role for role, size in enumerate(sizes) if size > start]
        zone = Zone(start, end, roles, array_start // chunk % len(roles))
        yield zone
        start, array_start = end, array_start + zone.size


def check_chunk(geometry: Geometry) -> None:
    """Linux wants a multiple of a page, and of two where there is parity or RAID 10."""
    chunk = geometry.chunk
    if not chunk or chunk % (4 * KIB) or (geometry.level and chunk.bit_count() != 1):
        raise Corrupt("the chunk size of the MD array makes no sense", found=chunk)


def _whole_chunks(geometry: Geometry, members: Members) -> dict[int, int]:
    """Bytes that linear and RAID 0 use of each member."""
    return {role: align_down(member.size, geometry.chunk or 1) for role, member in members.items()}


def _unit(geometry: Geometry) -> int:
    """Bytes of the smallest member that can be."""
    return geometry.chunk or SECTOR


def _gone(role: int) -> str:
    return f"member {role} of the array is missing"


def _beginning(member: Blocks, size: int) -> Blocks:
    return member if member.size == size else Slice(member, 0, size)
