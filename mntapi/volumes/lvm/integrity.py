"""Images of a RAID with integrity checksums (dm-integrity), as LVM makes them: data on one volume, all else on another.

That other one has a superblock, a journal, and the checksums. With a bitmap, data is always in place. With a journal, it is
written there first, so the newest may be there only: what of the journal the kernel would replay lies over the data here. It
is a ring of sections, each sector of it marked with its place and one of four numbers in turn that tell one round from the
next; a section counts if all its sectors have the number of the round. Checksums are not compared: a block that rotted on one
image is read as it is, where the kernel would take it from another image.

Source: Linux Documentation/admin-guide/device-mapper/dm-integrity.rst; drivers/md/dm-integrity.c (``struct superblock``,
``struct journal_entry``, ``calculate_journal_section_size``, ``replay_journal``, ``do_journal_write``).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.blocks import check_range, read
from mntapi.blocks.base import whole
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import MIB, SECTOR, align_up
from mntapi.volumes.lvm.chunks import Overlaid

_SUPERBLOCK = struct.Struct("<8sBBHIQIB")
"""magic, version, log2 of interleaved sectors, bytes of a checksum, sections, sectors of data, flags, log2 of sectors in a
block"""
_MAGIC = b"integrt\0"
_MAX_VERSION = 5
_JOURNAL_MAC, _DIRTY_BITMAP, _FIXED_HMAC, _INLINE = 1, 4, 0x10, 0x20
_JOURNAL_AT = 8 * SECTOR
_ENTRY_SECTORS = 8
"""Sectors of entries at the start of a section."""
_MARK = struct.Struct("<504xQ")
"""A sector of the journal: its last bytes are its mark, those of the data are in the entry."""
_MARK_SIZE = 8
_ROUNDS = {0x1111111111111111 * (number + 1): number for number in range(4)}
"""The four numbers that rounds have in turn, as the marks have them."""
_PLACE = struct.Struct("<II")
_UNUSED = 0xFFFFFFFF
_MAX_BLOCK_SHIFT = 3

MAX_JOURNAL = 128 * MIB
"""Bytes of a journal. LVM makes them up to 64 MiB."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """How the journal is laid out. ``block``: sectors in a block; ``tag``: bytes of a checksum; ``size``: bytes of data."""

    tag: int
    sections: int
    size: int
    flags: int
    block: int

    @property
    def entry_size(self) -> int:
        """Bytes of an entry: a sector number, the last bytes of each sector, the checksum."""
        return align_up(_MARK_SIZE + _MARK_SIZE * self.block + self.tag, 8)

    @property
    def entries(self) -> int:
        """Entries in a section."""
        return (SECTOR - _MARK_SIZE) // self.entry_size * _ENTRY_SECTORS

    @property
    def section(self) -> int:
        """Sectors in a section."""
        return _ENTRY_SECTORS + self.entries * self.block


def parse_superblock(content: bytes) -> Superblock | None:
    """The superblock at the start of the metadata; None where the kernel has not yet made one.

    Raises:
        Corrupt: it is none.
        Unsupported: it has features that LVM does not use.
    """
    magic, version, _, tag, sections, size, flags, shift = _SUPERBLOCK.unpack_from(content)
    if not any(magic):
        return None
    if magic != _MAGIC:
        raise _corrupt("no superblock", 0, _MAGIC, magic)
    if not 1 <= version <= _MAX_VERSION or flags & (_JOURNAL_MAC | _FIXED_HMAC | _INLINE):
        raise Unsupported("integrity metadata of a kind that LVM does not make", found=(version, flags), reason="lvm-integrity")
    superblock = Superblock(tag, sections, size * SECTOR, flags, 1 << min(shift, _MAX_BLOCK_SHIFT))
    if shift > _MAX_BLOCK_SHIFT or not superblock.entries:
        raise _corrupt("blocks or checksums of a size that cannot be", 10, "up to 8 sectors, 440 bytes", (1 << shift, tag))
    if sections * superblock.section * SECTOR > MAX_JOURNAL:
        raise Unsupported(
            "an integrity journal larger than is read", expected=MAX_JOURNAL, found=sections, reason="lvm-integrity"
        )
    return superblock


def with_journal(data: Blocks, metadata: Blocks) -> Blocks:
    """The image. Borrows both; reads the journal when it is made, if there is one.

    Args:
        data: the volume with the data.
        metadata: the volume with all else.

    Raises:
        Corrupt, Unsupported: as ``parse_superblock``, or the journal goes past the end.
        MntapiError: it cannot be read.
    """
    if metadata.size < _SUPERBLOCK.size:
        raise _corrupt("no room for a superblock", 0, _SUPERBLOCK.size, metadata.size)
    superblock = parse_superblock(read(metadata, 0, _SUPERBLOCK.size))
    if superblock is None or superblock.flags & _DIRTY_BITMAP:
        return data
    journal = _Journal(metadata, superblock)
    places = journal.replayed()
    chunk = superblock.block * SECTOR
    return Overlaid(data, journal, chunk, _Places(places, chunk).find) if places else data


class _Places:
    """Where the journal has blocks of data, by their number."""

    def __init__(self, places: Mapping[int, int], chunk: int) -> None:
        self._places = places
        self._ordered = sorted(places)
        self._chunk = chunk

    def find(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Those of the blocks ``first .. end`` that are in the journal, each with its byte offset there."""
        for index in self._ordered[bisect_left(self._ordered, first) : bisect_left(self._ordered, end)]:
            yield index, self._places[index] * self._chunk


