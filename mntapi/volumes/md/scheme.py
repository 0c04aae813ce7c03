"""From the members of the scheme to its volumes; see the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from mntapi.blocks import Missing
from mntapi.blocks.writable import Unwritable
from mntapi.errors import MntapiError, Unsupported
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import format_size
from mntapi.volumes.md.array import build, layout_name, redundancy, survives
from mntapi.volumes.md.assembly import Assembly, Member, assemble
from mntapi.volumes.md.data import bad_ranges, member_data, most_at_once
from mntapi.volumes.md.probe import find, foreign
from mntapi.volumes.md.superblock import Superblock
from mntapi.volumes.md.zones import unrecorded
from mntapi.volumes.names import component_name

_MAX_NAMED = 8
"""Missing members that a reason gives the numbers of."""


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The members with what is to be said of each, and the arrays."""
    members = []
    for volume in claimed:
        try:
            superblock = find(volume)
        except MntapiError as error:
            yield replace(volume, state=VolumeState.DAMAGED, reason=str(error))
            continue
        if superblock is None:
            yield _foreign(volume)
        else:
            members.append(Member(volume, superblock))
            yield replace(volume, details={**volume.details, **_member_details(superblock)})
    for assembly in assemble(members):
        yield _array(assembly)


def _foreign(volume: Volume) -> Volume:
    return replace(
        volume, state=VolumeState.UNSUPPORTED, reason=f"belongs to a firmware RAID that is not read: {foreign(volume.blocks)}"
    )


def _array(assembly: Assembly) -> Volume:
    """The array as a volume, whatever can be had of it."""
    problems: list[str] = []
    state = VolumeState.OK
    try:
        blocks, unread = _blocks(assembly)
    except MntapiError as error:
        state = VolumeState.UNSUPPORTED if isinstance(error, Unsupported) else VolumeState.DAMAGED
        problems.append(str(error))
        blocks = Missing(0, str(error))
    else:
        problems = [*_lacks(assembly), *unread]
        if problems or assembly.missing:
            is_whole = _is_whole(assembly) and not unread
            state = VolumeState.DEGRADED if is_whole else VolumeState.INCOMPLETE
            blocks = Unwritable(blocks, ("degraded: " if is_whole else "") + "; ".join([*problems, *assembly.left_out]))
    newest = assembly.newest
    return Volume(
        id=f"md:{newest.uuid}",
        name=_volume_name(newest),
        kind="md",
        blocks=blocks,
        state=state,
        reason="; ".join([*problems, *assembly.left_out]) or None,
        members=tuple(member.volume.id for member in assembly.everyone),
        details=_details(assembly),
    )


def _blocks(assembly: Assembly) -> tuple[Blocks, list[str]]:
    """The array, and why some of it cannot be read although its members are there."""
    if assembly.newest.unsupported:
        raise Unsupported(f"the MD array cannot be read: {assembly.newest.unsupported}", reason="md-unsupported")
    members: dict[int, Blocks] = {}
    for role, member in sorted(assembly.members.items(), key=lambda item: item[1].superblock.recovered is not None):
        try:
            members[role] = member_data(member)
        except MntapiError as error:
            del assembly.members[role]
            assembly.left_out.append(f"{member} cannot be used: {error}")
    blocks = build(assembly.newest.geometry, members)
    why_not_written = _why_not_written(assembly)
    blocks = Unwritable(blocks, why_not_written) if why_not_written else blocks
    unread = (unrecorded(assembly.newest.geometry, members), _lost_to_bad_blocks(assembly))
    return blocks, [reason for reason in unread if reason]


def _why_not_written(assembly: Assembly) -> str | None:
    """Why the array must not be written although all its members are there, or None."""
    if any(member.superblock.is_replacement for member in assembly.everyone):
        return "a member is being replaced, and what replaces it would not be written"
    if assembly.has_twins:
        return "a copy of a member is in the set, and would differ from it then"
    if assembly.newest.has_partial_parity_log and assembly.newest.synced is not None:
        return "it was not shut down cleanly, and its log of partial parity would spoil what is written"
    return None


def _is_whole(assembly: Assembly) -> bool:
    """Whether redundancy gives what the members lack, for sure: not from parity that was not written in full."""
    newest = assembly.newest
    return survives(newest.geometry, _lost(assembly)) and not _is_parity_unsure(newest)


def _lost(assembly: Assembly) -> set[int]:
    """The places of the members that are not there, or not with all of their data."""
    return {*assembly.missing, *(role for role, member in assembly.members.items() if _lacks_some(member))}


def _lacks_some(member: Member) -> bool:
    """Whether a part of it is not rebuilt, or not there."""
    superblock = member.superblock
    is_rebuilding = superblock.recovered is not None and superblock.recovered < superblock.data_size
    return is_rebuilding or superblock.data_offset + superblock.data_size > member.volume.size


