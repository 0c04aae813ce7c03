"""Transaction logs: what was about to be written to a hive. Two formats: since Windows 8.1 entries one after the other, each
with checksums (``HvLE``); before that one bitmap of sectors and their new content (``DIRT``).

Source: "Windows registry file format specification", section "Format of transaction log files".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.guests.windows.regf.base import PAGE, Base, parse_base
from mntapi.guests.windows.regf.marvin32 import marvin32
from mntapi.types import Blocks
from mntapi.units import MIB, SECTOR, align_up

MAX_LOG = 64 * MIB
"""Bytes of a log that are looked at."""
MAX_REPLAY = 4 * MIB
"""Bytes of pages that are replayed: their checksums take 0.8 s. Entries behind that are not applied, which is told."""
MAX_ENTRIES = 16384
"""Entries of a log, old ones included."""

_ENTRY = struct.Struct("<4s5I")
_HASHES = struct.Struct("<QQ")
_HASHED = 32
ENTRY_SIZE = 40
_REFERENCE = struct.Struct("<2I")
_ENTRY_MAGIC = b"HvLE"
_VECTOR_MAGIC = b"DIRT"


class Page(NamedTuple):
    """New content of a range of the bins: ``length`` bytes from ``offset`` on, stored at byte ``at`` of the log."""

    offset: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class Entry:
    """The header of a log entry at byte ``at`` of its log; ``size`` and ``bins_size`` are in bytes."""

    at: int
    size: int
    sequence: int
    bins_size: int
    page_count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Log:
    """A log whose base block is sound."""

    blocks: Blocks
    base: Base
    is_old: bool


def open_log(blocks: Blocks) -> Log | None:
    """The log, or None if there is nothing in it.

    Raises:
        Corrupt: it is none, or its base block is damaged.
        MntapiError: it cannot be read.
    """
    head = read_clipped(blocks, 0, SECTOR)
    if not any(head):
        return None
    base = parse_base(head)
    magic = read_clipped(blocks, base.sector, 4)
    if magic not in (_ENTRY_MAGIC, _VECTOR_MAGIC):
        return None  # a log of which only the base block was written
    return Log(blocks, base, is_old=magic == _VECTOR_MAGIC)


def parse_entry(raw: bytes, at: int) -> Entry | None:
    """The header of a log entry in 40 bytes, or None if it is none, or was not written completely: the log ends there."""
    if len(raw) < ENTRY_SIZE or not raw.startswith(_ENTRY_MAGIC):
        return None
    _, size, _, sequence, bins_size, page_count = _ENTRY.unpack_from(raw)
    body, header = _HASHES.unpack_from(raw, _ENTRY.size)
    if header != marvin32(raw[:_HASHED]):
        return None
    if size % SECTOR or size < ENTRY_SIZE + page_count * _REFERENCE.size or bins_size % PAGE or not bins_size:
        return None
    return Entry(at, size, sequence, bins_size, page_count, body)


def entries(log: Log) -> Iterator[Entry]:
    """The headers of the entries of a new log, up to the first that is damaged. Raises what reading raises."""
    at, end = log.base.sector, min(log.blocks.size, MAX_LOG)
    for _ in range(MAX_ENTRIES):
        entry = parse_entry(read_clipped(log.blocks, at, ENTRY_SIZE), at)
        if entry is None or at + entry.size > end:
            return
        yield entry
        at += entry.size


def entry_pages(log: Log, entry: Entry) -> list[Page]:
    """The pages of an entry.

    Raises:
        Corrupt: its checksum is wrong, or a page lies outside the hive or the entry.
        MntapiError: it cannot be read.
    """
    body = read(log.blocks, entry.at + ENTRY_SIZE, entry.size - ENTRY_SIZE)
    found = marvin32(body)
    if found != entry.checksum:
        expected = f"{entry.checksum:016x}"
        raise Corrupt("the checksum of a log entry is wrong", offset=entry.at + 24, expected=expected, found=f"{found:016x}")
    pages, at = [], entry.at + ENTRY_SIZE + entry.page_count * _REFERENCE.size
    for number in range(entry.page_count):
        offset, length = _REFERENCE.unpack_from(body, number * _REFERENCE.size)
        where = entry.at + ENTRY_SIZE + number * _REFERENCE.size
        if not length or offset % SECTOR or length % SECTOR or offset + length > entry.bins_size:
            what = "a page of a log entry lies outside the hive"
            raise Corrupt(what, offset=where, expected=f"in {entry.bins_size} bytes", found=f"{length} at {offset}")
        if at + length > entry.at + entry.size:
            raise Corrupt("a page of a log entry lies outside the entry", offset=where, found=f"{length} bytes at {at}")
        pages.append(Page(offset, length, at))
        at += length
    return pages


def vector_pages(log: Log) -> list[Page]:
    """The pages of an old log.

    Raises:
        Corrupt: the log is shorter than its pages.
        Unsupported: they are more than ``MAX_REPLAY``.
        MntapiError: it cannot be read.
    """
    length = log.base.bins_size // SECTOR // 8
    start = log.base.sector + len(_VECTOR_MAGIC)
    bitmap = read(log.blocks, start, min(length, log.blocks.size - start))
    dirty = int.from_bytes(bitmap, "little").bit_count() * SECTOR
    at = align_up(start + length, log.base.sector)
    if at + dirty > log.blocks.size:
        expected = f"{at + dirty} bytes"
        raise Corrupt("a transaction log is cut off", offset=log.blocks.size, expected=expected, found=log.blocks.size)
    if dirty > MAX_REPLAY:
        raise Unsupported("a transaction log is too long", expected=f"at most {MAX_REPLAY} bytes of pages", found=dirty)
    return [Page(number * SECTOR, SECTOR, at + place * SECTOR) for place, number in enumerate(_ones(bitmap))]


def _ones(bitmap: bytes) -> Iterator[int]:
    """The numbers of the ones, the lowest bit of each byte first."""
    for index, byte in enumerate(bitmap):
        if byte:
            yield from (8 * index + bit for bit in range(8) if byte >> bit & 1)
