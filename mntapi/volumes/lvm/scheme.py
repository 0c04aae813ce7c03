"""From the members of the scheme to its volumes; see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mntapi.blocks import Missing
from mntapi.blocks.writable import Unwritable
from mntapi.errors import MntapiError, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.volumes.lvm.group import LogicalVolume, VolumeGroup
from mntapi.volumes.lvm.mapping import Mapped, Mapper
from mntapi.volumes.lvm.members import Assembly, Copies, Member, Reader, assemblies
from mntapi.volumes.lvm.references import Map

_MAX_NAME = 200


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The logical volumes of all groups, and the physical volumes with what is known of them."""
    reader = Reader()
    members = [reader.member(volume) for volume in claimed]
    told: dict[str, Volume] = {member.volume.id: _stranger(member) for member in members}
    for assembly in assemblies(members):
        graph = Map(assembly.group)
        for key, found in assembly.found.items():
            for member in found:
                told[member.volume.id] = _physical(member, assembly, graph, key, copies=len(found))
        yield from _logical(assembly, graph)
    yield from told.values()


def _stranger(member: Member) -> Volume:
    """A physical volume that no group at hand lists."""
    problems = [str(problem) for problem in member.problems]
    state = member.volume.state
    if member.label is None:
        state = VolumeState.DAMAGED
    elif member.group is not None:
        problems.append(f"is no longer a part of volume group {member.group.name}")
    elif member.problems:
        is_unknown = all(isinstance(problem, Unsupported) for problem in member.problems)
        state = VolumeState.UNSUPPORTED if is_unknown else VolumeState.DAMAGED
    elif member.label.is_used:
        state = VolumeState.INCOMPLETE
        problems.append("belongs to a volume group, and nothing here says to which")
    details = {"pv uuid": member.uuid} if member.uuid else {}
    return _noted(member.volume, state, problems, details)


def _physical(member: Member, assembly: Assembly, graph: Map, key: str, *, copies: int) -> Volume:
    group = assembly.group
    physical = group.physical[key]
    problems = [str(problem) for problem in member.problems]
    if physical.is_marked_missing:
        problems.append("the volume group was used without it")
    if copies > 1:
        problems.append(f"{copies} physical volumes have the UUID {physical.uuid}")
    details = {
        "vg": group.name,
        "vg uuid": group.uuid,
        "pv uuid": physical.uuid,
        "size": str(physical.extent_count * group.extent_size),
        "free": str((physical.extent_count - graph.used[key]) * group.extent_size),
    }
    if group.is_exported:
        details["exported"] = "yes"
    return _noted(member.volume, member.volume.state, problems, details)


def _noted(volume: Volume, state: VolumeState, problems: Sequence[str], details: dict[str, str]) -> Volume:
    state = volume.state if volume.state is VolumeState.INCOMPLETE else state
    reason = "; ".join(part for part in (volume.reason, *problems) if part) or None
    return replace(volume, state=state, reason=reason, details={**volume.details, **details})


def _logical(assembly: Assembly, graph: Map) -> Iterator[Volume]:
    """The visible volumes of a group; those whose description makes no sense as DAMAGED."""
    group = assembly.group
    mappers = list(_mappers(assembly, graph))
    copies = Copies(assembly.found)
    for volume in group.logical.values():
        if mappers[0][0].is_shown(volume):
            yield from _versions(assembly, graph, mappers, volume, copies)
    for key, error in group.damaged.items():
        yield Volume(
            id=f"lvm:{group.uuid}/{key}",
            name=_name(group, key),
            kind="lvm",
            blocks=Missing(0, str(error)),
            state=VolumeState.DAMAGED,
            reason=str(error),
            details={"vg": group.name},
        )


_Choice = tuple[Mapper, dict[str, Member]]


def _mappers(assembly: Assembly, graph: Map) -> Iterator[_Choice]:
    """One choice of members for each copy of a physical volume there is, mostly one in all."""
    most = max((len(found) for found in assembly.found.values()), default=1)
    for number in range(max(1, most)):
        chosen = {key: found[min(number, len(found) - 1)] for key, found in assembly.found.items() if found}
        blocks: dict[str, Blocks] = {key: member.volume.blocks for key, member in chosen.items()}
        yield Mapper(assembly.group, blocks, graph), chosen


def _versions(
    assembly: Assembly, graph: Map, mappers: Sequence[_Choice], volume: LogicalVolume, copies: Copies
) -> Iterator[Volume]:
    """The volume, once for each copy of the physical volume it lies on; on several, once, and of copies that are alike."""
    below = sorted(graph.physical(volume.name))
    copied = [key for key in below if len(assembly.found[key]) > 1]
    if not copied:
        yield _volume(assembly, mappers[0], volume, below)
    elif len(below) == 1:
        for choice in mappers[: len(assembly.found[copied[0]])]:
            yield _volume(assembly, choice, volume, below)
    elif (differing := next(((key, why) for key in copied if (why := copies.why_not_alike(key))), None)) is None:
        found = _volume(assembly, mappers[0], volume, below)
        yield replace(found, blocks=Unwritable(found.blocks, "a copy of one of its disks is in the set, and would differ then"))
    else:
        key, why = differing
        names = ", ".join(member.volume.name for member in assembly.found[key])
        reason = f"{names} have the same UUID and {why}, and nothing tells which belongs to the other disks of this volume"
        hint = "open the disks of one machine at a time"
        members = tuple(member.volume.id for key in below for member in assembly.found[key])
        blocks = Missing(mappers[0][0].size(volume), reason, hint=hint)
        yield _described(assembly.group, mappers[0], volume, blocks, VolumeState.UNSUPPORTED, f"{reason}: {hint}", members)


