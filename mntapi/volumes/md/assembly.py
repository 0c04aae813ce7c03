"""Who is a member of which array, and which of them are up to date.

The superblock with the most events speaks for its array. A member is left out if its own is older (by more than the one event
that a crash may leave between two members), or if the newest says that it failed; what is left out is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mntapi.types import Volume
from mntapi.volumes.md.superblock import Superblock

_TOLERANCE = 1
"""Events that a member may be behind, as in ``super_1_validate`` and ``super_90_validate`` of drivers/md/md.c."""


@dataclass(frozen=True, slots=True)
class Member:
    """A volume that carries a superblock."""

    volume: Volume
    superblock: Superblock


@dataclass(slots=True)
class Assembly:
    """One array: ``members`` by their place, what was left out and why."""

    newest: Superblock
    everyone: list[Member]
    members: dict[int, Member] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    spares: int = 0

    @property
    def missing(self) -> list[int]:
        """Places nobody has."""
        return [role for role in range(self.newest.geometry.raid_disks) if role not in self.members]


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
            assembly.left_out.append(f"{member.volume.id} {reason}")
            continue
        role = newest.roles.get(member.superblock.number)
        if role is None:
            assembly.spares += 1
        else:
            by_role.setdefault(role, []).append(member)
    for role, candidates in sorted(by_role.items()):
        _take(assembly, role, candidates)
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


def _take(assembly: Assembly, role: int, candidates: list[Member]) -> None:
    """Give a place in the array to the one member that has it; a copy of a member says the same as the member does."""
    originals = [member for member in candidates if not member.superblock.is_replacement] or candidates
    if len(originals) == 1:
        assembly.members[role] = originals[0]
        return
    names = ", ".join(sorted(member.volume.id for member in originals))
    assembly.left_out.append(f"{names} are copies of the same member {role}, and which is right cannot be told")
