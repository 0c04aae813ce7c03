"""XFS. Source: XFS Algorithms & Data Structures, 3rd edition, chapters "Superblocks" and "Journaling Log"."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source


@dataclass(frozen=True, slots=True)
class Superblock:
    """``struct xfs_dsb``, what a probe needs of it."""

    block_size: int
    block_count: int
    uuid: bytes
    ag_blocks: int
    ag_count: int
    sector_size: int
    inode_size: int
    name: bytes
    block_log: int
    sector_log: int
    inode_log: int

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


_SUPERBLOCK = struct.Struct(">4xIQ16x16s36xII8x2xHH2x12sBBB")


def xfs(source: Source, base: int) -> Found | None:
    """A data device. Whether its log is dirty would take a search through the log, and is not told."""
    superblock = Superblock(*_SUPERBLOCK.unpack(source.read(base, _SUPERBLOCK.size)))
    return Found(values.text(superblock.name), values.uuid(superblock.uuid)) if superblock.is_sane() else None


def external_log(source: Source, base: int) -> Found | None:
    """A log on a device of its own, recognised by the record header in its first sector. It has no UUID of its own."""
    version, length, format_ = struct.unpack(">8xII284xI", source.read(base, 304))
    return Found() if version in (1, 2) and 0 < length < 1 << 31 and format_ in (1, 2, 3) else None