def _volume(assembly: Assembly, choice: _Choice, volume: LogicalVolume, below: Sequence[str]) -> Volume:
    """The volume; its details list the UUIDs of the physical volumes that are not there."""
    missing = [assembly.group.physical[key] for key in below if key not in choice[1]]
    found = _found(assembly, choice, volume, below, [physical.absence for physical in missing])
    uuids = ", ".join(physical.uuid for physical in missing)
    return replace(found, details={**found.details, "missing": uuids}) if missing else found


def _found(assembly: Assembly, choice: _Choice, volume: LogicalVolume, below: Sequence[str], missing: Sequence[str]) -> Volume:
    mapper, chosen = choice
    group = assembly.group
    used = {key: assembly.found[key] if len(below) > 1 else (chosen[key],) for key in below if key in chosen}
    members = tuple(member.volume.id for key in used for member in used[key])
    try:
        if assembly.is_ambiguous:
            raise group.logical[volume.name].section.corrupt("two disks have different metadata of the same generation")
        mapped = mapper.volume(volume.name)
    except MntapiError as error:
        state = VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED
        state = VolumeState.INCOMPLETE if missing else state
        blocks = Missing(mapper.size(volume), str(error), hint=error.hint)
        reasons = [*missing, *([] if any(text in str(error) for text in missing) else [str(error)])]
        return _described(group, choice, volume, blocks, state, "; ".join(reasons), members)
    return _placed(_mapped(assembly, choice, volume, mapped, members, below), choice, volume)


def _mapped(
    assembly: Assembly, choice: _Choice, volume: LogicalVolume, mapped: Mapped, members: tuple[str, ...], below: Sequence[str]
) -> Volume:
    notes = list(mapped.notes)
    copies = [key for key in below if len(assembly.found[key]) > 1]
    told = [f"PV {assembly.group.physical[key].uuid} is there {len(assembly.found[key])} times" for key in copies]
    if len(below) > 1:
        names = [", ".join(member.volume.name for member in assembly.found[key]) for key in copies]
        told = [f"{text}: {named} are alike, and the first is used" for text, named in zip(told, names, strict=True)]
    state = VolumeState.OK
    if notes:
        state = VolumeState.DEGRADED if mapped.is_whole else VolumeState.INCOMPLETE
    return _described(assembly.group, choice, volume, mapped.blocks, state, "; ".join([*notes, *told]) or None, members)


def _described(
    group: VolumeGroup,
    choice: _Choice,
    volume: LogicalVolume,
    blocks: Blocks,
    state: VolumeState,
    reason: str | None,
    members: tuple[str, ...],
) -> Volume:
    details = {"vg": group.name, "segments": ", ".join(choice[0].kinds(volume))}
    if volume.tags:
        details["tags"] = ", ".join(volume.tags)
    details |= _origin(choice[0], volume)
    return Volume(
        id=f"lvm:{volume.uuid}",
        name=_name(group, volume.name),
        kind="lvm",
        blocks=blocks,
        state=state,
        reason=reason,
        members=members,
        details=details,
    )


def _origin(mapper: Mapper, volume: LogicalVolume) -> dict[str, str]:
    """Of a snapshot: whose it is, by id, and since when."""
    origin = mapper.origin(volume)
    if origin is None:
        return {}
    seconds = volume.section.values.get("creation_time")
    try:
        created = datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) else None
    except (ValueError, OverflowError, OSError):
        created = None  # no calendar has it
    return {"base": f"lvm:{origin.uuid}", **({"created": f"{created:%Y-%m-%dT%H:%M:%SZ}"} if created else {})}


def _placed(found: Volume, choice: _Choice, volume: LogicalVolume) -> Volume:
    """The volume with its place on the disk, if it is one range of one."""
    mapper, chosen = choice
    place = mapper.place(volume)
    if place is None or place.name not in chosen:
        return found
    container = chosen[place.name].volume
    if container.disk is None or container.offset is None:
        return found
    return replace(found, disk=container.disk, offset=container.offset + place.start)


def _name(group: VolumeGroup, volume: str) -> str:
    """``vg-lv`` as device-mapper has it: dashes inside the names doubled. ``text`` lets no odd characters pass."""
    return "-".join(part.replace("/", "_").replace("-", "--") for part in (group.name, volume))[:_MAX_NAME]
