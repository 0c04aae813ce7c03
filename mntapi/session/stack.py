"""What lies on what: disks at the bottom, the volumes that a user reads on top. For people and for JSON; nothing is read here.

A volume with one member hangs below that member. One with several (a logical volume over two disks) cannot, and starts a tree
of its own, below a heading that names its members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mntapi.types import Volume

BASE = "base"
"""The key in ``Volume.details`` under which a snapshot says whose snapshot it is, by id; the base is not its member."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A volume and what lies on it alone. ``is_leaf``: it is one of those that a user reads."""

    volume: Volume
    is_leaf: bool
    branches: tuple[Branch, ...]


class Stack:
    """The volumes of a set and their containers, by what they lie on."""

    def __init__(self, volumes: Sequence[Volume], containers: Sequence[Volume]) -> None:
        self._volumes = {volume.id: volume for volume in (*containers, *volumes)}
        self._order = {identifier: place for place, identifier in enumerate(self._volumes)}
        self._leaves = {volume.id for volume in volumes}
        self._hanging: dict[str, list[Volume]] = {}
        self._above: dict[str, list[Volume]] = {}
        for volume in self._volumes.values():
            below = self._parent(volume)
            if below is not None:
                self._hanging.setdefault(below, []).append(volume)
            for member in volume.members:
                self._above.setdefault(member, []).append(volume)

    def below(self, volume: Volume) -> list[Volume]:
        """Everything the volume lies on, disks first, each once."""
        found: dict[str, Volume] = {}
        waiting = list(volume.members)
        while waiting:
            member = self._volumes.get(waiting.pop())
            if member is not None and member.id not in found:
                found[member.id] = member
                waiting += member.members
        return sorted(found.values(), key=lambda one: self._order[one.id])

    def above(self, volume: Volume) -> list[Volume]:
        """The volumes that have this one among their members."""
        return self._above.get(volume.id, [])

    def trees(self) -> Iterator[Branch]:
        """The disks, then whatever lies on several volumes at once; every volume is in exactly one tree."""
        for volume in self._volumes.values():
            if self._parent(volume) is None:
                yield self._branch(volume, {volume.id})

    def _branch(self, volume: Volume, path: set[str]) -> Branch:
        above = [one for one in self._hanging.get(volume.id, ()) if one.id not in path]
        return Branch(volume, volume.id in self._leaves, tuple(self._branch(one, path | {one.id}) for one in above))

    def _parent(self, volume: Volume) -> str | None:
        """The volume it hangs below, if there is one."""
        members = volume.members or (volume.details.get(BASE, ""),)
        return members[0] if len(members) == 1 and members[0] in self._volumes and members[0] != volume.id else None
