"""The table of schemes, and the loop that asks them: disks in, volumes out.

A volume is offered to the schemes in the order of the table, and the first that claims it gets it. When all have been offered,
each scheme that got something is asked for its volumes, and those are offered in turn. Members of one volume may be found at
different depths (a volume group on a whole disk and on a partition of another), so a scheme is asked again with all it has
claimed, and a volume that lacks something is looked into only when no complete one is left that could bring the missing member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import NamedTuple, cast

from mntapi.errors import MntapiError, ReadFailed, Unsupported
from mntapi.keys import Keys
from mntapi.types import Blocks, Image, KeyedScheme, Scheme, Volume, VolumeState
from mntapi.volumes.disks import path_of, whole_disks

SCHEMES = (
    "mntapi.volumes.md",
    "mntapi.volumes.ldm",
    "mntapi.volumes.spaces",
    "mntapi.volumes.named.at_end",
    "mntapi.volumes.luks",
    "mntapi.volumes.bitlocker",
    "mntapi.volumes.lvm",
    "mntapi.volumes.named",
    "mntapi.volumes.gpt",
    "mntapi.volumes.mbr",
    "mntapi.volumes.vss",
)
"""Modules, each a ``Scheme``, imported by the first scan. What has a superblock of its own goes before partition tables: a
mirror with its superblock at the end shows its array's table at the start of each member. MD goes before DRBD, which is made on
arrays, and at the end of their members too, where those have their superblock at the start."""

MAX_ROUNDS = 32
"""Times the loop goes round, and so the depth of nesting. LVM in LUKS in LVM on MD on a partition takes 6."""

MAX_VOLUMES = 8192
"""Volumes in a scan, containers and disks included."""

_LACKING = frozenset({VolumeState.DEGRADED, VolumeState.INCOMPLETE})
"""What another member may still make whole."""
_READABLE = frozenset({VolumeState.OK, VolumeState.DIRTY, VolumeState.DEGRADED})
_LOOK_INSIDE = _LACKING | _READABLE
_ENDS_EARLY = frozenset({"disk", "partition"})
"""Kinds that are incomplete only by being too short."""
_FLAT = frozenset({"vss"})
"""Kinds that nothing nests in: copies of a file system, hundreds of them on a volume."""


class Found(NamedTuple):
    """What a scan found. ``volumes``: those that are not a part of another, disk by disk, at last those that lie on several.
    ``containers``: the others, disks included, in the order of discovery: a member comes before what it is a member of."""

    volumes: list[Volume]
    containers: list[Volume]


def scan(disks: Sequence[Image | Blocks], schemes: Sequence[Scheme] | None = None, *, keys: Keys | None = None) -> list[Volume]:
    """The volumes on a set of disks: ``find_volumes`` without the containers."""
    return find_volumes(disks, schemes, keys=keys).volumes


def find_volumes(
    disks: Sequence[Image | Blocks], schemes: Sequence[Scheme] | None = None, *, keys: Keys | None = None
) -> Found:
    """The volumes on a set of disks, and what they lie on. A disk without any is a volume itself.

    Args:
        disks: the disks of one machine, in any order; ``Volume.disk`` is an index into it. They stay the caller's, and the
            volumes are readable while they are open.
        schemes: what to look for; ``SCHEMES`` if None.
        keys: to encrypted volumes, for the schemes of ``SCHEMES``.

    Returns:
        What was found. Damage is a state with a reason; no bytes on disk raise.
    """
    loop = _Scan(disks, load(SCHEMES, keys or Keys()) if schemes is None else schemes)
    loop.run()
    return loop.found()


def load(modules: Sequence[str], keys: Keys) -> list[Scheme]:
    """The schemes of these modules, imported on first use."""
    return [_scheme(import_module(module), keys) for module in modules]


def _scheme(module: ModuleType, keys: Keys) -> Scheme:
    return cast(KeyedScheme, module).with_keys(keys) if hasattr(module, "with_keys") else cast(Scheme, module)


class _Scan:
    """The state of one scan: every volume by its id, in the order of discovery, and who claimed which."""

    def __init__(self, disks: Sequence[Image | Blocks], schemes: Sequence[Scheme]) -> None:
        self._schemes = schemes
        self._paths = [path_of(disk) for disk in disks]
        self._found = {volume.id: volume for volume in whole_disks(disks)}
        self._examined: set[str] = set()
        self._claimed: dict[str, list[Volume]] = {scheme.name: [] for scheme in schemes}
        self._cut_short: set[str] = set()

    def run(self) -> None:
        """Go round until nothing is left to look into."""
        for _ in range(MAX_ROUNDS):
            ready = self._ready()
            if not ready:
                return
            self._round(ready)
        for volume in self._ready():
            self._note(volume, Unsupported(f"is nested too deep to be looked into (at most {MAX_ROUNDS} levels)"))

    def found(self) -> Found:
        """What was found: what is not a member of another, each with a name of its own, and what is."""
        for volume in self._found.values():
            self._found[volume.id] = self._with_trouble_below(self._with_its_own_base(volume))
        members = {member for volume in self._found.values() for member in volume.members} - self._cut_short
        leaves = sorted((volume for volume in self._found.values() if volume.id not in members), key=_by_disk)
        return Found(_distinctly_named(leaves), [volume for volume in self._found.values() if volume.id in members])

    def _with_its_own_base(self, volume: Volume) -> Volume:
        """A snapshot, of a volume that is there twice: of the copy that lies on what it lies on, by the id that copy got."""
        base = volume.details.get("base")
        ids = (_qualified_id(base, member) for member in volume.members) if base is not None else ()
        own = next((one for one in ids if one in self._found), None)
        return volume if own is None else replace(volume, details={**volume.details, "base": own})

    def _with_trouble_below(self, volume: Volume) -> Volume:
        """The volume, INCOMPLETE if what it lies on is: its scheme took those bytes as they come. Of a partition or disk that
        is cut off schemes see the end, and say themselves which of their volumes that concerns."""
        below = [self._found[member] for member in volume.members if member in self._found]
        lacking = [one.name for one in below if one.state is VolumeState.INCOMPLETE and one.kind not in _ENDS_EARLY]
        if not lacking or volume.state not in _READABLE:
            return volume
        reason = f"lies on {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} incomplete"
        return replace(volume, state=VolumeState.INCOMPLETE, reason=_joined(volume.reason, reason))

    def _ready(self) -> list[Volume]:
        waiting = [
            volume
            for volume in self._found.values()
            if volume.id not in self._examined and volume.state in _LOOK_INSIDE and volume.kind not in _FLAT
        ]
        return [volume for volume in waiting if volume.state not in _LACKING] or waiting

    def _round(self, ready: Sequence[Volume]) -> None:
        claimed = set()
        for volume in ready:
            self._examined.add(volume.id)
            scheme = self._claimant(volume)
            if scheme is not None:
                self._claimed[scheme.name].append(volume)
                claimed.add(scheme.name)
        for scheme in self._schemes:
            if scheme.name in claimed:
                self._expand(scheme)

    def _claimant(self, volume: Volume) -> Scheme | None:
        """The first scheme that claims the volume. If none does and some could not tell, the volume says why."""
        troubles: dict[str, MntapiError] = {}
        for scheme in self._schemes:
            try:
                if scheme.claims(volume):
                    return scheme
            except MntapiError as error:
                troubles.setdefault(str(error), error)
        for trouble in troubles.values():
            self._note(volume, trouble)
        return None

    def _expand(self, scheme: Scheme) -> None:
        """Take what a scheme says about all it claimed. If it fails, what it has not got to stays listed, and says why."""
        claimed = tuple(self._claimed[scheme.name])
        batch: list[Volume] = []
        try:
            for volume in scheme.volumes(claimed):
                if len(batch) == MAX_VOLUMES:
                    raise _too_many()
                batch.append(volume)
        except MntapiError as error:
            reached = {member for volume in batch for member in (volume.id, *volume.members)}
            for volume in claimed:
                if volume.id not in reached:
                    self._note(volume, error)
        self._accept(batch, {volume.id for volume in claimed})

    def _accept(self, batch: Sequence[Volume], claimed: set[str]) -> None:
        """Add what is new. A volume seen before is brought up to date; a scheme may also say something of its own container."""
        new = []
        for volume in batch:
            if not self._is_known(volume):
                new.append(volume)
            elif volume.id in claimed or volume.id not in self._examined:
                self._found[volume.id] = volume
        times = Counter(volume.id for volume in new)
        for volume in new:
            self._add(volume if times[volume.id] == 1 and volume.id not in self._found else _qualified(volume))

    def _is_known(self, volume: Volume) -> bool:
        """Whether it is that volume, perhaps with more members by now, and not a clone with the same UUID."""
        known = self._found.get(volume.id)
        return known is not None and set(known.members) <= set(volume.members)

    def _add(self, volume: Volume) -> None:
        if len(self._found) < MAX_VOLUMES or volume.id in self._found:
            self._found.setdefault(volume.id, volume)
            return
        for container in [self._found[member] for member in volume.members if member in self._found]:
            if container.id not in self._cut_short:
                self._cut_short.add(container.id)
                self._note(container, _too_many())

    def _note(self, volume: Volume, error: MntapiError) -> None:
        """Keep the error with the volume: its state and reason. That what it lacks cannot be read, is no news."""
        path = None if volume.disk is None else self._paths[volume.disk]
        text = str(error) if error.path or not path else f"{path}: {error}"
        volume = self._found[volume.id]
        if volume.state is VolumeState.INCOMPLETE and isinstance(error, ReadFailed) and not error.path:
            return
        state = VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED
        self._found[volume.id] = replace(
            volume,
            state=volume.state if volume.state is VolumeState.INCOMPLETE else state,
            reason=volume.reason if _is_said(error, volume.reason) else _joined(volume.reason, text),
        )


def _is_said(error: MntapiError, reason: str | None) -> bool:
    return reason is not None and error.what.removeprefix("cannot be read: ") in reason


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _too_many() -> Unsupported:
    return Unsupported(f"not all volumes in it are listed: at most {MAX_VOLUMES} are", reason="too-many-volumes")


def _by_disk(volume: Volume) -> tuple[bool, int]:
    return (volume.disk is None, volume.disk or 0)


def _qualified(volume: Volume) -> Volume:
    """The volume with an id that says what it lies on: UUIDs are not unique once somebody has copied a disk."""
    return replace(volume, id=_qualified_id(volume.id, *volume.members[:1]))


def _qualified_id(identifier: str, *member: str) -> str:
    return "@".join((identifier, *member))


def _distinctly_named(volumes: Iterable[Volume]) -> list[Volume]:
    """The volumes, a name that is taken followed by ``~2``, ``~3`` ...: names of logical volumes come from the disk."""
    taken: set[str] = set()
    named = []
    for volume in volumes:
        name, count = volume.name, 1
        while name in taken:
            count += 1
            name = f"{volume.name}~{count}"
        taken.add(name)
        named.append(volume if name == volume.name else replace(volume, name=name))
    return named
