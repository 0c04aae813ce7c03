"""Replaying the journal in memory: what a crash, or a snapshot of a running guest, left to be written to its place.

Nothing is written. ``Replayed`` is the volume with the newest copy that the journal has of each block; a copy is read, and its
checksum compared, when it is asked for.

Source: Linux fs/jbd2/recovery.c for what counts: transactions from the superblock's on, each with the next number and a
commit; of several copies of a block the last; none that the same transaction or a later one revokes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

from mntapi.blocks import check_range, merged, read
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.ext.journal import (
    COMPAT_CHECKSUM,
    MAX_SEQUENCE,
    SUPERBLOCK_SIZE,
    Commit,
    Incompat,
    JournalSuperblock,
    Kind,
    Tag,
    TransactionChecksum,
    has_fast_commits,
    is_sound,
    is_sound_copy,
    parse_commit,
    parse_header,
    parse_revoked,
    parse_superblock,
    parse_tags,
)
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import MIB

MAX_COPIES = 1 << 19
"""Blocks in the transactions that count: 2 GiB of 4 KiB. The largest journal that mke2fs makes by itself has half."""
MAX_READ = 256 * MIB
"""Bytes of a log that are read to walk it: descriptors, revocations, commits, and, where a commit has a checksum of its whole
transaction, the copies too. Without those a full log of 1 GiB has some 10 MiB."""
MAX_REVOKED = 1 << 20
"""Revocations."""
_ESCAPED_MAGIC = bytes.fromhex("c03b3998")


class Copies:
    """The newest copy that a journal has of each block, in the order of the blocks.

    ``number``: blocks of the file system. ``place``: the copies' blocks in the journal. The others are what the tags say.
    """

    def __init__(self) -> None:
        self.number = array("Q")
        self.place = array("L")
        self.checksum = array("L")
        self.sequence = array("L")
        self.is_escaped = bytearray()

    def add(self, tag: Tag, place: int, sequence: int) -> None:
        """One more copy."""
        self.number.append(tag.block)
        self.place.append(place)
        self.checksum.append(tag.checksum)
        self.sequence.append(sequence)
        self.is_escaped.append(tag.is_escaped)

    def chosen(self, indexes: list[int]) -> Copies:
        """Some of them, in this order."""
        found = Copies()
        for mine, its in zip(self._columns(), found._columns(), strict=True):
            its.extend(mine[index] for index in indexes)
        return found

    def _columns(self) -> tuple[array[int] | bytearray, ...]:
        return self.number, self.place, self.checksum, self.sequence, self.is_escaped


class Log:
    """Walks the transactions of a journal.

    Args:
        journal: the journal's file.
        block_size: bytes, of the file system.
        blocks: of the file system.

    Raises:
        Corrupt, Unsupported, ReadFailed: there is no telling what counts.
    """

    def __init__(self, journal: Blocks, block_size: int, blocks: int) -> None:
        self._journal = journal
        self._blocks = blocks
        self.superblock = parse_superblock(read(journal, 0, SUPERBLOCK_SIZE), journal.size // block_size)
        if self.superblock.block_size != block_size:
            raise Corrupt("the journal's blocks are of another size", expected=block_size, found=self.superblock.block_size)
        self._copies = Copies()
        self._transactions = array("L")
        """For each copy, how many transactions came before its own: unlike their numbers, these only grow."""
        self._newest: dict[int, int] = {}
        self._revoked: dict[int, int] = {}
        self._at = self.superblock.start
        self._walked = self._read = 0
        self.transactions = 0
        """Complete ones so far."""

    def copies(self) -> Copies:
        """What the log holds."""
        if self.superblock.start:
            self._walk()
        alive = [
            index for block, index in sorted(self._newest.items()) if self._transactions[index] > self._revoked.get(block, -1)
        ]
        if alive and self._copies.number[alive[-1]] >= self._blocks:
            raise Corrupt("the journal has a block that the file system has not", expected=f"less than {self._blocks}")
        return self._copies.chosen(alive)

    @property
    def sequence(self) -> int:
        """Number of the transaction after the last complete one."""
        return (self.superblock.sequence + self.transactions) % MAX_SEQUENCE

    def has_fast_commits(self) -> bool:
        """Whether ext4 wrote changes behind the log, in a form of its own; they are not replayed. Ask after ``copies``."""
        if not self.superblock.incompat & Incompat.FAST_COMMIT or not self.superblock.start:
            return False
        return has_fast_commits(self._block(self.superblock.last + 1), self.sequence)

    def _block(self, index: int) -> bytes:
        self._read += self.superblock.block_size
        if self._read > MAX_READ:
            raise Unsupported("the journal takes too long to walk", expected=f"at most {MAX_READ} bytes", reason="journal-size")
        return read(self._journal, index * self.superblock.block_size, self.superblock.block_size)

    def _next(self) -> int:
        """The block of the log that comes now; it ends where it began."""
        at = self._at
        self._walked += 1
        if self._walked > self.superblock.last - self.superblock.first:
            raise Corrupt("the journal's log has no end", offset=at * self.superblock.block_size)
        self._at = at + 1 if at + 1 < self.superblock.last else self.superblock.first
        return at

    def _walk(self) -> None:
        last_time = 0
        while (end := self._transaction()) is not None:
            commit, is_right = end
            if not is_right and (commit.time >= last_time and not self.superblock.incompat & Incompat.ASYNC_COMMIT):
                raise Corrupt("a transaction of the journal has a wrong checksum", found=f"transaction {self.sequence}")
            if not is_right:
                return  # left from an earlier time around, or not written whole
            last_time = commit.time
            self.transactions += 1

    def _transaction(self) -> tuple[Commit, bool] | None:
        """Go through one and keep what it holds: its commit, and whether its checksums are right; None where the log ends."""
        found: list[tuple[Tag, int]] = []
        revoked: list[int] = []
        total = TransactionChecksum()
        is_right = True
        while True:
            raw = self._block(self._next())
            header = parse_header(raw)
            if header is None or header[1] != self.sequence:
                return None
            kind = header[0]
            is_right = is_right and is_sound(raw, self.superblock, kind)
            if kind == Kind.DESCRIPTOR:
                found += self._described(raw, total)
            elif kind == Kind.REVOKE:
                revoked += parse_revoked(raw, self.superblock)
            elif kind == Kind.COMMIT:
                commit = parse_commit(raw)
                if self.superblock.compat & COMPAT_CHECKSUM:
                    is_right = commit.checksum in (None, total.value)
                if is_right:
                    self._keep(found, revoked)
                return commit, is_right
            else:
                return None
            self._check_room(len(found), len(revoked))

    def _check_room(self, copies: int, revoked: int) -> None:
        """Raise Unsupported if there is no room for so many more."""
        if len(self._transactions) + copies > MAX_COPIES or len(self._revoked) + revoked > MAX_REVOKED:
            raise Unsupported("the journal holds too many blocks", expected=f"at most {MAX_COPIES}", reason="journal-size")

    def _described(self, raw: bytes, total: TransactionChecksum) -> list[tuple[Tag, int]]:
        found = [(tag, self._next()) for tag in parse_tags(raw, self.superblock)]
        if self.superblock.compat & COMPAT_CHECKSUM:
            total.add(raw)
            for _, at in found:
                total.add(self._block(at))
        return found

    def _keep(self, found: list[tuple[Tag, int]], revoked: list[int]) -> None:
        for tag, place in found:
            self._newest[tag.block] = len(self._transactions)
            self._copies.add(tag, place, self.sequence)
            self._transactions.append(self.transactions)
        self._revoked.update(dict.fromkeys(revoked, self.transactions))


class Replayed:
    """The volume as it is after its journal was replayed. Borrows the volume; thread-safe.

    Raises (from ``readinto``):
        Corrupt: a copy in the journal has a wrong checksum.
    """

    def __init__(self, volume: Blocks, journal: Blocks, superblock: JournalSuperblock, copies: Copies) -> None:
        self._volume = volume
        self._journal = journal
        self._superblock = superblock
        self._copies = copies
        self._block_size = superblock.block_size
        self.size = volume.size
        self.sector_size = volume.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._volume.readinto(offset, buffer)
        end = offset + len(buffer)
        for index in self._within(offset, end):
            start = self._copies.number[index] * self._block_size
            content = self._copy(index)[max(0, offset - start) : end - start]
            at = max(start, offset) - offset
            buffer[at : at + len(content)] = content

    def _within(self, offset: int, end: int) -> range:
        """Indexes of the copies that belong into these bytes."""
        first = bisect_left(self._copies.number, offset // self._block_size)
        return range(first, bisect_left(self._copies.number, -(-end // self._block_size), first))

    def _copy(self, index: int) -> bytes:
        place = self._copies.place[index]
        raw = read(self._journal, place * self._block_size, self._block_size)
        if not is_sound_copy(raw, self._superblock, self._copies.sequence[index], self._copies.checksum[index]):
            raise Corrupt(
                f"block {place} of the journal has a wrong checksum",
                offset=self._copies.number[index] * self._block_size,
                reason="journal-checksum",
            )
        return _ESCAPED_MAGIC + raw[4:] if self._copies.is_escaped[index] else raw

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, at: int, end: int) -> Iterator[Extent]:
        for index in self._within(at, end):
            start = max(at, self._copies.number[index] * self._block_size)
            stop = min(end, (self._copies.number[index] + 1) * self._block_size)
            yield from self._volume.extents(at, start - at)
            yield Extent(start, stop - start, ExtentKind.DATA)
            at = stop
        yield from self._volume.extents(at, end - at)

    def close(self) -> None:
        """Nothing to release: the volume belongs to somebody else."""
