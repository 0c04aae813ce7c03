"""Replaying the log in memory: what a crash, or a snapshot of a running guest, left to be written to its place.

Nothing is written to the volume: ``replay`` makes a layer over it that the reader reads instead. The log is walked twice,
for a buffer that became free later must not be changed: its blocks may have been used for a file's contents since. What was
half done stays so where that changes no file (extents to be freed, removed inodes); where a piece of a file was being moved,
the reader is told where it belongs (``moves.py``). A folder's block that lies in several pieces on the volume is logged piece
by piece, and then has no right checksum: reading that folder is an error, where Linux does not mount at all.

Source: Linux fs/xfs/xfs_log_recover.c; fs/xfs/xfs_buf_item_recover.c; fs/xfs/xfs_inode_item_recover.c;
fs/xfs/xfs_icreate_item.c; fs/xfs/libxfs/xfs_ialloc.c ``xfs_ialloc_inode_init``.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import NamedTuple

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.changes import Changed
from mntapi.filesystems.xfs.described import checksum_of
from mntapi.filesystems.xfs.inode import CHECKSUM_AT, MAGIC, parse_inode
from mntapi.filesystems.xfs.items import (
    BEGUN,
    DONE,
    Buffer,
    BufferFlag,
    InodeFlag,
    Kind,
    LoggedInode,
    buffer_flags,
    id_of,
    inodes_of,
    ordered,
    parse_buffer,
    parse_created,
    parse_inode_item,
)
from mntapi.filesystems.xfs.log import Log
from mntapi.filesystems.xfs.logged_inode import is_newer as is_newer_inode
from mntapi.filesystems.xfs.logged_inode import replayed
from mntapi.filesystems.xfs.moves import Move, parse_move
from mntapi.filesystems.xfs.owners import OWNER_AT, blocks_of_tree
from mntapi.filesystems.xfs.stamps import is_newer, stamp_of
from mntapi.filesystems.xfs.superblock import Superblock
from mntapi.filesystems.xfs.transactions import Item, Transaction, committed
from mntapi.types import Blocks
from mntapi.units import SECTOR

_KNOWN_LOG_FEATURES = 0x1
"""Changes of extended attributes are announced."""
MAX_CREATED = 4096
"""Inodes that are made at once: 64, or a block full of the smallest, whichever is more."""
_FREE = struct.Struct(">2s2xB87xII")
_NUMBER_AT = 152
_FREE_NEW = struct.Struct(">Q16s")
_LAST = 0xFFFFFFFF
"""Ends the list of removed inodes."""
_OWNERS = int(InodeFlag.OWNER | InodeFlag.ATTRIBUTE_OWNER)
_CANCELLED, _UNLINKED = int(BufferFlag.CANCELLED), int(BufferFlag.UNLINKED)
MAX_MOVES = 8
"""Of one file. The kernel keeps it locked until its moves are done, of which there are two, or four."""
_TOLD = 3
"""Inodes that are named of those with an unfinished change."""


class _Begun(NamedTuple):
    """An announced change: the inodes it is about, and what it is if that is a move."""

    inodes: set[int]
    move: Move | None


class Replayed(NamedTuple):
    """A volume after its log was replayed, what is still to be done to files' maps, and why the newest changes may be missing
    all the same, or None."""

    volume: Changed
    moves: dict[int, list[Move]]
    unreplayed: str | None


def replay(volume: Blocks, superblock: Superblock) -> Replayed:
    """Replay the log of the file system on ``volume``, which stays the caller's.

    Raises:
        Corrupt, Unsupported, ReadFailed: it cannot be replayed.
    """
    if superblock.needs_repair:
        raise Unsupported("xfs_repair was begun and not finished", reason="needs-repair")
    if superblock.log_incompat & ~_KNOWN_LOG_FEATURES:
        raise Unsupported("it has features that are not known", found=hex(superblock.log_incompat), reason="log-feature")
    log = Log(volume, superblock)
    records = log.records()
    replay = Replay(volume, superblock)
    for transaction in committed(log, records):
        replay.note_cancelled(transaction)
    for transaction in committed(log, records):
        replay.apply(transaction)
    return Replayed(replay.finished(), replay.moves(), replay.unfinished())


class Replay:
    """Applies transactions, the oldest first."""

    def __init__(self, volume: Blocks, superblock: Superblock) -> None:
        self._volume = Changed(volume)
        self._sb = superblock
        self._has_checksums = superblock.version == 5
        self._cancelled: Counter[tuple[int, int]] = Counter()
        """Buffers that will yet become free, and how often."""
        self._cancelled_at: Counter[int] = Counter()
        """The same by their sector alone."""
        self._buffers: dict[int, int] = {}
        """Byte and length of those that were changed."""
        self._inodes: set[int] = set()
        """Bytes of those that were changed."""
        self._begun: dict[tuple[int, int], _Begun] = {}
        """Changes that were announced and not done yet, by their kind and id."""
        self._uuids = (superblock.uuid, superblock.volume_uuid)

    def note_cancelled(self, transaction: Transaction) -> None:
        """Remember which buffers become free."""
        for item in transaction.items:
            if item.kind == Kind.BUFFER and buffer_flags(item) & _CANCELLED:
                buffer = parse_buffer(item)
                self._cancelled[buffer.key] += 1
                self._cancelled_at[buffer.sector] += 1

    def apply(self, transaction: Transaction) -> None:
        """Change what the transaction changed. Every one must have been noted before the first is applied."""
        for item in ordered(transaction.items):
            if item.kind == Kind.BUFFER:
                self._apply_buffer(parse_buffer(item), transaction.lsn)
            elif item.kind == Kind.INODE:
                self._apply_inode(parse_inode_item(item), transaction.lsn)
            elif item.kind == Kind.CREATED:
                self._create_inodes(item)
            elif item.kind in BEGUN:
                move = parse_move(item.regions[0], self._sb) if item.kind == Kind.BUI else None
                self._begun[item.kind, id_of(item)] = _Begun(inodes_of(item), move)
            elif item.kind in DONE:
                self._begun.pop((DONE[Kind(item.kind)], id_of(item)), None)

    def _apply_buffer(self, buffer: Buffer, lsn: int) -> None:
        if buffer.flags & _CANCELLED:
            self._cancelled[buffer.key] -= 1
            self._cancelled_at[buffer.sector] -= 1
            return
        if self._cancelled[buffer.key] > 0 or buffer.flags & _UNLINKED:
            return  # that list is of no use to a reader
        at = buffer.sector * SECTOR
        if self._has_checksums and is_newer(self._volume.read(at, SECTOR), self._uuids, lsn):
            return
        for offset, content in buffer.pieces:
            self._volume.write(at + offset, content)
        self._buffers[at] = buffer.sectors * SECTOR

    def _apply_inode(self, logged: LoggedInode, lsn: int) -> None:
        if self._cancelled[logged.sector, logged.sectors] > 0:
            return
        if logged.offset % self._sb.inode_size or logged.offset + self._sb.inode_size > logged.sectors * SECTOR:
            raise Corrupt("an inode in the log has an impossible place", offset=logged.at, found=f"inode {logged.number}")
        there = self._volume.read(logged.at, self._sb.inode_size)
        if there[:2] != MAGIC or not is_newer_inode(there, logged, lsn):
            self._volume.write(logged.at, replayed(there, logged, lsn))
            self._inodes.add(logged.at)
        if logged.flags & _OWNERS and self._has_checksums:
            self._change_owners(logged)

    def _change_owners(self, logged: LoggedInode) -> None:
        """Give all blocks of an inode's trees to it, unless it is free by now."""
        raw = self._volume.read(logged.at, self._sb.inode_size)
        inode = parse_inode(raw, logged.number, logged.at, self._sb.uuid)
        if not inode.mode:
            return
        for flag, fork in ((InodeFlag.OWNER, inode.data), (InodeFlag.ATTRIBUTE_OWNER, inode.attributes)):
            for at in blocks_of_tree(self._volume, self._sb, fork) if logged.flags & flag else ():
                self._volume.write(at + OWNER_AT, logged.number.to_bytes(8, "big"))
                self._buffers[at] = self._sb.block_size

    def _create_inodes(self, item: Item) -> None:
        """Make free inodes, unless they will become free blocks again."""
        created, size = parse_created(item), self._sb.inode_size
        first = created.group << self._sb.ag_block_log | created.block
        at = self._sb.block_at(first, created.blocks)
        fits = created.inodes * size == created.blocks * self._sb.block_size and created.inode_size == size
        if not at or not fits or not 0 < created.inodes <= MAX_CREATED:
            raise Corrupt("impossible new inodes in the log", found=f"{created.inodes} at block {created.block}")
        end = at + created.inodes * size
        if any(self._cancelled_at[sector] > 0 for sector in range(at // SECTOR, end // SECTOR, self._sb.block_size // SECTOR)):
            return
        for index in range(created.inodes):
            inode = self._free_inode((first << self._sb.inodes_per_block_log) + index, created.generation)
            self._volume.write(at + index * size, inode)
            self._inodes.add(at + index * size)

    def _free_inode(self, number: int, generation: int) -> bytes:
        inode = bytearray(self._sb.inode_size)
        version = 3 if self._has_checksums else 2
        _FREE.pack_into(inode, 0, MAGIC, version, generation, _LAST)
        if self._has_checksums:
            _FREE_NEW.pack_into(inode, _NUMBER_AT, number, self._sb.uuid)
        return bytes(inode)

    def finished(self) -> Changed:
        """The volume with its changes, their checksums made right."""
        if self._has_checksums:
            for at, length in self._buffers.items():
                raw = self._volume.read(at, length)
                stamp = stamp_of(raw)
                if stamp is not None:
                    self._seal(at, raw, stamp.checksum)
            for at in self._inodes:
                self._seal(at, self._volume.read(at, self._sb.inode_size), CHECKSUM_AT)
        self._volume.finish()
        return self._volume

    def _seal(self, at: int, raw: bytes, checksum_at: int) -> None:
        self._volume.write(at + checksum_at, checksum_of(raw, checksum_at).to_bytes(4, "little"))

    def moves(self) -> dict[int, list[Move]]:
        """What is still to be done to files' maps, by inode; of a file where that is all."""
        others = {number for begun in self._begun.values() if begun.move is None for number in begun.inodes}
        found: dict[int, list[Move]] = {}
        for begun in self._begun.values():
            if begun.move is not None and begun.move.inode not in others:
                found.setdefault(begun.move.inode, []).append(begun.move)
        return {number: moves for number, moves in found.items() if len(moves) <= MAX_MOVES}

    def unfinished(self) -> str | None:
        """Which inodes have a change that the log announces and has not, and that cannot be done here."""
        numbers = sorted({number for begun in self._begun.values() for number in begun.inodes} - self.moves().keys())
        if not numbers:
            return None
        named = ", ".join(map(str, numbers[:_TOLD])) + (" and others" if len(numbers) > _TOLD else "")
        return f"the log was replayed, but the last change of inode {named} was not finished: its contents may be half changed"
