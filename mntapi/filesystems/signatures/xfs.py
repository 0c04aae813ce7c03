"""XFS. Source: XFS Algorithms & Data Structures, 3rd edition, chapters "Superblocks" and "Journaling Log"."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source
from mntapi.filesystems.signatures.xfs_log import Log
from mntapi.units import SECTOR

_NEEDS_REPAIR = 0x10
"""Bit of the incompatible features of version 5: xfs_repair was begun and not finished."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """``struct xfs_dsb``, what a probe needs of it."""

    block_size: int
    block_count: int
    uuid: bytes
    log_start: int
    ag_blocks: int
    ag_count: int
    log_blocks: int
    version: int
    sector_size: int
    inode_size: int
    name: bytes
    block_log: int
    sector_log: int
    inode_log: int
    ag_block_log: int
    incompat: int

    def is_sane(self) -> bool:
        """Whether sizes agree with their logarithms and the allocation groups cover the blocks."""
        sizes = (
            9 <= self.block_log <= 16 and self.block_size == 1 << self.block_log,
            9 <= self.sector_log <= 15 and self.sector_size == 1 << self.sector_log,
            8 <= self.inode_log <= 11 and self.inode_size == 1 << self.inode_log,
        )
        return all(sizes) and self.ag_count > 0 and self._ags_cover_blocks()

    def _ags_cover_blocks(self) -> bool:
        all_but_last = (self.ag_count - 1) * self.ag_blocks
        return all_but_last < self.block_count <= self.ag_count * self.ag_blocks

    @property
    def log_at(self) -> int:
        """Byte of the volume where its log begins."""
        group, within = divmod(self.log_start, 1 << self.ag_block_log)
        return (group * self.ag_blocks + within) * self.block_size


_SUPERBLOCK = struct.Struct(">4xIQ16x16sQ28xII4xI3H2x12s3BxB91xI")
_SUPERBLOCK_SIZE = 512


def xfs(source: Source, base: int) -> Found | None:
    """A data device."""
    superblock = Superblock(*_SUPERBLOCK.unpack_from(source.read(base, _SUPERBLOCK_SIZE)))
    if not superblock.is_sane():
        return None
    return Found(values.text(superblock.name), values.uuid(superblock.uuid), _dirty(source, base, superblock))


def _dirty(source: Source, base: int, superblock: Superblock) -> str | None:
    """Why the newest changes may be missing."""
    if superblock.version & 0xF == 5 and superblock.incompat & _NEEDS_REPAIR:
        return "needs xfs_repair"
    if superblock.log_start == 0:
        return "log on another device, not looked at"
    log = Log(source, base + superblock.log_at, superblock.log_blocks * superblock.block_size // SECTOR)
    return None if log.is_clean() else "log not replayed"


def external_log(source: Source, base: int) -> Found | None:
    """A log on a device of its own, recognised by the record header in its first sector. It has no UUID of its own."""
    version, length, format_ = struct.unpack(">8xII284xI", source.read(base, 304))
    return Found() if version in (1, 2) and 0 < length < 1 << 31 and format_ in (1, 2, 3) else None
