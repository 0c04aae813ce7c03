"""btrfs over several devices. Each has a superblock of its own with the same file system UUID; no one lists all of the others.

The devices are put end to end, each as long as its superblock says, and that is the volume: where on them the file system's
chunks lie is in its own trees, which its reader knows, as it finds the devices by their superblocks. The superblock counts the
devices, and has the part of the chunk tree that leads to the rest: the devices in that are known by number and UUID.

Always true: a device behind the newest generation comes last, and is told; of copies of a device one is used, and only if it
is newer than the others or known to be the same; devices that were changed apart from each other are not put together.

Source: btrfs documentation, "On-disk Format", sections "Superblock" and "Chunk item".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mntapi.blocks import Concat, Missing, Slice, read_clipped
from mntapi.blocks.writable import Unwritable
from mntapi.crc32c import crc32c
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB
from mntapi.volumes.copies import why_not_alike
from mntapi.volumes.named.kinds import Device, Superblocks, text_of, told
from mntapi.volumes.names import component_name

MAX_DEVICES = 1 << 12
"""Devices of a file system that are believed; its reader looks for no more."""
KIND_NAME = "btrfs"

_OFFSET = 64 * KIB
_SIZE = 4 * KIB
_MAGIC = b"_BHRfS_M"
_SUPERBLOCK = struct.Struct("<32x16sQ8x8s24s40xQ16xI32xH3x2Q50x16s16x256s")
_CHUNKS = 811
_MAX_CHUNKS = 2048
_CHUNK_KEY = 17
_CHUNK = struct.Struct("<44xH2x")
_STRIPE = struct.Struct("<Q8x16s")
_CHECKED = 32
_CHECKSUMS: dict[int, Callable[[bytes], bytes]] = {
    0: lambda data: crc32c(data).to_bytes(4, "little"),
    2: lambda data: hashlib.sha256(data).digest(),
    3: lambda data: hashlib.blake2b(data, digest_size=32).digest(),
}
"""By the superblock's number; what is of another kind (XXH64) is for the reader to verify."""
_NOT_WRITTEN = "btrfs over several devices is not written"


@dataclass(frozen=True, slots=True)
class Superblock:
    """What one device says. ``known``: UUIDs of devices by their number, this one's among them; not all there are.

    ``history`` begins with the generation, and is the same on devices that have seen the same commits. ``size``: bytes.
    """

    uuid: str
    generation: int
    history: bytes
    device_count: int
    device: int
    device_uuid: str
    size: int
    label: str
    known: Mapping[int, str]
    is_sound: bool


def parse(raw: bytes) -> Superblock | None:
    """The superblock in 4 KiB read from its place; None if there is none, or its file system has only one device."""
    if len(raw) < _SIZE:
        return None
    uuid, offset, magic, history, count, chunks, checksum, device, size, device_uuid, label = _SUPERBLOCK.unpack_from(raw)
    if magic != _MAGIC or offset != _OFFSET or not 1 < count <= MAX_DEVICES:
        return None
    known = dict(_known(raw[_CHUNKS : _CHUNKS + min(chunks, _MAX_CHUNKS)])) | {device: str(UUID(bytes=device_uuid))}
    return Superblock(
        uuid=str(UUID(bytes=uuid)),
        generation=int.from_bytes(history[:8], "little"),
        history=history,
        device_count=count,
        device=device,
        device_uuid=known[device],
        size=size,
        label=text_of(label),
        known=known,
        is_sound=checksum not in _CHECKSUMS or raw.startswith(_CHECKSUMS[checksum](raw[_CHECKED:_SIZE])),
    )


def _known(chunks: bytes) -> Iterator[tuple[int, str]]:
    """The devices that the chunks in a superblock lie on."""
    at = _CHUNK_KEY
    while at + _CHUNK.size <= len(chunks):
        (stripes,) = _CHUNK.unpack_from(chunks, at)
        at += _CHUNK.size
        for place in range(at, min(at + stripes * _STRIPE.size, len(chunks) - _STRIPE.size + 1), _STRIPE.size):
            device, uuid = _STRIPE.unpack_from(chunks, place)
            yield device, str(UUID(bytes=uuid))
        at += stripes * _STRIPE.size + _CHUNK_KEY


Member = Device[Superblock]


@dataclass
class _Assembly:
    """One file system: the devices that are used, in order, and what is to be said."""

    everyone: list[Member]
    used: list[Member] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    """Why not all of it may be readable."""
    notes: list[str] = field(default_factory=list)

    @property
    def newest(self) -> Superblock:
        return self.used[0].superblock


def _find(blocks: Blocks) -> Superblock | None:
    return parse(read_clipped(blocks, _OFFSET, _SIZE))


def _describe(devices: Sequence[Member]) -> Iterator[Volume]:
    filesystems: dict[str, list[Member]] = {}
    for member in devices:
        filesystems.setdefault(member.superblock.uuid, []).append(member)
        yield told(member.volume, VolumeState.OK, "", _details_of_device(member.superblock))
    for members in filesystems.values():
        yield _volume(_assemble(members))


