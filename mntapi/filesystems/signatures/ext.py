"""ext2, ext3, ext4 and their external journal. Source: Linux Documentation/filesystems/ext4/super.rst.

Which of the three it is, its features say, by the rule of libblkid: ext3 has a journal and nothing ext3 did not know, ext2
has none and nothing ext2 did not know, all else is ext4. The superblock's checksum is not asked for: a volume whose only
damage is there can still be read, and should not be called unknown.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.filesystems.signatures import values
from mntapi.filesystems.signatures.source import Found, Source

_HAS_JOURNAL = 0x4
_RECOVER = 0x4
_JOURNAL_DEVICE = 0x8
_RO_COMPAT_EXT3 = 0x7
"""sparse_super, large_file, btree_dir."""
_INCOMPAT_EXT2 = 0x12
"""filetype, meta_bg."""
_CLEAN = 0x1


@dataclass(frozen=True, slots=True)
class Superblock:
    """``struct ext4_super_block``, what a probe needs of it."""

    inode_count: int
    block_count: int
    first_data_block: int
    log_block_size: int
    blocks_per_group: int
    state: int
    revision: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    label: bytes

    def is_sane(self) -> bool:
        """Whether the sizes are possible; the magic is two bytes only. A journal device has no inodes and no groups."""
        if self.log_block_size > 6 or self.revision > 1 or not self.block_count or self.first_data_block > 2:
            return False
        return bool(self.incompat & _JOURNAL_DEVICE or (self.inode_count and self.blocks_per_group))

    @property
    def kind(self) -> str:
        """``ext2``, ``ext3``, ``ext4`` or ``jbd``."""
        if self.incompat & _JOURNAL_DEVICE:
            return "jbd"
        known = _INCOMPAT_EXT2 | (_RECOVER if self.compat & _HAS_JOURNAL else 0)
        if self.ro_compat & ~_RO_COMPAT_EXT3 or self.incompat & ~known:
            return "ext4"
        return "ext3" if self.compat & _HAS_JOURNAL else "ext2"

    @property
    def dirty(self) -> str | None:
        """Why the newest changes may be missing."""
        if self.incompat & _RECOVER:
            return "journal not replayed"
        has_journal = self.compat & _HAS_JOURNAL or self.incompat & _JOURNAL_DEVICE
        return None if has_journal or self.state & _CLEAN else "not unmounted cleanly"


_SUPERBLOCK = struct.Struct("<II12xII4xI22xH16xI12xIII16s16s")


def _probe(source: Source, base: int, kind: str) -> Found | None:
    superblock = Superblock(*_SUPERBLOCK.unpack(source.read(base, _SUPERBLOCK.size)))
    if superblock.kind != kind or not superblock.is_sane():
        return None
    return Found(values.text(superblock.label), values.uuid(superblock.uuid), superblock.dirty)


def ext2(source: Source, base: int) -> Found | None:
    """No journal, no feature newer than ext2."""
    return _probe(source, base, "ext2")


def ext3(source: Source, base: int) -> Found | None:
    """A journal, no feature newer than ext3."""
    return _probe(source, base, "ext3")


def ext4(source: Source, base: int) -> Found | None:
    """Any feature that ext3 does not know."""
    return _probe(source, base, "ext4")


def jbd(source: Source, base: int) -> Found | None:
    """The journal of an ext3 or ext4 on a device of its own."""
    return _probe(source, base, "jbd")
