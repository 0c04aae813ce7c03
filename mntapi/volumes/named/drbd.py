"""DRBD with internal metadata: a block in the last 4 KiB of the device, an activity log and a bitmap before it, and in front of
those the content, from the first byte on.

Metadata on another device is not looked for: then the content is the whole device, and nothing on it says DRBD. The end of a
device may also be that of a partition or logical volume with DRBD inside: the bitmap must have a bit for every block in front
of it, and neither a partition nor LVM's physical volume may reach so far.

Source: DRBD User's Guide, "Internal meta data"; Linux drivers/block/drbd/drbd_main.c (``struct meta_data_on_disk``), and
drbd-headers for version 9; places, flags and bitmaps were checked against ``drbdmeta dump-md`` and ``show-gi``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mntapi.blocks import Slice, read_clipped
from mntapi.blocks.writable import Unwritable
from mntapi.errors import Corrupt
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB, SECTOR, align_down
from mntapi.volumes.bootrecord import has_partition_at
from mntapi.volumes.lvm.label import find_label
from mntapi.volumes.named.kinds import Device, Superblocks, told
from mntapi.volumes.names import component_name

_SIZE = 4 * KIB
_METADATA = struct.Struct(">Q32xQQIIIiIiI4xI")
_VERSIONS = {0x8374026B: 8, 0x8374026C: 8, 0x8374026D: 9}
"""By magic; the second one of version 8 is a device whose activity log may have to be applied."""
_CONSISTENT, _UP_TO_DATE = 1 << 0, 1 << 4
_MIN_BLOCK, _MAX_BLOCK = 4 * KIB, 1 << 30
"""Bytes that a bit of the bitmap stands for."""
_MAX_PEERS = 31
_NOT_WRITTEN = "its peer is elsewhere, and would not know of the change"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What one node says of its device. ``content_size`` is bytes."""

    version: int
    device_uuid: int
    content_size: int
    flags: int


def parse(raw: bytes, place: int) -> Metadata | None:
    """The metadata in a block read from ``place``, in bytes from the start of the device; None if there is none."""
    if len(raw) < _METADATA.size:
        return None
    agreed, old_uuid, new_uuid, flags, magic, _, log, _, bitmap, block, peers = _METADATA.unpack_from(raw)
    version = _VERSIONS.get(magic)
    start = place + min(log, bitmap) * SECTOR
    if version is None or log >= 0 or bitmap >= 0 or start < 0 or agreed * SECTOR > start:
        return None
    if not _covers((log - bitmap if bitmap < log else -bitmap) * SECTOR, block, peers if version == 9 else 1, start):
        return None
    return Metadata(version, old_uuid if version == 8 else new_uuid, agreed * SECTOR or start, flags)


def _covers(bitmap: int, block: int, peers: int, size: int) -> bool:
    """Whether so many bytes of bitmap have a bit for each block of ``size`` bytes, for each peer."""
    if not _MIN_BLOCK <= block <= _MAX_BLOCK or not 1 <= peers <= _MAX_PEERS:
        return False
    return bitmap // peers * 8 * block >= size


def _find(blocks: Blocks) -> Metadata | None:
    place = align_down(blocks.size, _SIZE) - _SIZE
    metadata = parse(read_clipped(blocks, place, _SIZE), place) if place >= 0 else None
    return None if metadata is None or _is_used_up_to(blocks, place) else metadata


def _is_used_up_to(blocks: Blocks, place: int) -> bool:
    """Whether what begins the device has byte ``place`` too, so that it belongs to something inside."""
    if has_partition_at(read_clipped(blocks, 0, SECTOR), blocks.sector_size, place):
        return True
    try:
        label = find_label(blocks)
    except Corrupt:
        return False  # LVM says so of the content
    return label is not None and label.device_size > place


def _describe(devices: Sequence[Device[Metadata]]) -> Iterator[Volume]:
    for volume, metadata in devices:
        details = {"manager": "drbd", "version": str(metadata.version), "device-uuid": f"{metadata.device_uuid:016x}"}
        yield told(volume, VolumeState.OK, "", details)
        yield _content(volume, metadata, details)


def _content(volume: Volume, metadata: Metadata, details: dict[str, str]) -> Volume:
    """What this node has. Where it is behind the other, the bytes are old; half synchronised, they are of different times."""
    reason = None
    if not metadata.flags & _CONSISTENT:
        reason = "this node's copy is inconsistent: it was being synchronised from another node"
    elif not metadata.flags & _UP_TO_DATE:
        reason = "this node's copy is not up to date: another node has newer content"
    key = f"{metadata.device_uuid:016x}" if metadata.device_uuid else volume.id
    return Volume(
        id=f"drbd:{key}",
        name=component_name(f"drbd-{volume.name}"),
        kind="drbd",
        blocks=Unwritable(Slice(volume.blocks, 0, metadata.content_size), _NOT_WRITTEN),
        disk=volume.disk,
        offset=volume.offset,
        state=VolumeState.INCOMPLETE if reason else volume.state,
        reason="; ".join(text for text in (volume.reason, reason) if text) or None,
        members=(volume.id,),
        details=details,
    )


KIND = Superblocks(_find, _describe)
