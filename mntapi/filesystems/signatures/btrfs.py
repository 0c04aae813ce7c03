"""btrfs. Source: btrfs documentation, "On-disk Format", section "Superblock"."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source


@dataclass(frozen=True, slots=True)
class Superblock:
    """``struct btrfs_super_block``, what a probe needs of it. ``own_offset`` is bytes."""

    uuid: bytes
    own_offset: int
    log_root: int
    label: bytes


_SUPERBLOCK = struct.Struct("<32x16sQ40xQ195x256s")


def btrfs(source: Source, base: int) -> Found | None:
    """A device of a btrfs; the UUID is the file system's. The superblock knows its own place."""
    superblock = Superblock(*_SUPERBLOCK.unpack(source.read(base, _SUPERBLOCK.size)))
    if superblock.own_offset != base:
        return None
    dirty = "log tree not replayed" if superblock.log_root else None
    return Found(values.text(superblock.label), values.uuid(superblock.uuid), dirty)
