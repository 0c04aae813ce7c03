"""Whether anything in an XFS log is still to be replayed, by some twenty reads of a few bytes.

The log is a ring of sectors. Each begins with the number of the round in which it was written, so the place where the newest
round ends is found by halving; the last record before it tells the rest.

Source: XFS Algorithms & Data Structures, chapter "Journaling Log"; Linux fs/xfs/xfs_log_recover.c ``xlog_find_head``,
``xlog_check_unmount_rec``; fs/xfs/libxfs/xfs_log_format.h; fs/xfs/xfs_log.c "log covering".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mntapi.filesystems.signatures.source import Source
from mntapi.units import KIB, SECTOR

_MAGIC = 0xFEEDBABE
_HEADER = struct.Struct(">I4x2I2Q4x2I276xI")
_ROUND = struct.Struct(">2I")
_OPERATION = struct.Struct(">4xIxB2x")
_START, _COMMIT, _UNMOUNT = 0x1, 0x2, 0x20
_HEADER_STEP = 32 * KIB
"""Bytes of a record for which one header sector is enough."""
_LOOK_BACK = (8 * KIB, 288 * KIB)
"""Bytes before the end in which the last record's header is looked for: the usual, and the most there can be."""
_BUFFER = (b"\x3c\x12", b"\x12\x3c")
"""Type of a changed buffer (``XFS_LI_BUF``), in the byte order of the machine that wrote it."""


class _Record(NamedTuple):
    """What the header of a record says, and the first sector of its contents. ``lsn`` is round and sector."""

    lsn: int
    tail_lsn: int
    """Of the oldest record that must be replayed."""
    previous: int
    """Sector of the record before."""
    operations: int
    sectors: int
    """Of header and contents."""
    first: bytes

    def is_unmount(self) -> bool:
        """Whether it says that all before it is in its place."""
        return self.operations == 1 and bool(_OPERATION.unpack_from(self.first)[1] & _UNMOUNT)

    def is_covering(self) -> bool:
        """Whether it changes the superblock only: what freezing writes, after all else was put in its place."""
        raw, offset, found = self.first, 0, []
        for _ in range(5 if self.operations == 5 else 0):
            length, flags = _OPERATION.unpack_from(raw, offset) if offset + _OPERATION.size <= len(raw) else (0, 0)
            found.append((flags, raw[offset + _OPERATION.size : offset + _OPERATION.size + length]))
            offset += _OPERATION.size + length
        if [flags for flags, _ in found] != [_START, 0, 0, 0, _COMMIT]:
            return False
        buffer = found[2][1]
        return buffer[:2] in _BUFFER and buffer[8:16] == bytes(8)  # the disk's first sector


class Log:
    """A log of ``count`` sectors from byte ``start`` on."""

    def __init__(self, source: Source, start: int, count: int) -> None:
        self._source = source
        self._start = start
        self._count = count

    def is_clean(self) -> bool:
        """Whether it ends with an unmount or a freeze; no where that cannot be told."""
        first, last = (self._round(0), self._round(self._count - 1)) if self._count else (None, None)
        if first is None or last is None:
            return False
        if first == 0:
            return True  # never written
        end = self._count if first == last else self._first_of(last)
        at = self._last_record(end)
        record = None if at is None else self._record(at)
        if at is None or record is None or (at + record.sectors - end) % self._count:
            return False
        if record.is_unmount():
            return True
        before = self._record(record.previous)
        return bool(before and record.is_covering() and record.tail_lsn == before.lsn and before.is_covering())

    def _read(self, sector: int, count: int) -> bytes:
        return self._source.detail(self._start + sector * SECTOR, count * SECTOR)

    def _round(self, sector: int) -> int | None:
        raw = self._read(sector, 1)
        if len(raw) < SECTOR:
            return None
        first, second = _ROUND.unpack_from(raw)
        return int(second if first == _MAGIC else first)

    def _first_of(self, last: int) -> int:
        """The first sector of the round ``last``, which is the oldest: there the newest ends."""
        low, high = 0, self._count - 1
        while low + 1 < high:
            middle = (low + high) // 2
            if self._round(middle) == last:
                high = middle
            else:
                low = middle
        return high

    def _last_record(self, end: int) -> int | None:
        """The sector of the last header before ``end``, the log being a ring."""
        mark = struct.pack(">I", _MAGIC)
        for length in _LOOK_BACK:
            back = min(length // SECTOR, self._count)
            start = max(0, end - back)
            before = back - (end - start)
            raw = (self._read(self._count - before, before) if before else b"") + self._read(start, end - start)
            for index in range(len(raw) // SECTOR - 1, -1, -1):
                if raw.startswith(mark, index * SECTOR):
                    return (end - back + index) % self._count
        return None

    def _record(self, sector: int) -> _Record | None:
        """The record whose header is in this sector, if one is."""
        raw = self._read(sector, 1) if 0 <= sector < self._count else b""
        if len(raw) < SECTOR:
            return None
        magic, version, length, lsn, tail_lsn, previous, operations, size = _HEADER.unpack_from(raw)
        headers = -(-size // _HEADER_STEP) if version == 2 and size > _HEADER_STEP else 1
        first = self._read((sector + headers) % self._count, 1)
        if magic != _MAGIC or len(first) < SECTOR:
            return None
        sectors = headers + -(-length // SECTOR)
        return _Record(lsn, tail_lsn, previous, operations, sectors, first)
