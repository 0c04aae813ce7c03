"""What a superblock says of its array and of the member it is on, the same for both formats.

Everything is in bytes here, whatever the format counts in. Source: include/uapi/linux/raid/md_p.h of the kernel; md(4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEVELS = {-5: "faulty", -4: "multipath", -1: "linear", 0: "raid0", 1: "raid1", 4: "raid4", 5: "raid5", 6: "raid6", 10: "raid10"}
LINEAR = -1


@dataclass(frozen=True, slots=True)
class Geometry:
    """What all members of an array must agree on."""

    level: int
    layout: int | None
    """The level's own number for it; None where it was not recorded."""
    chunk: int
    raid_disks: int
    component: int
    """Bytes of each member that the array uses, 0 if all of them (linear, RAID 0)."""

    @property
    def level_name(self) -> str:
        return LEVELS.get(self.level, f"level {self.level}")


@dataclass(frozen=True, slots=True)
class Superblock:
    """One member's view. ``roles`` is what it says of every device number: the place in the array, or None for a spare or a
    failed one."""

    version: str
    uuid: str
    name: str | None
    geometry: Geometry
    created: int
    updated: int
    events: int
    number: int
    roles: Mapping[int, int | None]
    data_offset: int
    data_size: int
    device_uuid: str | None = None
    recovered: int | None = None
    """Bytes of the data that hold what they should, while the member is being rebuilt; None: all."""
    synced: int | None = None
    """Bytes of each member from which on parity and copies may differ, because it was not shut down cleanly; None: none."""
    is_replacement: bool = False
    is_journal: bool = False
    has_partial_parity_log: bool = False
    """After a crash Linux computes parity of what it says, which fits only what was on the members then."""
    bad_block_log: tuple[int, int, int] | None = None
    """Offset on the member and length, and the unit in which it counts, if there is anything in it."""
    unsupported: str | None = None
    """Why the array cannot be read: a reshape, a journal."""
    last_seen: Mapping[int, str] = field(default_factory=dict)
    """Device numbers (major:minor) that the members had, by their place in the array."""

    @property
    def role(self) -> int | None:
        """This member's place in the array by its own account."""
        return self.roles.get(self.number)
