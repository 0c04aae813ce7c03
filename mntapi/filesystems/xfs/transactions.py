"""Transactions: what the records of a log hold, put together. Each is a list of items; an item is a list of regions, of which
the first says what it is.

A region may be cut where a record ends, and goes on in the next. What is in regions is in the byte order of the machine that
wrote it, what is around them is big-endian. Only transactions with a commit count.

Source: XFS Algorithms & Data Structures, chapter "Journaling Log"; Linux fs/xfs/libxfs/xfs_log_format.h;
fs/xfs/xfs_log_recover.c ``xlog_recover_process_data``, ``xlog_recover_add_to_trans``, ``xlog_recover_reorder_trans``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mntapi.errors import Corrupt, Unsupported
from mntapi.filesystems.xfs.log import Log, Record
from mntapi.units import MIB

MAX_OPERATIONS = 1 << 20
"""Regions in all records: what a log of 128 MiB has that is full of changes of single inodes. They take 10 s."""
MAX_OPEN = 160 * MIB
"""Bytes that transactions take whose commit did not come yet; Linux logs up to 32 MiB in one, in small pieces."""
MAX_REGIONS = 257
"""Of one item."""
_OPERATION = struct.Struct(">2I2B2x")
_START, _COMMIT, _CONTINUES = 0x1, 0x2, 0x8
_CLIENTS = (0x69, 0xAA)
_HEAD_SIZE = 16
_HEAD_MAGIC = b"NART"
_HEAD = struct.Struct("<2H")
_COST = 200
"""Bytes of memory for each region beside its own."""


Region = bytes | bytearray


class Item:
    """One change: its regions, of which there will be ``count``. ``kind``: see ``items.Kind``."""

    __slots__ = ("count", "kind", "regions")

    def __init__(self, first: bytes) -> None:
        if len(first) < _HEAD.size:
            raise Corrupt("an item of the log is cut off", found=f"{len(first)} bytes")
        self.kind: int
        self.count: int
        self.kind, self.count = _HEAD.unpack_from(first)
        self.regions: list[Region] = [first]
        if not 0 < self.count <= MAX_REGIONS:
            raise Corrupt("an impossible item of the log", expected=f"1 to {MAX_REGIONS} regions", found=self.count)


@dataclass(slots=True)
class Transaction:
    """``lsn``: round and sector of the record in which it began."""

    lsn: int
    items: list[Item] = field(default_factory=list)
    size: int = 600
    """Bytes of memory it takes."""
    _head: bytearray = field(default_factory=bytearray)

    def add(self, content: bytes) -> None:
        """One more region. Raises Corrupt where there is none."""
        items = self.items
        if len(self._head) < _HEAD_SIZE:
            self._head += content
            if len(self._head) > _HEAD_SIZE or not self._head.startswith(_HEAD_MAGIC[: len(self._head)]):
                raise Corrupt("a transaction of the log has no header", found=bytes(self._head[:4]).hex())
        elif items and len(items[-1].regions) < items[-1].count:
            items[-1].regions.append(content)
        else:
            items.append(Item(content))

    def add_more(self, content: bytes) -> None:
        """More of the last region, or of the header. Raises Corrupt where there is none."""
        if len(self._head) < _HEAD_SIZE:
            self.add(content)
        elif self.items:
            regions = self.items[-1].regions
            if isinstance(regions[-1], bytes):  # so that many pieces are not copied again and again
                regions[-1] = bytearray(regions[-1])
            regions[-1] += content
        else:
            raise Corrupt("a region of the log goes on that never began")


def committed(log: Log, records: Sequence[Record]) -> Iterator[Transaction]:
    """The transactions that have a commit, in the order of their commits.

    Raises:
        Corrupt: what is in a record does not fit together.
        Unsupported: it is too much to be kept.
    """
    return _Assembly(log).transactions(records)


class _Assembly:
    """Puts transactions together; ``_open`` are those without a commit so far, by their number."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[int, Transaction] = {}
        self._size = self._operations = 0

    def transactions(self, records: Sequence[Record]) -> Iterator[Transaction]:
        for record in records:
            self._operations += record.operations
            if self._operations > MAX_OPERATIONS:
                raise Unsupported("the log has too many changes", expected=f"at most {MAX_OPERATIONS}", reason="log-size")
            yield from self._in_record(record, self._log.contents(record))

    def _in_record(self, record: Record, raw: bytes) -> Iterator[Transaction]:
        at = 0
        for _ in range(record.operations):
            if at >= len(raw):
                return
            if at + _OPERATION.size > len(raw):
                raise Corrupt("a record of the log is cut off", found=f"sector {record.sector}")
            number, length, client, flags = _OPERATION.unpack_from(raw, at)
            at += _OPERATION.size
            if client not in _CLIENTS or at + length > len(raw):
                raise Corrupt("an impossible region of the log", found=f"sector {record.sector}, {length} bytes")
            transaction = self._open.get(number)
            if flags & _COMMIT and transaction is not None:
                self._size -= transaction.size
                yield self._open.pop(number)
            elif flags & _START:
                if transaction is not None:
                    raise Corrupt("a transaction of the log begins twice", found=f"sector {record.sector}")
                transaction = self._open[number] = Transaction(record.lsn)
                self._size += transaction.size
            elif transaction is not None and length:
                content = raw[at : at + length]
                if flags & _CONTINUES:
                    transaction.add_more(content)
                else:
                    transaction.add(content)
                transaction.size += length + _COST
                self._size += length + _COST
            at += length
        if self._size > MAX_OPEN:
            raise Unsupported(
                "the log has a transaction that is too large", expected=f"at most {MAX_OPEN} bytes", reason="log-size"
            )
