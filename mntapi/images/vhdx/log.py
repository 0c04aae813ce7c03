"""The log: which of its entries are valid, and which of these make up the active sequence that has to be replayed.

The log is a ring of 4 KiB sectors. An entry is a run of them: a header, descriptors, and one data sector for each descriptor
that has data. Entries that follow each other with sequence numbers counting up by one are a sequence; its newest entry says
where the oldest one that still matters is. An entry that was torn by a power failure fails its checksum or its sequence numbers
and is taken for not written, as the specification wants.

Source: [MS-VHDX] 2.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.images.vhdx.structures import Header, has_right_checksum
from mntapi.types import FileBlocks
from mntapi.units import KIB, MIB

SECTOR = 4 * KIB
MAX_LOG = 64 * MIB
"""Hyper-V and qemu make logs of 1 MiB."""
MAX_DESCRIPTORS = 64 * KIB
"""Descriptors in all entries of a log; a full log of 1 MiB has at most half as many."""
MAX_CHECKED = 2
"""Times the log's length that may be read as entries: real ones do not overlap, but for one that was partly written over."""
MAX_STEPS = 128 * KIB
"""Entries visited in search of the active sequence: eight times as many as fit into the largest log."""

_ENTRY = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR = struct.Struct("<4s4s8sQQ")
_DATA_SECTOR = struct.Struct("<4sI4084xI")


@dataclass(frozen=True, slots=True)
class Write:
    """What a descriptor changes: ``length`` bytes of the file at ``offset``.

    ``data_at`` is where in the file its data sector is, None for zeros. The sector's first eight and last four bytes were
    replaced by sequence numbers; ``leading`` and ``trailing`` are the true ones.
    """

    offset: int
    length: int
    data_at: int | None = None
    leading: bytes = b""
    trailing: bytes = b""

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Entry:
    """A valid entry. ``offset`` and ``tail`` are bytes in the log, ``flushed_size`` and ``last_size`` sizes of the file."""

    offset: int
    length: int
    tail: int
    sequence: int
    flushed_size: int
    last_size: int
    writes: tuple[Write, ...]


def active_sequence(file: FileBlocks, header: Header) -> tuple[Entry, ...]:
    """The entries to replay, oldest first; none where the header says that the log is empty.

    Raises:
        Corrupt: the log is outside the file, or has no complete sequence, or the file was cut off after it was written.
        Unsupported: the log is longer than ``MAX_LOG``, or has more than ``MAX_DESCRIPTORS``.
    """
    if not header.log_guid.int:
        return ()
    log = _Log(file, header)
    sequence = log.active_sequence()
    if sequence[-1].flushed_size > file.size:
        raise Corrupt(
            "the file was cut off: its log was written when it was longer",
            path=file.path,
            offset=file.size,
            expected=f"at least {sequence[-1].flushed_size} bytes",
            found=f"{file.size} bytes",
            reason="truncated",
        )
    return sequence