class _Journal:
    """The journal as ``Blocks``: block after block of data, by section and entry, with the last bytes of sectors put back."""

    sector_size = SECTOR

    def __init__(self, metadata: Blocks, superblock: Superblock) -> None:
        self._metadata = metadata
        self._superblock = superblock
        self._block = superblock.block * SECTOR
        self._last: dict[int, bytes] = {}
        self.size = superblock.sections * superblock.entries * self._block
        end = _JOURNAL_AT + superblock.sections * superblock.section * SECTOR
        if end > metadata.size:
            raise _corrupt("a journal past the end of its volume", 12, f"at most {metadata.size} bytes", end)

    def replayed(self) -> dict[int, int]:
        """What is to be replayed: blocks of data, and which block of the journal has the newest of each."""
        places: dict[int, int] = {}
        for index in _to_replay(self._rounds()):
            for entry, (sector, last) in self._entries(self._section(index)):
                place = index * self._superblock.entries + entry
                places[sector // self._superblock.block] = place
                self._last[place] = last
        return places

    def _section(self, index: int) -> bytes:
        length = self._superblock.section * SECTOR
        return read(self._metadata, _JOURNAL_AT + index * length, length)

    def _rounds(self) -> Sequence[frozenset[int]]:
        """Of each section, the numbers that its sectors are marked with. None at all if a mark is none: this was written to
        by somebody else, or torn, and the kernel clears such a journal."""
        rounds: list[frozenset[int]] = []
        for index in range(self._superblock.sections):
            marks = enumerate(mark for (mark,) in _MARK.iter_unpack(self._section(index)))
            try:
                rounds.append(frozenset(_ROUNDS[mark ^ index << 32 ^ sector] for sector, mark in marks))
            except KeyError:
                return ()
        return rounds

    def _entries(self, section: bytes) -> Iterator[tuple[int, tuple[int, bytes]]]:
        """The entries of a section that are in use: the sector that each is for, and the last bytes of its sectors."""
        superblock = self._superblock
        for entry in range(superblock.entries):
            at = entry % _ENTRY_SECTORS * SECTOR + entry // _ENTRY_SECTORS * superblock.entry_size
            low, high = _PLACE.unpack_from(section, at)
            sector = high << 32 | low
            if high == _UNUSED or sector * SECTOR >= superblock.size:
                continue  # the kernel leaves out what is behind the end
            if sector % superblock.block:
                raise _corrupt("a journal entry for a part of a block", at, f"a multiple of {superblock.block}", sector)
            start = at + _PLACE.size
            yield entry, (sector, section[start : start + _MARK_SIZE * superblock.block])

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        done = 0
        while done < len(buffer):
            place, within = divmod(offset + done, self._block)
            count = min(len(buffer) - done, self._block - within)
            buffer[done : done + count] = self._content(place)[within : within + count]
            done += count

    def _content(self, place: int) -> bytes:
        """A block of data as it was before its sectors were marked."""
        section, entry = divmod(place, self._superblock.entries)
        first = section * self._superblock.section + _ENTRY_SECTORS + entry * self._superblock.block
        content = bytearray(read(self._metadata, _JOURNAL_AT + first * SECTOR, self._block))
        last = self._last[place]
        for index in range(self._superblock.block):
            end = (index + 1) * SECTOR
            content[end - _MARK_SIZE : end] = last[index * _MARK_SIZE : (index + 1) * _MARK_SIZE]
        return bytes(content)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release: the metadata belongs to somebody else."""


def _to_replay(rounds: Sequence[frozenset[int]]) -> Iterator[int]:
    """The sections to replay, the oldest first: those of the round before the last that are still there, and of the last."""
    used = frozenset[int]().union(*rounds)
    free = [number for number in range(4) if number not in used]
    if not rounds or not free:
        return  # no kernel leaves all four: the kernel clears such a journal
    # The last number in use is the one before the first free one; where the highest is free, the one before its run.
    unused = free[0]
    if 3 not in used:
        unused = 3
        while unused and unused - 1 not in used:
            unused -= 1
    last = (unused - 1) % 4
    wanted = (last - 1) % 4
    if wanted not in used and (wanted - 1) % 4 in used:
        return
    start = max(index for index, numbers in enumerate(rounds) if last in numbers) + 1 if last in used else 1
    if start >= len(rounds):
        start, wanted = 0, (wanted + 1) % 4
    for step in range(len(rounds)):
        index = (start + step) % len(rounds)
        if step and not index:
            wanted = (wanted + 1) % 4
        if rounds[index] != {wanted}:
            return
        yield index


def _corrupt(what: str, offset: int, expected: object, found: object) -> Corrupt:
    return Corrupt(f"integrity metadata: {what}", offset=offset, expected=expected, found=found, reason="lvm-integrity")
