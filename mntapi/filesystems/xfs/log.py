"""The log: a ring of sectors, and the records in it that count, from the oldest that was not written back to the newest.

Each sector begins with the number of the round in which it was written; its own four bytes are kept in the header of its
record. So the newest sector (the head) is found by halving. The newest record says which is the oldest that counts (the tail).

Source: XFS Algorithms & Data Structures, chapter "Journaling Log"; Linux fs/xfs/libxfs/xfs_log_format.h;
fs/xfs/xfs_log_recover.c ``xlog_find_head``, ``xlog_find_tail``, ``xlog_verify_head``, ``xlog_verify_tail``;
fs/xfs/xfs_log.c ``xlog_cksum``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.superblock import Superblock
from mntapi.types import Blocks
from mntapi.units import KIB, MIB, SECTOR

MAGIC = b"\xfe\xed\xba\xbe"
MAX_REPLAYED = 256 * MIB
"""Bytes between tail and head. mkfs.xfs makes logs of up to 2 GiB, most of which is written back while a guest runs."""
MAX_RECORDS = 1 << 17
"""Between tail and head."""
IN_FLIGHT = 8
"""Records that may have been on their way at the same time (``XLOG_MAX_ICLOGS``)."""
MAX_RECORD = 256 * KIB
_WINDOW = IN_FLIGHT * MAX_RECORD // SECTOR
"""Sectors before the newest among which there may be some that were not written yet."""
_LOOK_BACK = 2 * _WINDOW
"""Sectors in which the headers of those records are, and of some before them."""
_HEADER = struct.Struct(">4s4x2I2QI4xI256xI16sI")
_CHECKSUM_AT = 32
_CYCLES_AT = 44
_CYCLES = 64
"""Sectors of whose contents one header sector keeps the first bytes."""
_HEADER_SIZES = (328, 324)
"""What the checksum covers of a header: that of a 64-bit machine, and that of a 32-bit one."""
_COVERED = _CYCLES * SECTOR
_SECTOR_MASK = 0xFFFFFFFF
_MORE_SIZE = 4 + 4 * _CYCLES
_LITTLE_ENDIAN = 1
_UNMOUNT = 0x20
_FLAGS_AT = 9


@dataclass(frozen=True, slots=True)
class Record:
    """One record. ``sector`` is that of its header in the log; ``lsn`` its round and sector, which order records by time."""

    sector: int
    headers: int
    length: int
    """Bytes of its contents."""
    lsn: int
    tail: int
    """Sector of the oldest record that counts when this one is the newest."""
    operations: int
    checksum: int
    """0 if it has none."""
    format: int
    uuid: bytes

    @property
    def sectors(self) -> int:
        """Of headers and contents."""
        return self.headers + -(-self.length // SECTOR)


class Log:
    """The records of the log of a file system. Borrows the volume.

    Raises:
        Unsupported: the log is on another device.
        Corrupt: it lies outside the volume.
    """

    def __init__(self, volume: Blocks, superblock: Superblock) -> None:
        at = superblock.block_at(superblock.log_start, superblock.log_blocks)
        if not superblock.log_blocks:
            raise Unsupported("it is on another device", reason="log-device")
        size = superblock.log_blocks * superblock.block_size
        if not at or at + size > volume.size:
            raise Corrupt("it lies outside the volume", expected=f"at most {volume.size}", found=f"{size} bytes at {at}")
        self._volume = volume
        self._at = at
        self._count = size // SECTOR
        self._uuid = superblock.volume_uuid
        self._is_checked = superblock.version == 5

    def records(self) -> list[Record]:
        """Those to be replayed, the oldest first; none after an unmount.

        Raises:
            Corrupt, ReadFailed: a record that counts is damaged.
            Unsupported: they are too long, or of a machine with another byte order.
        """
        head = self._head()
        if head is None:
            return []
        head, newest = self._whole(head)
        if self._is_unmount(newest) or newest.tail == head:
            return []
        records = self._from_tail(newest.tail, head, IN_FLIGHT * newest.headers * _CYCLES)
        for record in records:
            if record.uuid != self._uuid:
                raise self._damaged("is another file system's", record.sector)
            if self._is_checked and not record.checksum:
                raise self._damaged("has no checksum", record.sector)
            if record.format != _LITTLE_ENDIAN:
                raise Unsupported("it was written by a machine of another byte order", found=record.format, reason="log-format")
        return records

    def contents(self, record: Record) -> bytes:
        """What is in a record, the first four bytes of each sector back in their place."""
        headers = self._read(record.sector, record.headers)
        stamps = b"".join(headers[at : at + 4 * _CYCLES] for at in (_CYCLES_AT, *range(SECTOR + 4, len(headers), SECTOR)))
        raw = bytearray(self._read(record.sector + record.headers, record.sectors - record.headers))
        for byte in range(4):
            raw[byte::SECTOR] = stamps[byte : 4 * (len(raw) // SECTOR) : 4]
        return bytes(raw[: record.length])

    def _read(self, sector: int, count: int) -> bytes:
        """``count`` sectors, which may go on at the start of the ring."""
        sector %= self._count
        first = min(count, self._count - sector)
        raw = read(self._volume, self._at + sector * SECTOR, first * SECTOR)
        return raw + (read(self._volume, self._at, (count - first) * SECTOR) if first < count else b"")

    def _distance(self, start: int, end: int) -> int:
        """Sectors from one to the other; a whole round where they are the same."""
        return (end - start - 1) % self._count + 1

    def _damaged(self, what: str, sector: int) -> Corrupt:
        return Corrupt(f"a record {what}", offset=self._at + sector % self._count * SECTOR)

    def _head(self) -> int | None:
        """The sector behind the newest. None if nothing was ever written."""
        first, last = (_round(self._read(sector, 1)) for sector in (0, self._count - 1))
        if not first:
            return None
        end = self._count if first == last else self._first_of(last)
        start = end - min(_WINDOW, self._count if last else end)
        raw = self._read(start, end - start)
        for sector in range(start, end):
            at = (sector - start) * SECTOR
            if _round(raw[at : at + 8]) < (first if sector >= 0 else last):
                return sector % self._count
        return end % self._count

    def _first_of(self, last: int) -> int:
        """The first sector of the round ``last``, which is that of the ring's last sector and not of its first."""
        low, high = 0, self._count - 1
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _round(self._read(middle, 1)) == last else (middle, high)
        return high

    def _before(self, head: int) -> list[int]:
        """Sectors of the headers in the last part before ``head``, the newest first; they may be less than 0."""
        count = min(_LOOK_BACK, self._count)
        raw = self._read(head - count, count)
        return [head - count + index for index in range(count - 1, -1, -1) if raw.startswith(MAGIC, index * SECTOR)]

    def _whole(self, head: int) -> tuple[int, Record]:
        """The head without records that were not written whole, and the newest before it."""
        headers = self._before(head)
        newest = self._record(headers[0]) if headers else None
        if headers and (newest is None or newest.sectors != head - headers[0]):
            head = headers.pop(0)
            newest = self._record(headers[0]) if headers else None
        reach = self._distance(newest.tail, head) if newest else 0
        in_flight = [sector for sector in headers[:IN_FLIGHT] if head - sector <= reach] or headers[:1]
        sector = in_flight[-1] if in_flight else head
        while sector < head:
            record = self._record(sector)
            if record is None or not self._is_sound(record):
                head = sector
                newest = next((self._record(older) for older in headers if older < head), None)
            else:
                sector += record.sectors
        if newest is None:
            raise self._damaged("is alone, and not whole", head)
        return head % self._count, newest

    def _from_tail(self, tail: int, head: int, reach: int) -> list[Record]:
        """All from ``tail`` on. Those less than ``reach`` sectors behind ``head`` may have been overwritten by what was on its
        way; then those after them count."""
        records: list[Record] = []
        left, total = self._distance(tail, head), 0
        while left > 0:
            sector = head - left
            record = self._record(sector)
            if record is not None and record.sectors <= left and self._is_sound(record):
                records.append(record)
                left -= record.sectors
                total += record.length
            elif self._distance(head, sector) <= reach:
                records.clear()
                left -= 1
            else:
                raise self._damaged("that counts is damaged", sector)
            if total > MAX_REPLAYED or len(records) > MAX_RECORDS:
                raise Unsupported("too much is to be replayed", expected=f"at most {MAX_REPLAYED} bytes", reason="log-size")
        return records

    def _record(self, sector: int) -> Record | None:
        """The record whose header is in this sector; None if none is, or its numbers are impossible."""
        raw = self._read(sector, 1)
        magic, version, length, lsn, tail, checksum, operations, form, uuid, size = _HEADER.unpack_from(raw)
        headers = max(1, -(-size // _COVERED)) if version == 2 else 1
        is_possible = version in (1, 2) and headers <= MAX_RECORD // _COVERED and 0 < length <= headers * _COVERED
        if magic != MAGIC or not is_possible or tail & _SECTOR_MASK >= self._count:
            return None
        return Record(sector % self._count, headers, length, lsn, tail & _SECTOR_MASK, operations, checksum, form, uuid)

    def _is_sound(self, record: Record) -> bool:
        """Whether its checksum is right, or absent: mkfs.xfs and old kernels make none."""
        if not record.checksum:
            return True
        raw = self._read(record.sector, record.sectors)
        stored = raw[_CHECKSUM_AT : _CHECKSUM_AT + 4]
        rest = raw[record.headers * SECTOR :][: record.length]
        more = b"".join(raw[at : at + _MORE_SIZE] for at in range(SECTOR, -(-record.length // _COVERED) * SECTOR, SECTOR))
        for size in _HEADER_SIZES:
            head = raw[:_CHECKSUM_AT] + bytes(4) + raw[_CHECKSUM_AT + 4 : size]
            if crc32c(head + more + rest) == int.from_bytes(stored, "little"):
                return True
        return False

    def _is_unmount(self, record: Record) -> bool:
        return record.operations == 1 and bool(self.contents(record)[_FLAGS_AT] & _UNMOUNT)


def _round(sector: bytes) -> int:
    """The round in which a sector was written, from its first bytes."""
    return int.from_bytes(sector[4:8] if sector.startswith(MAGIC) else sector[:4], "big")