def _lost_to_bad_blocks(assembly: Assembly) -> str | None:
    """Why bad blocks cannot all be read from the other members, None if they can. Of RAID 10, whose copies are at different
    places, only if those members as a whole can be done without."""
    geometry, lost = assembly.newest.geometry, _lost(assembly)
    others = [(role, member) for role, member in sorted(assembly.members.items()) if role not in lost]
    ranges = {role: list(bad_ranges(member, member.superblock.data_size)) for role, member in others}
    bad = [role for role, found in ranges.items() if found]
    names = ", ".join(str(assembly.members[role]) for role in bad)
    if bad and _is_parity_unsure(assembly.newest):
        return f"bad blocks of {names} are computed from parity, which may be wrong: it was not shut down cleanly"
    if not bad or survives(geometry, lost.union(bad)):
        return None
    at_once = most_at_once(chain.from_iterable(ranges.values()))
    if geometry.level != 10 and at_once + len(lost) <= redundancy(geometry):
        return None
    return f"bad blocks of {names} may be in no other member"


def _is_parity_unsure(superblock: Superblock) -> bool:
    return superblock.synced is not None and superblock.geometry.level in (4, 5, 6)


def _lacks(assembly: Assembly) -> list[str]:
    """What it lacks, but for the members that were left out: those are told."""
    newest = assembly.newest
    told = {member.superblock.role for member in assembly.everyone}
    gone = [role for role in assembly.missing if role not in told]
    problems = [_missing(assembly, gone)] if gone else []
    if assembly.missing and newest.geometry.level == 0:
        problems.append("its size is recorded nowhere, and so not known where anything lies on the others")
    for _, member in sorted(assembly.members.items()):
        superblock = member.superblock
        if superblock.recovered is not None and superblock.recovered < superblock.data_size:
            problems.append(f"{member} is being rebuilt, {format_size(superblock.recovered)} of it are")
        if superblock.data_offset + superblock.data_size > member.volume.size:
            problems.append(f"{member} goes past the end of its disk")
    if (problems or assembly.missing) and _is_parity_unsure(newest):
        problems.append("it was not shut down cleanly, so what is computed from its parity may be wrong")
    return problems


def _missing(assembly: Assembly, roles: Sequence[int]) -> str:
    """Which members are missing, the first few with what is known of them. A superblock tells no UUID but its own."""
    newest = assembly.newest
    named = [_named(assembly, role) for role in roles[:_MAX_NAMED]]
    more = f" and {len(roles) - _MAX_NAMED} more" if len(roles) > _MAX_NAMED else ""
    words = ("members", "are") if len(roles) > 1 else ("member", "is")
    return f"{words[0]} {', '.join(named)}{more} of {newest.geometry.raid_disks} {words[1]} missing from array {newest.uuid}"


def _named(assembly: Assembly, role: int) -> str:
    """A missing member by its place, with what tells its disk from others: ``1 (device number 4, was device 8:17)``."""
    newest = assembly.newest
    told = [f"device number {number}" for number, its_role in newest.roles.items() if its_role == role]
    uuids = [member.superblock.device_uuid for member in assembly.left_out_of(role)]
    told += [f"UUID {uuid}" for uuid in uuids if uuid is not None]
    told += [f"was device {newest.last_seen[role]}"] if role in newest.last_seen else []
    return f"{role} ({', '.join(told)})" if told else str(role)


def _details(assembly: Assembly) -> dict[str, str]:
    newest = assembly.newest
    geometry = newest.geometry
    details = {
        "level": geometry.level_name,
        "layout": layout_name(geometry),
        "chunk": format_size(geometry.chunk) if geometry.chunk and geometry.level != 1 else None,
        "metadata": newest.version,
        "members": f"{len(assembly.members)} of {geometry.raid_disks}",
        "missing": ", ".join(_named(assembly, role) for role in assembly.missing[:_MAX_NAMED]),
        "spares": str(assembly.spares) if assembly.spares else None,
        "name": newest.name,
        "events": str(newest.events),
        "sync": None if newest.synced is None else "not shut down cleanly: parity or copies may differ",
    }
    return {key: value for key, value in details.items() if value}


def _member_details(superblock: Superblock) -> dict[str, str]:
    other = "journal" if superblock.is_journal else "spare"
    role = other if superblock.role is None else str(superblock.role)
    details = {"array": superblock.uuid, "role": role, "events": str(superblock.events), "device": superblock.device_uuid}
    return {key: value for key, value in details.items() if value}


def _volume_name(superblock: Superblock) -> str:
    """``md-`` and its name without the host's, fit for a folder; the beginning of its UUID if it has none."""
    own = (superblock.name or "").rpartition(":")[2]
    return component_name("md-" + (own or superblock.uuid[:8]))
