"""The end of the page of ``mntapi info``: what is not as it should be, why, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mntapi.cli.output import escape
from mntapi.session.diskset import DiskSet
from mntapi.types import VolumeState

_MAX_UNKNOWN = 3
"""Volumes of unknown content that are told one by one."""
_MAX_NAMED = 12
"""Volumes named that one cause hurts."""
_LACKING = (VolumeState.INCOMPLETE, VolumeState.DEGRADED)
_ADVICE = {
    VolumeState.ENCRYPTED: "encrypted: --key VOLUME:FILE opens it, FILE holding the key",
    VolumeState.INCOMPLETE: "incomplete: give all disks of the machine, each with -d",
    VolumeState.DEGRADED: "degraded: all of it can be read; a disk that is missing can be given with -d",
    VolumeState.DIRTY: "dirty: the newest changes may be in the journal; mount --via kernel --overlay memory replays it",
}


class _Trouble(NamedTuple):
    name: str
    state: VolumeState
    causes: tuple[str, ...]


def troubles(disk_set: DiskSet, *, verbose: bool) -> Iterator[str]:
    """The lines: first what several volumes lack, once for all of them, then volume by volume, then advice."""
    contents = [(volume, disk_set.content(volume)) for volume in disk_set.volumes]
    unknown = sum(content.state is VolumeState.UNKNOWN for _volume, content in contents)
    found = [_trouble(one.name, one.state, one.reason) for one in disk_set.containers if one.reason]
    found += [
        _trouble(volume.name, content.state, content.reason)
        for volume, content in contents
        if content.reason and (verbose or content.state is not VolumeState.UNKNOWN or unknown <= _MAX_UNKNOWN)
    ]
    if found or unknown > _MAX_UNKNOWN:
        yield ""
    shared = _shared(found)
    for cause, hurt in shared.items():
        yield escape(cause)
        yield from _by_state(hurt, len(hurt) if verbose else _MAX_NAMED)
    for one in found:
        own = [cause for cause in one.causes if one.state not in _LACKING or cause not in shared]
        if own:
            state = "" if one.state is VolumeState.OK else f"{one.state.value}: "
            yield f"{escape(one.name)}  {state}{escape('; '.join(own))}"
    yield from (f"hint: {advice}" for state, advice in _ADVICE.items() if any(one.state is state for one in found))
    if unknown > _MAX_UNKNOWN and not verbose:
        yield f"{unknown} volumes hold nothing that is known; -v shows how they begin"


def _trouble(name: str, state: VolumeState, reason: str | None) -> _Trouble:
    """A reason is causes with ``; `` between them, whoever wrote it."""
    return _Trouble(name, state, tuple(dict.fromkeys((reason or "").split("; "))))


def _shared(found: Sequence[_Trouble]) -> Mapping[str, Sequence[_Trouble]]:
    """Causes for which several volumes lack something, such as one missing disk, with those volumes."""
    hurt: dict[str, list[_Trouble]] = {}
    for one in found:
        for cause in one.causes if one.state in _LACKING else ():
            hurt.setdefault(cause, []).append(one)
    return {cause: those for cause, those in hurt.items() if len(those) > 1}


def _by_state(hurt: Sequence[_Trouble], most: int) -> Iterator[str]:
    """A line for each state, with the names of those that are in it; ``most`` of them."""
    for state in _LACKING:
        names = [escape(one.name) for one in hurt if one.state is state]
        more = f" and {len(names) - most} more" if len(names) > most else ""
        if names:
            yield f"       {state.value}: {', '.join(names[:most])}{more}"