class _Log:
    """Finds the entries of one log; lives no longer than the search."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._start = header.log_offset
        self._length = header.log_length
        self._guid = header.log_guid.bytes_le
        self._descriptors = 0
        self._checked = 0
        if self._start < MIB or self._start % MIB or self._length % MIB or not self._length:
            raise self._corrupt("the log's place is impossible", found=f"{self._length} bytes at {self._start}")
        if self._start + self._length > file.size:
            raise self._corrupt("the log is outside the file", found=f"{self._length} bytes at {self._start}")
        if self._length > MAX_LOG:
            raise self._unsupported("the log is too long", expected=f"at most {MAX_LOG} bytes", found=self._length)
        self._entries = self._valid_entries()

    def active_sequence(self) -> tuple[Entry, ...]:
        """The complete sequence whose newest entry is the newest of all."""
        heads = [entry for entry in self._entries.values() if self._next(entry) is None]
        steps = 0
        for head in sorted(heads, key=lambda entry: entry.sequence, reverse=True):
            sequence: list[Entry] = []
            entry = self._entries.get(head.tail)
            while entry is not None and entry.sequence <= head.sequence:
                sequence.append(entry)
                steps += 1
                if steps > MAX_STEPS:
                    raise self._corrupt("the log's entries overlap")
                if entry is head:
                    return tuple(sequence)
                entry = self._next(entry)
        raise self._corrupt("the log is not empty, and has no complete sequence of entries")

    def _next(self, entry: Entry) -> Entry | None:
        following = self._entries.get((entry.offset + entry.length) % self._length)
        return following if following is not None and following.sequence == entry.sequence + 1 else None

    def _valid_entries(self) -> dict[int, Entry]:
        """All valid entries by their offset in the log."""
        entries = {}
        for piece_at in range(0, self._length, MIB):
            piece = read(self._file, self._start + piece_at, MIB)
            for at in range(0, MIB, SECTOR):
                if piece.startswith(b"loge", at):
                    entry = self._entry(piece_at + at, piece[at : at + _ENTRY.size])
                    if entry is not None:
                        entries[entry.offset] = entry
        return entries

    def _entry(self, offset: int, content: bytes) -> Entry | None:
        """The entry at ``offset`` bytes of the log, or None if it is not valid."""
        _, _, length, tail, sequence, count, _, guid, flushed, last = _ENTRY.unpack(content)
        if guid != self._guid or not sequence or length % SECTOR or not SECTOR <= length <= self._length or tail % SECTOR:
            return None
        described = -(-(_ENTRY.size + count * _DESCRIPTOR.size) // SECTOR) * SECTOR
        if described > length:
            return None
        self._checked += length
        self._descriptors += count
        if self._checked > MAX_CHECKED * self._length:
            raise self._corrupt("the log's entries overlap")
        if self._descriptors > MAX_DESCRIPTORS:
            raise self._unsupported("the log has too many descriptors", expected=f"at most {MAX_DESCRIPTORS}")
        whole = self._read(offset, length)
        if not has_right_checksum(whole):
            return None
        writes = self._writes(whole, offset, count, sequence, described)
        return None if writes is None else Entry(offset, length, tail, sequence, flushed, last, writes)

    def _writes(self, entry: bytes, offset: int, count: int, sequence: int, data_at: int) -> tuple[Write, ...] | None:
        """The entry's changes, or None where a descriptor or data sector does not belong to it."""
        writes = []
        for number in range(count):
            kind, trailing, leading, at, own = _DESCRIPTOR.unpack_from(entry, _ENTRY.size + number * _DESCRIPTOR.size)
            if own != sequence or at % SECTOR:
                return None
            if kind == b"zero":
                length = int.from_bytes(leading, "little")
                if length % SECTOR:
                    return None
                writes.append(Write(at, length))
            elif kind == b"desc" and _is_data_sector(entry, data_at, sequence):
                place = self._start + (offset + data_at) % self._length
                writes.append(Write(at, SECTOR, place, leading, trailing))
                data_at += SECTOR
            else:
                return None
        return tuple(writes) if data_at == len(entry) else None

    def _read(self, offset: int, length: int) -> bytes:
        """A range of the log, which is a ring."""
        first = min(length, self._length - offset)
        return read(self._file, self._start + offset, first) + read(self._file, self._start, length - first)

    def _corrupt(self, what: str, *, found: object = None) -> Corrupt:
        return Corrupt(what, path=self._file.path, offset=self._start, found=found, reason="log")

    def _unsupported(self, what: str, *, expected: object, found: object = None) -> Unsupported:
        return Unsupported(what, path=self._file.path, offset=self._start, expected=expected, found=found, reason="log")


def _is_data_sector(entry: bytes, at: int, sequence: int) -> bool:
    if at + SECTOR > len(entry):
        return False
    magic, high, low = _DATA_SECTOR.unpack_from(entry, at)
    return bool(magic == b"data" and high << 32 | low == sequence)
