"""From members to the bytes of the array: the geometry of each level.

Source: ``raid5_size`` in drivers/md/raid5.c, ``setup_geo`` and ``raid10_size`` in raid10.c of the kernel; md(4).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import align_down
from mntapi.volumes.md.superblock import LINEAR, Geometry
from mntapi.volumes.md.zones import Members, check_chunk, linear, raid0
from mntapi.volumes.raid import Mirrored, ParityArray, ParityLayout, Raid10, raid10

_RAID5_LAYOUTS = {
    0: ParityLayout.LEFT_ASYMMETRIC,
    1: ParityLayout.RIGHT_ASYMMETRIC,
    2: ParityLayout.LEFT_SYMMETRIC,
    3: ParityLayout.RIGHT_SYMMETRIC,
    4: ParityLayout.PARITY_0,
    5: ParityLayout.PARITY_N,
}
_RAID6_LAYOUTS = {
    0: ParityLayout.RAID6_LEFT_ASYMMETRIC,
    1: ParityLayout.RAID6_RIGHT_ASYMMETRIC,
    2: ParityLayout.RAID6_LEFT_SYMMETRIC,
    3: ParityLayout.RAID6_RIGHT_SYMMETRIC,
    4: ParityLayout.RAID6_PARITY_0,
    5: ParityLayout.RAID6_PARITY_N,
    8: ParityLayout.ROTATING_ZERO_RESTART,
    9: ParityLayout.ROTATING_N_RESTART,
    10: ParityLayout.ROTATING_N_CONTINUE,
    16: ParityLayout.LEFT_ASYMMETRIC_6,
    17: ParityLayout.RIGHT_ASYMMETRIC_6,
    18: ParityLayout.LEFT_SYMMETRIC_6,
    19: ParityLayout.RIGHT_SYMMETRIC_6,
    20: ParityLayout.PARITY_0_6,
}
_MAX_SIZE = 1 << 63


def build(geometry: Geometry, members: Members) -> Blocks:
    """The array.

    Raises:
        Corrupt: the numbers of the geometry make no sense.
        Unsupported: the level or layout is not read.
        Invalid: a member is too small.
    """
    builder = _BUILDERS.get(geometry.level)
    if builder is None:
        raise Unsupported(f"MD arrays of kind {geometry.level_name} are not read", reason="md-level")
    blocks = builder(geometry, members)
    if blocks.size >= _MAX_SIZE:
        raise Corrupt("the array is larger than can be", found=blocks.size)
    return blocks


def survives(geometry: Geometry, lost: Collection[int]) -> bool:
    """Whether an array that can be built has all its bytes without these members."""
    if geometry.level == 10:
        near, far, _ = _copies(geometry.layout or 0)
        return raid10.survives(geometry.raid_disks, near, far, lost)
    return len(lost) <= redundancy(geometry)


def redundancy(geometry: Geometry) -> int:
    """How many members may lack the same range of bytes; 0 for RAID 10, where that depends on which."""
    return {1: geometry.raid_disks - 1, 4: 1, 5: 1, 6: 2}.get(geometry.level, 0)


def layout_name(geometry: Geometry) -> str | None:
    """The layout in mdadm's words, None where the level has none."""
    if geometry.level == 0:
        return {1: "original", 2: "alternate"}.get(geometry.layout or 0)
    if geometry.level == 10 and geometry.layout is not None:
        near, far, is_offset = _copies(geometry.layout)
        parts = [f"near={near}"] if near > 1 or far == 1 else []
        return ", ".join([*parts, f"{'offset' if is_offset else 'far'}={far}"] if far > 1 else parts)
    if geometry.level not in (5, 6) or geometry.layout is None:
        return None
    layout = (_RAID5_LAYOUTS if geometry.level == 5 else _RAID6_LAYOUTS).get(geometry.layout)
    return layout.value.removeprefix("raid6-") if layout else None


def _raid1(geometry: Geometry, members: Members) -> Blocks:
    missing: list[None] = [None] * (geometry.raid_disks - len(members))
    return Mirrored([*members.values(), *missing], geometry.component)


def _parity(layouts: Mapping[int, ParityLayout], parities: int) -> Callable[[Geometry, Members], Blocks]:
    def make(geometry: Geometry, members: Members) -> Blocks:
        check_chunk(geometry)
        layout = layouts.get(geometry.layout or 0)
        if layout is None:
            raise Unsupported(f"layout {geometry.layout} of {geometry.level_name} is not known", reason="md-layout")
        size = align_down(geometry.component, geometry.chunk) * (geometry.raid_disks - parities)
        return ParityArray(_places(geometry, members), geometry.chunk, size, layout)

    return make


def _raid10(geometry: Geometry, members: Members) -> Blocks:
    check_chunk(geometry)
    near, far, is_offset = _copies(geometry.layout or 0)
    if (geometry.layout or 0) >> 17 or not near or not far:
        raise Unsupported(f"layout 0x{geometry.layout or 0:x} of raid10 is not known", reason="md-layout")
    chunks = geometry.component // geometry.chunk // far * geometry.raid_disks // near
    return Raid10(_places(geometry, members), geometry.chunk, chunks * geometry.chunk, near, far, is_offset)


def _copies(layout: int) -> tuple[int, int, bool]:
    """Near and far copies of a RAID 10, and whether the far ones are offset."""
    return layout & 0xFF, layout >> 8 & 0xFF, bool(layout >> 16 & 1)


def _places(geometry: Geometry, members: Members) -> list[Blocks | None]:
    return [members.get(role) for role in range(geometry.raid_disks)]


_BUILDERS: Mapping[int, Callable[[Geometry, Members], Blocks]] = {
    LINEAR: linear,
    0: raid0,
    1: _raid1,
    4: _parity(dict.fromkeys(_RAID5_LAYOUTS, ParityLayout.RAID4), 1),
    5: _parity(_RAID5_LAYOUTS, 1),
    6: _parity(_RAID6_LAYOUTS, 2),
    10: _raid10,
}
