"""Who is a member of which array, and which of them are up to date.

The superblock with the most events speaks for its array. A member is left out if its own is older (by more than the one event
that a crash may leave between two members), or if the newest says that it failed; what is left out is told. Of copies of one
member, which a snapshot beside its original makes, the one with the most events is used. If they have as many, that is the one
that was given first, provided that they are known to hold the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mntapi.blocks import Slice
from mntapi.types import Volume
from mntapi.volumes.copies import why_not_alike
from mntapi.volumes.md.superblock import Superblock

_TOLERANCE = 1
"""Events that a member may be behind, as in ``super_1_validate`` and ``super_90_validate`` of drivers/md/md.c."""


@dataclass(frozen=True, slots=True)
class Member:
    """A volume that carries a superblock."""

    volume: Volume
    superblock: Superblock

    def __str__(self) -> str:
        """For reasons: ``member 2 (disk0p3)``, or the volume's name alone where it has no place in the array."""
        role = self.superblock.role
        return self.volume.name if role is None else f"member {role} ({self.volume.name})"


@dataclass(slots=True)
class Assembly:
    """One array: ``members`` by their place, what was left out and why."""

    newest: Superblock
    everyone: list[Member]
    members: dict[int, Member] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    spares: int = 0
    has_twins: bool = False
    """A copy of a member, as new as that and the same, is there too."""

    @property
    def missing(self) -> list[int]:
        """Places nobody has."""
        return [role for role in range(self.newest.geometry.raid_disks) if role not in self.members]

    def left_out_of(self, role: int) -> list[Member]:
        """The members that say they have that place, each UUID once, where none of them is used: stale ones, copies."""
        found = {one.superblock.device_uuid: one for one in self.everyone if one.superblock.role == role}
        return list(found.values()) if role not in self.members else []


def assemble(members: Sequence[Member]) -> Iterator[Assembly]:
    """The arrays these are members of, each by its UUID and format."""
    groups: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        groups.setdefault((member.superblock.uuid, member.superblock.version[:1]), []).append(member)
    for group in groups.values():
        yield _assemble(group)


def _assemble(group: list[Member]) -> Assembly:
    newest = max(group, key=lambda member: (member.superblock.events, member.superblock.updated)).superblock
    assembly = Assembly(newest, group)
    by_role: dict[int, list[Member]] = {}
    for member in group:
        reason = _not_usable(member.superblock, newest)
        if reason:
            assembly.left_out.append(f"{member} {reason}")
            continue
        role = newest.roles.get(member.superblock.number)
        if role is None:
            assembly.spares += 1
        else:
            by_role.setdefault(role, []).append(member)
    for role, candidates in sorted(by_role.items()):
        _take(assembly, role, candidates)
    if newest.geometry.level == 1 and not assembly.members and by_role:
        _take_one(assembly, *min(by_role.items()))
    return assembly


def _not_usable(own: Superblock, newest: Superblock) -> str | None:
    """Why a member must not be used, or None."""
    if own.events + _TOLERANCE < newest.events:
        return f"is out of date (event {own.events} of {newest.events})"
    if own.role is not None and newest.roles.get(own.number) is None:
        return "failed, the others say"
    if own.geometry != newest.geometry or own.role != newest.roles.get(own.number):
        return "contradicts the others about the array"
    return None


def _take(assembly: Assembly, role: int, candidates: Sequence[Member]) -> None:
    """Give a place in the array to the one member that has it, and say what becomes of its copies."""
    first, *others = _copies(candidates)
    if not others:
        assembly.members[role] = first
        return
    names = ", ".join(sorted(member.volume.name for member in (first, *others)))
    rivals = [member for member in others if _age(member) == _age(first)]
    if any(member.superblock.device_uuid != first.superblock.device_uuid for member in rivals):
        assembly.left_out.append(f"{names} all say that they are member {role}, and which is right cannot be told")
    elif why := next(filter(None, (why_not_alike(_data(first), _data(member)) for member in rivals)), None):
        assembly.left_out.append(f"{names} are copies of the same member {role} and {why}: which is right cannot be told")
    else:
        assembly.members[role] = first
        assembly.has_twins |= bool(rivals)
        copies = ", ".join(member.volume.name for member in others)
        verb = "are copies" if len(others) > 1 else "is a copy"
        assembly.left_out.append(f"{copies} {verb} of member {role}, of which {first.volume.name} is used")


def _take_one(assembly: Assembly, role: int, candidates: Sequence[Member]) -> None:
    """Use one member alone, of a mirror of nothing but copies that differ: it is the array as it was at some time."""
    first, *_ = _copies(candidates)
    assembly.members[role] = first
    assembly.left_out.append(f"{first} is used alone")


def _copies(candidates: Sequence[Member]) -> list[Member]:
    """The members that claim one place, the newest first, else as they were given; a replacement only if there is no other."""
    originals = [member for member in candidates if not member.superblock.is_replacement]
    return sorted(originals or candidates, key=_age, reverse=True)


def _age(member: Member) -> tuple[int, int]:
    return member.superblock.events, member.superblock.updated


def _data(member: Member) -> Slice:
    """What there is of its data."""
    blocks, superblock = member.volume.blocks, member.superblock
    start = min(superblock.data_offset, blocks.size)
    return Slice(blocks, start, min(superblock.data_size, blocks.size - start))