def _assemble(everyone: list[Member]) -> _Assembly:
    assembly = _Assembly(everyone)
    places: dict[tuple[int, str], list[Member]] = {}
    for member in everyone:
        if member.superblock.is_sound:
            places.setdefault((member.superblock.device, member.superblock.device_uuid), []).append(member)
        else:
            assembly.lacks.append(f"{member.volume.name} is not used, as the checksum of its superblock is wrong")
    for candidates in places.values():
        _take(assembly, candidates)
    assembly.used.sort(key=lambda member: (-member.superblock.generation, member.superblock.device))
    if assembly.used:
        _say_what_is_old_or_missing(assembly)
    return assembly


def _take(assembly: _Assembly, candidates: list[Member]) -> None:
    """Of copies of a device the newest is used; among those as new any, provided that they are the same."""
    first, *others = sorted(candidates, key=lambda member: -member.superblock.generation)
    if not others:
        assembly.used.append(first)
        return
    rivals = [member for member in others if member.superblock.generation == first.superblock.generation]
    why = next(filter(None, (why_not_alike(first.volume.blocks, rival.volume.blocks) for rival in rivals)), None)
    device, names = _name_of(first.superblock), ", ".join(sorted(member.volume.name for member in candidates))
    if why:
        assembly.lacks.append(f"{names} are copies of {device} and {why}: which is right cannot be told")
    else:
        assembly.notes.append(f"{names} are copies of {device}: {first.volume.name} is used")
        assembly.used.append(first)


def _say_what_is_old_or_missing(assembly: _Assembly) -> None:
    newest, lacks = assembly.newest, assembly.lacks
    for volume, superblock in assembly.used:
        if superblock.generation < newest.generation:
            lacks.append(
                f"{_name_of(superblock)} on {volume.name} is old: generation {superblock.generation}, the newest is "
                f"{newest.generation}, so only what a checksum proves right is taken from it"
            )
        if superblock.size > volume.size:
            lacks.append(f"{_name_of(superblock)} goes past the end of {volume.name}")
    here = {(superblock.device, superblock.device_uuid) for _, superblock in assembly.used}
    named = [f"device {number} (uuid {uuid})" for number, uuid in sorted(newest.known.items()) if (number, uuid) not in here]
    absent = max(newest.device_count - len(here), len(named))
    if absent > len(named):
        named.append(f"{absent - len(named)} that it does not name")
    if named:
        lacks.insert(0, f"{', '.join(named)} {'is' if absent == 1 else 'are'} missing")


def _volume(assembly: _Assembly) -> Volume:
    """The file system as a volume, whatever of it is here."""
    some = assembly.newest if assembly.used else assembly.everyone[0].superblock
    blocks, places = _end_to_end(assembly.used)
    details = {**_details(some), "devices": str(some.device_count), **places}
    state = VolumeState.INCOMPLETE if assembly.lacks else VolumeState.OK
    if not assembly.used or _are_apart(assembly.used):
        state, blocks = VolumeState.DAMAGED, Missing(0, "which of its devices are right cannot be told")
    reasons = [*assembly.lacks, *assembly.notes]
    if state is VolumeState.DAMAGED and assembly.used:
        reasons.append("its devices were changed apart from each other: give only those that were changed together")
    return Volume(
        id=f"btrfs:{some.uuid}",
        name=component_name(f"btrfs-{some.label or some.uuid[:8]}"),
        kind=KIND_NAME,
        blocks=Unwritable(blocks, _NOT_WRITTEN),
        state=state,
        reason=f"btrfs over {some.device_count} devices: {'; '.join(reasons)}" if reasons else None,
        members=tuple(member.volume.id for member in assembly.everyone),
        details={key: text for key, text in details.items() if text},
    )


def _are_apart(used: Sequence[Member]) -> bool:
    """Whether devices of the newest generation do not agree where the trees are."""
    newest = used[0].superblock
    return any(superblock.generation == newest.generation and superblock.history != newest.history for _, superblock in used)


def _end_to_end(used: Sequence[Member]) -> tuple[Blocks, dict[str, str]]:
    """The devices one after the other, each as long as it says, and where each is."""
    parts: list[Blocks] = []
    details: dict[str, str] = {}
    start = 0
    for volume, superblock in used:
        here = min(superblock.size, volume.size)
        parts.append(Slice(volume.blocks, 0, here))
        if superblock.size > here:
            parts.append(Missing(superblock.size - here, f"{_name_of(superblock)} goes past the end of {volume.name}"))
        details[f"device-{superblock.device}"] = f"{superblock.device_uuid} on {volume.name}, from byte {start} on"
        start += superblock.size
    return Concat(parts) if parts else Missing(0, "there are none"), details


def _name_of(superblock: Superblock) -> str:
    return f"device {superblock.device} (uuid {superblock.device_uuid})"


def _details(superblock: Superblock) -> dict[str, str]:
    return {"manager": "btrfs", "filesystem": superblock.uuid, "label": superblock.label}


def _details_of_device(superblock: Superblock) -> dict[str, str]:
    return {
        **_details(superblock),
        "device": str(superblock.device),
        "device-uuid": superblock.device_uuid,
        "devices": str(superblock.device_count),
        "generation": str(superblock.generation),
    }


class _Btrfs(Superblocks[Superblock]):
    """A file system that was put together begins with a superblock of a device, and is none."""

    def finds(self, volume: Volume) -> bool:
        return volume.kind != KIND_NAME and super().finds(volume)


KIND = _Btrfs(_find, _describe, is_behind=True)
