"""Which physical volumes make a group: the newest metadata that can be read, copies of disks kept apart, strangers left out.

A UUID is not unique once somebody has copied a disk. Copies that LVM changed differently are told apart by their metadata. Of
copies that it did not, a volume on one of them is given for each. A volume on several is made of the first of each, if the
copies are known to be alike; if not, it is refused, as nothing on the disks tells which copy of one belongs to which of the
other, and a guess would be a volume mixed of two machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.errors import Corrupt, MntapiError
from mntapi.types import Volume
from mntapi.volumes.copies import why_not_alike
from mntapi.volumes.lvm.area import StoredText, read_text
from mntapi.volumes.lvm.group import VolumeGroup, parse_group
from mntapi.volumes.lvm.label import Label, find_label


@dataclass(frozen=True, slots=True)
class Member:
    """A physical volume as found: its label, the newest group its own metadata tells of, and what is wrong with it."""

    volume: Volume
    label: Label | None
    group: VolumeGroup | None
    problems: tuple[MntapiError, ...]

    @property
    def uuid(self) -> str:
        """The UUID, empty where the label cannot be read."""
        return self.label.uuid if self.label is not None else ""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A group, and the members found for each of its physical volumes, by their name in the group: copies, mostly one."""

    group: VolumeGroup
    found: Mapping[str, tuple[Member, ...]]
    is_ambiguous: bool
    """Two members have different metadata of the same, newest generation."""


class Copies:
    """Whether the copies of a physical volume hold the same, compared when first asked for."""

    def __init__(self, found: Mapping[str, tuple[Member, ...]]) -> None:
        self._found = found
        self._why: dict[str, str | None] = {}

    def why_not_alike(self, key: str) -> str | None:
        """Why those of this name in the group must not stand for each other, None if they hold the same."""
        if key not in self._why:
            first, *others = self._found[key]
            reasons = (why_not_alike(first.volume.blocks, other.volume.blocks) for other in others)
            self._why[key] = next(filter(None, reasons), None)
        return self._why[key]


class Reader:
    """Reads members; each metadata text is understood once, however many members have it."""

    def __init__(self) -> None:
        self._groups: dict[bytes, VolumeGroup] = {}

    def member(self, volume: Volume) -> Member:
        """What a physical volume tells. Damage is among its problems, not raised."""
        try:
            label = find_label(volume.blocks)
        except MntapiError as error:
            return Member(volume, None, None, (error.located(path=volume.name),))
        if label is None:
            return Member(volume, None, None, (Corrupt("the LVM2 label is no longer there", offset=0, reason="changed"),))
        groups, problems = [], []
        for area in label.metadata_areas:
            try:
                text = read_text(volume.blocks, area, volume.name)
                if text is not None:
                    groups.append(self._group(text))
            except MntapiError as error:
                problems.append(error)
        newest = max(groups, key=lambda group: group.generation, default=None)
        return Member(volume, label, newest, tuple(problems))

    def _group(self, text: StoredText) -> VolumeGroup:
        group = self._groups.get(text.content)
        if group is None:
            group = self._groups[text.content] = parse_group(text)
        return group


def assemblies(members: Sequence[Member]) -> Iterator[Assembly]:
    """The groups that can be made of these members.

    Every physical volume belongs to the group its own metadata names; one without metadata, to the only group that lists it.
    """
    by_group: dict[str, list[Member]] = {}
    for member in members:
        if member.group is not None:
            by_group.setdefault(member.group.uuid, []).append(member)
    without = [member for member in members if member.group is None and member.label is not None]
    lists = {key: {physical.uuid for physical in _newest(own).physical.values()} for key, own in by_group.items()}
    times = Counter(uuid for listed in lists.values() for uuid in listed)
    for key, own in by_group.items():
        mine = [member for member in without if member.uuid in lists[key] and times[member.uuid] == 1]
        for part in _told_apart(own, mine):
            yield _assembly(part)


def _told_apart(own: Sequence[Member], without: Sequence[Member]) -> Iterator[Sequence[Member]]:
    """The members as sets, if there are copies among them and their metadata tells them apart; else all as one."""
    everyone = [*own, *without]
    if _has_copies(everyone) and not without:
        parts: dict[bytes, list[Member]] = {}
        for member in own:
            if member.group is not None:
                parts.setdefault(member.group.source.content, []).append(member)
        if not any(_has_copies(part) for part in parts.values()):
            yield from parts.values()
            return
    yield everyone


def _has_copies(members: Sequence[Member]) -> bool:
    return len({member.uuid for member in members}) < len(members)


def _newest(members: Sequence[Member]) -> VolumeGroup:
    return max((member.group for member in members if member.group is not None), key=lambda group: group.generation)


def _assembly(members: Sequence[Member]) -> Assembly:
    groups = [member.group for member in members if member.group is not None]
    newest = _newest(members)
    found = {
        physical.name: tuple(member for member in members if member.uuid == physical.uuid)
        for physical in newest.physical.values()
    }
    rivals = [group for group in groups if group.generation == newest.generation]
    return Assembly(newest, found, any(group.source.content != newest.source.content for group in rivals))
