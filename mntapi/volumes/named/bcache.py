"""bcache: a backing device and a set of caches in front of it.

The backing device says whether the cache holds data that it lacks. If not, its content lies behind its superblock and is a
volume; if so, that content is old, and no volume. The data in the cache is not merged by this version.

Source: Linux drivers/md/bcache/bcache_ondisk.h (``struct cache_sb_disk``, versions, ``BDEV_STATE``); that the state becomes
dirty before a first write stays in the cache: ``bch_writeback_add`` in writeback.h; Documentation/admin-guide/bcache.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from mntapi.blocks import Slice, read_clipped
from mntapi.blocks.writable import Unwritable
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import KIB, SECTOR
from mntapi.volumes.named.kinds import UNREAD, Device, Superblocks, text_of, told
from mntapi.volumes.names import component_name

_OFFSET = 4 * KIB
_SIZE = 4 * KIB
_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_SUPERBLOCK = struct.Struct("<QQQ16s16s16s32sQ72xQ14xH")
_MAX_KEYS = 256
_MAX_VERSION = 6
_BACKING = frozenset({1, 4, 6})
_WITH_OFFSET = frozenset({4, 6})
_DATA_SECTOR = 16
_STATES = ("detached", "clean", "dirty", "stale")
_MODES = ("writethrough", "writeback", "writearound", "none")
_POLYNOMIAL = 0x42F0E1EBA9EA3693
_ONES = (1 << 64) - 1
_NOT_WRITTEN = "its cache may be elsewhere, and would not know of the change"


@dataclass(frozen=True, slots=True)
class Superblock:
    """A superblock whose checksum is right. ``data_start`` (bytes), ``state`` and ``mode`` are those of a backing device; the
    state of a cache is None."""

    uuid: str
    set_uuid: str
    label: str
    data_start: int
    state: str | None
    mode: str


def parse(raw: bytes) -> Superblock | None:
    """The superblock in 4 KiB read from its place; None if there is none, or it is damaged."""
    if len(raw) < _SIZE:
        return None
    checksum, sector, version, magic, uuid, set_uuid, label, flags, data, keys = _SUPERBLOCK.unpack_from(raw)
    if magic != _MAGIC or sector * SECTOR != _OFFSET or version > _MAX_VERSION or keys > _MAX_KEYS:
        return None
    if _crc64(raw[8 : _SUPERBLOCK.size + 8 * keys]) != checksum:
        return None
    is_backing = version in _BACKING
    return Superblock(
        str(UUID(bytes=uuid)),
        str(UUID(bytes=set_uuid)),
        text_of(label),
        (data if version in _WITH_OFFSET else _DATA_SECTOR) * SECTOR,
        _STATES[flags >> 61 & 3] if is_backing else None,
        _MODES[flags & 3] if is_backing else "",
    )


@cache
def _crc64_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 56
        for _ in range(8):
            value = (value << 1 ^ (_POLYNOMIAL if value >> 63 else 0)) & _ONES
        table.append(value)
    return tuple(table)


def _crc64(content: bytes) -> int:
    """CRC-64 of ECMA-182, both inversions, as ``bch_crc64``."""
    table, value = _crc64_table(), _ONES
    for byte in content:
        value = table[value >> 56 ^ byte] ^ (value << 8 & _ONES)
    return value ^ _ONES


def _find(blocks: Blocks) -> Superblock | None:
    return parse(read_clipped(blocks, _OFFSET, _SIZE))


def _describe(devices: Sequence[Device[Superblock]]) -> Iterator[Volume]:
    caches = {superblock.set_uuid for _, superblock in devices if superblock.state is None}
    for volume, superblock in devices:
        details = {"manager": "bcache", "set": superblock.set_uuid, "device-uuid": superblock.uuid, "mode": superblock.mode}
        details |= {"label": superblock.label, "cache": superblock.state or "this is one"}
        if superblock.state is None:
            reason = f"a cache of the bcache set {superblock.set_uuid}: {UNREAD}"
            yield told(volume, VolumeState.UNSUPPORTED, reason, details)
        elif superblock.state in ("dirty", "stale"):
            yield _dirty(volume, superblock, details, is_here=superblock.set_uuid in caches)
        elif not _SIZE + _OFFSET <= superblock.data_start <= volume.size:
            reason = f"bcache content is said to begin at byte {superblock.data_start}"
            yield told(volume, VolumeState.DAMAGED, reason, details)
        else:
            yield _content(volume, superblock, details)


def _dirty(volume: Volume, superblock: Superblock, details: dict[str, str], *, is_here: bool) -> Volume:
    """A backing device whose newest data is in its cache."""
    if superblock.state == "stale":
        reason = "a bcache backing device that lost newer data with its cache"
        return told(volume, VolumeState.DAMAGED, reason, details)
    if is_here:
        reason = f"a bcache backing device with newer data in its cache: that {UNREAD}"
        return told(volume, VolumeState.UNSUPPORTED, reason, details)
    reason = f"a bcache backing device with newer data in its cache, which is missing: set {superblock.set_uuid}"
    return told(volume, VolumeState.INCOMPLETE, reason, details)


def _content(volume: Volume, superblock: Superblock, details: dict[str, str]) -> Volume:
    start = superblock.data_start
    return Volume(
        id=f"bcache:{superblock.uuid}",
        name=component_name(f"bcache-{superblock.label or superblock.uuid[:8]}"),
        kind="bcache",
        blocks=Unwritable(Slice(volume.blocks, start, volume.size - start), _NOT_WRITTEN),
        disk=volume.disk,
        offset=None if volume.offset is None else volume.offset + start,
        state=volume.state,
        reason=volume.reason,
        members=(volume.id,),
        details={key: text for key, text in details.items() if text},
    )


KIND = Superblocks(_find, _describe, is_behind=True)
