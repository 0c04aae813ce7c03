"""The page of ``mntapi info``: the machine, a tree of what lies on what, then what is wrong and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from shutil import get_terminal_size

from mntapi.cli.info_guests import heading, mounted_at, short
from mntapi.cli.info_troubles import troubles
from mntapi.cli.output import escape, table, text_width
from mntapi.session.diskset import Content, DiskSet
from mntapi.session.stack import Branch, Stack
from mntapi.types import Capacity, Volume, VolumeState
from mntapi.units import format_size

_HEADER = ("VOLUME", "SIZE", "HOLDS", "MOUNTED AT", "USED", "FREE", "STATE")
_MOUNTED = 3
"""The column that is left out where there is no guest."""
_USED, _FREE = 4, 5
_BAR = 10
"""Characters of a bar."""
_MAX_NAMES = 3


def page(disk_set: DiskSet, *, verbose: bool) -> Iterator[str]:
    """The lines of the page. Names from the guest are escaped."""
    yield from heading(disk_set, verbose=verbose)
    for index, disk in enumerate(disk_set.disks):
        yield f"disk{index}  {disk.format}, {format_size(disk.blocks.size)}  {escape(disk.path)}"
        yield from (f"       {link.format} on {escape(link.file)}" for link in disk.chain[1:])
        if verbose:
            yield from (f"       {escape(name)}: {escape(value)}" for name, value in disk.details.items())
    yield ""
    rows = [_HEADER, *_Rows(disk_set).rows()]
    columns = [place for place in range(len(_HEADER)) if disk_set.guests or place != _MOUNTED]
    yield from _fitting(rows, columns)
    if verbose:
        yield from _details(disk_set)
    yield from troubles(disk_set, verbose=verbose)


def _fitting(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> list[str]:
    """These columns as a table; on a terminal that is too narrow for it without the bars, then without what is free too."""
    lines: list[str] = []
    for left_out in ((), (_USED,), (_USED, _FREE)):
        kept = [place for place in columns if place not in left_out]
        right = [kept.index(place) for place in (1, _FREE) if place in kept]
        lines = table([[row[place] for place in kept] for row in rows], right=right)
        if not sys.stdout.isatty() or max(map(text_width, lines)) <= get_terminal_size().columns:
            break
    return lines


class _Rows:
    """The rows of the tree."""

    def __init__(self, disk_set: DiskSet) -> None:
        self._set = disk_set
        self._stack = Stack(disk_set.volumes, disk_set.containers)
        self._names = {volume.id: volume.name for volume in (*disk_set.containers, *disk_set.volumes)}
        self._mounted = mounted_at(disk_set)

    def rows(self) -> Iterator[Sequence[str]]:
        """All trees, one after the other."""
        for tree in self._stack.trees():
            yield from self._of(tree, "", "")

    def _of(self, branch: Branch, first: str, rest: str) -> Iterator[Sequence[str]]:
        volume = branch.volume
        row = self._leaf(volume) if branch.is_leaf else self._container(volume)
        yield (first + escape(volume.name), format_size(volume.size), *row)
        for place, inner in enumerate(branch.branches):
            is_last = place == len(branch.branches) - 1
            yield from self._of(inner, rest + ("└─ " if is_last else "├─ "), rest + ("   " if is_last else "│  "))

    def _leaf(self, volume: Volume) -> tuple[str, ...]:
        content = self._set.content(volume)
        capacity = self._set.capacity(volume)
        free = "" if capacity is None or capacity.free is None else format_size(capacity.free)
        mounted = short(self._mounted.get(volume.id, ()))
        return self._holds(volume, content), mounted, bar(capacity), free, content.state.value

    def _holds(self, volume: Volume, content: Content) -> str:
        signature = content.signature
        label = signature.label if signature else None
        holds = (signature.kind if signature else "-") + (f' "{escape(label)}"' if label else "")
        return holds + self._lies_on(volume)

    def _lies_on(self, volume: Volume) -> str:
        """Where it is, for what lies on several volumes: the tree cannot show that."""
        return f"  on {self._named(volume.members)}" if len(volume.members) > 1 else ""

    def _container(self, volume: Volume) -> tuple[str, ...]:
        above = self._stack.above(volume)
        kinds = ", ".join(dict.fromkeys(one.kind for one in above if one.kind != "partition")) or "partitions"
        group = escape(volume.details.get("vg", ""))
        shared = [one.id for one in above if len(one.members) > 1]
        holds = kinds + (f" {group}" if group else "") + (f", part of {self._named(shared)}" if shared else "")
        free = volume.details.get("free", "")
        return (
            holds + self._lies_on(volume),
            "",
            "",
            format_size(int(free)) if free.isdecimal() else "",
            volume.state.value if volume.state is not VolumeState.OK else "",
        )

    def _named(self, identifiers: Sequence[str]) -> str:
        if len(identifiers) > _MAX_NAMES:
            return f"{len(identifiers)} volumes"
        return ", ".join(escape(self._names.get(one, one)) for one in identifiers)


def bar(capacity: Capacity | None) -> str:
    """How full a file system is: ``████░░░░░░  42 %``; empty where it does not tell."""
    if capacity is None or capacity.free is None or capacity.total <= 0:
        return ""
    used = 1 - min(1.0, capacity.free / capacity.total)
    full = round(used * _BAR)
    return "█" * full + "░" * (_BAR - full) + f" {used:4.0%}"


def _details(disk_set: DiskSet) -> Iterator[str]:
    """What -v adds: id, start and UUID of each volume, and what its volume manager says."""
    leaves = {volume.id for volume in disk_set.volumes}
    for volume in (*disk_set.containers, *disk_set.volumes):
        yield ""
        yield f"{escape(volume.name)}  {escape(volume.id)}"
        signature = disk_set.content(volume).signature if volume.id in leaves else None
        start = "" if volume.offset is None else f"byte {volume.offset} of disk{volume.disk}"
        said = {"starts at": start, "uuid": (signature.uuid or "") if signature else "", **volume.details}
        yield from (f"       {escape(name)}: {escape(value)}" for name, value in said.items() if value)
