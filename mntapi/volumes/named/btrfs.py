"""btrfs over several devices. Each has a superblock of its own with the same file system UUID; no one lists all of the others.

The superblock counts the devices, and has the part of the chunk tree that leads to the rest: the devices in that are known by
number and UUID.

Source: btrfs documentation, "On-disk Format", sections "Superblock" and "Chunk item".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from mntapi.blocks import read_clipped
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB
from mntapi.volumes.named.kinds import UNREAD, Device, Superblocks, text_of, told

MAX_DEVICES = 1 << 16
"""Devices of a file system that are believed."""

_OFFSET = 64 * KIB
_SIZE = 4 * KIB
_MAGIC = b"_BHRfS_M"
_SUPERBLOCK = struct.Struct("<32x16sQ8x8sQ56xQ16xI37xQ58x16s16x256s")
_CHUNKS = 811
_MAX_CHUNKS = 2048
_CHUNK_KEY = 17
_CHUNK = struct.Struct("<44xH2x")
_STRIPE = struct.Struct("<Q8x16s")


@dataclass(frozen=True, slots=True)
class Superblock:
    """What one device says. ``known``: UUIDs of devices by their number, this one's among them; not all there are."""

    uuid: str
    generation: int
    device_count: int
    device: int
    device_uuid: str
    label: str
    known: Mapping[int, str]


def parse(raw: bytes) -> Superblock | None:
    """The superblock in 4 KiB read from its place; None if there is none, or its file system has only one device."""
    if len(raw) < _SIZE:
        return None
    uuid, offset, magic, generation, count, chunks, device, device_uuid, label = _SUPERBLOCK.unpack_from(raw)
    if magic != _MAGIC or offset != _OFFSET or not 1 < count <= MAX_DEVICES:
        return None
    known = dict(_known(raw[_CHUNKS : _CHUNKS + min(chunks, _MAX_CHUNKS)])) | {device: str(UUID(bytes=device_uuid))}
    return Superblock(str(UUID(bytes=uuid)), generation, count, device, known[device], text_of(label), known)


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


def _find(blocks: Blocks) -> Superblock | None:
    return parse(read_clipped(blocks, _OFFSET, _SIZE))


def _describe(devices: Sequence[Device[Superblock]]) -> Iterator[Volume]:
    filesystems: dict[str, list[Device[Superblock]]] = {}
    for device in devices:
        filesystems.setdefault(device.superblock.uuid, []).append(device)
    for members in filesystems.values():
        newest = max((member.superblock for member in members), key=lambda one: (one.generation, one.device_uuid))
        here = {member.superblock.device for member in members}
        text = _summary(newest, here)
        state = VolumeState.INCOMPLETE if len(here) < newest.device_count else VolumeState.UNSUPPORTED
        for volume, superblock in members:
            reason = text
            if superblock.generation < newest.generation:
                reason += f"; this device is old: generation {superblock.generation}, the newest is {newest.generation}"
            yield told(volume, state, reason, _details(superblock))


def _summary(newest: Superblock, here: set[int]) -> str:
    count = newest.device_count
    text = f"btrfs over {count} devices"
    absent = count - len(here)
    if absent <= 0:
        return f"{text}, all of them here: {UNREAD}"
    named = [f"device {number} (uuid {uuid})" for number, uuid in sorted(newest.known.items()) if number not in here][:absent]
    if absent > len(named):
        named.append(f"{absent - len(named)} that it does not name")
    return f"{text}, {len(here)} of them here: {', '.join(named)} {'is' if absent == 1 else 'are'} missing; {UNREAD}"


def _details(superblock: Superblock) -> dict[str, str]:
    return {
        "manager": "btrfs",
        "filesystem": superblock.uuid,
        "label": superblock.label,
        "device": str(superblock.device),
        "device-uuid": superblock.device_uuid,
        "devices": str(superblock.device_count),
    }


KIND = Superblocks(_find, _describe, is_behind=True)
