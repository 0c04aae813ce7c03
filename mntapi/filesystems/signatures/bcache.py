"""bcache and bcachefs. Source: Linux drivers/md/bcache/bcache_ondisk.h, fs/bcachefs/bcachefs_format.h."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source


@dataclass(frozen=True, slots=True)
class CacheSuper:
    """``struct cache_sb_disk``; ``offset`` is its own sector."""

    offset: int
    version: int
    uuid: bytes


_CACHE = struct.Struct("<8xQQ16x16s")


def bcache(source: Source, base: int) -> Found | None:
    """A cache or a backing device (versions 0 to 6)."""
    superblock = CacheSuper(*_CACHE.unpack(source.read(base, _CACHE.size)))
    if superblock.offset * 512 != base or superblock.version > 6:
        return None
    return Found(uuid=values.uuid(superblock.uuid))


@dataclass(frozen=True, slots=True)
class BcachefsSuper:
    """``struct bch_sb``; ``offset`` is its own sector."""

    user_uuid: bytes
    label: bytes
    offset: int
    block_size: int
    device: int
    device_count: int


_BCACHEFS = struct.Struct("<56x16s32sQ8xHBB")


def bcachefs(source: Source, base: int) -> Found | None:
    """A device of a bcachefs; the UUID is the file system's, not the device's."""
    superblock = BcachefsSuper(*_BCACHEFS.unpack(source.read(base, _BCACHEFS.size)))
    if superblock.offset * 512 != base or superblock.device >= superblock.device_count or not superblock.block_size:
        return None
    return Found(values.text(superblock.label), values.uuid(superblock.user_uuid))
