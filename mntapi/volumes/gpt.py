"""The GUID partition table: a header with checksums at the second sector, its copy in the last one.

It counts only where sector 0 says so (a protective or hybrid MBR), because tools for MBR disks leave an old GPT in place; where
sector 0 is unreadable or no boot record at all, a primary table with good checksums is proof enough. The backup is used where
the primary is damaged; if both are, the disk is listed as DAMAGED, and hybrid entries are not used in their place.

Source: UEFI Specification 2.10, section 5.3.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID
from zlib import crc32

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.types import Blocks, Volume
from mntapi.units import MIB, SECTOR
from mntapi.volumes.bootrecord import PROTECTIVE, has_magic, is_table, parse_record
from mntapi.volumes.partition import each_table, may_hold_table, partition

name = "gpt"

MAX_TABLE = 4 * MIB
"""Bytes of partition entries, 32768 of them: the limit of Linux on x86-64 (``KMALLOC_MAX_SIZE`` in block/partitions/efi.c)."""

_MAGIC = b"EFI PART"
_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_NO_TYPE = bytes(16)
_NIL = str(UUID(int=0))
_PRIMARY_LBA = 1
_ABSENT, _DAMAGED = "gpt-absent", "gpt-damaged"
"""Reasons of what is wrong with the table itself; an error with any other reason comes from below."""


def claims(volume: Volume) -> bool:
    """Whether it has a usable GPT.

    Raises:
        Corrupt: a protective MBR says there is one, and neither the primary nor the backup can be used.
        MntapiError: sector 0 cannot be read, and no GPT follows it.
    """
    return may_hold_table(volume) and find_table(volume.blocks) is not None


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """The partitions of all, disk by disk."""
    return each_table(claimed, _partitions)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. LBAs count sectors from the start of the disk; ``entry_size`` is in bytes."""

    alternate_lba: int
    disk_guid: str
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int

    @property
    def table_size(self) -> int:
        """Bytes of all entries."""
        return self.entry_count * self.entry_size


@dataclass(frozen=True, slots=True)
class Entry:
    """A partition. ``number`` is its place in the table from 1; both LBAs are inclusive."""

    number: int
    type_guid: str
    guid: str
    first_lba: int
    last_lba: int
    label: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose checksums are right, its entries still as stored. ``damage`` says why it had to be the backup."""

    header: Header
    sector_size: int
    entries: bytes
    damage: str | None = None


def parse_header(sector: bytes, lba: int) -> Header:
    """The header in a whole sector read from ``lba``; offsets in its errors are from the start of the sector.

    Raises:
        Corrupt: it is none, or its checksum, place or numbers are wrong.
        Unsupported: its entries are more than ``MAX_TABLE``.
    """
    if not sector.startswith(_MAGIC):
        found = sector[: len(_MAGIC)].hex(" ") or "nothing"
        raise Corrupt("no GPT header", offset=0, expected=_MAGIC.hex(" "), found=found, reason=_ABSENT)
    if len(sector) < _HEADER.size:
        raise Corrupt("the GPT header is cut off", offset=len(sector), reason=_DAMAGED)
    fields = _HEADER.unpack_from(sector)
    _, _, size, crc, _, my_lba, alternate_lba, _, _, disk_guid, entries_lba, entry_count, entry_size, entries_crc = fields
    if not _HEADER.size <= size <= len(sector):
        raise Corrupt(
            "the size of the GPT header is wrong", offset=12, expected=f"92 to {len(sector)}", found=size, reason=_DAMAGED
        )
    _check_crc("the GPT header", sector[:16] + bytes(4) + sector[20:size], crc, offset=16)
    if my_lba != lba:
        raise Corrupt("the GPT header belongs to another sector", offset=24, expected=lba, found=my_lba, reason=_DAMAGED)
    if not 128 <= entry_size <= 4096 or entry_size.bit_count() != 1:
        raise Corrupt(
            "the size of a GPT entry is wrong", offset=84, expected="128, 256 ... 4096", found=entry_size, reason=_DAMAGED
        )
    if entry_count * entry_size > MAX_TABLE:
        raise Unsupported(
            "too many GPT entries", offset=80, expected=f"at most {MAX_TABLE // entry_size}", found=entry_count, reason=_DAMAGED
        )
    return Header(alternate_lba, _guid(disk_guid), entries_lba, entry_count, entry_size, entries_crc)


def parse_entries(table: bytes, entry_size: int) -> Iterator[Entry]:
    """The entries in use; ``table`` holds whole entries of ``entry_size`` bytes."""
    for number, offset in enumerate(range(0, len(table), entry_size), 1):
        kind, guid, first_lba, last_lba, _, label = _ENTRY.unpack_from(table, offset)
        if kind != _NO_TYPE:
            text = label.decode("utf-16-le", "replace").partition("\0")[0]
            yield Entry(number, _guid(kind), _guid(guid), first_lba, last_lba, text)


def find_table(blocks: Blocks) -> Table | None:
    """The GPT of a disk; None if it has none.

    Raises:
        Corrupt: there should be one, and both copies are damaged.
        MntapiError: sector 0 cannot be read, and no GPT follows it.
    """
    try:
        sector = read_clipped(blocks, 0, SECTOR)
    except MntapiError as error:
        return _primary_without_mbr(blocks, error)
    if not has_magic(sector):
        return _primary_without_mbr(blocks)
    if not parse_record(sector).is_protective:
        return None
    failures: dict[tuple[int, int], MntapiError] = {}
    for lba, sector_size in _places(blocks, sector):
        try:
            table = _read_table(blocks, lba, sector_size)
        except MntapiError as error:
            failures[lba, sector_size] = error
            continue
        if lba == _PRIMARY_LBA:
            return table
        return replace(table, damage=f"from the backup GPT at sector {lba}: {failures[_PRIMARY_LBA, sector_size]}")
    if not is_table(sector):
        return None  # the boot sector of a file system with EE where a table has a type
    raise Corrupt("the MBR announces a GPT, and no copy of it can be used: " + _told(failures.values()), reason=_DAMAGED)


def _told(failures: Collection[MntapiError]) -> str:
    """The failures in one line; that a place holds no header is worth telling only if none of them holds one."""
    telling = [str(error) for error in failures if error.reason != _ABSENT] or [str(error) for error in failures][:1]
    return "; ".join(dict.fromkeys(telling))


def _sector_sizes(blocks: Blocks) -> list[int]:
    """The sector sizes to try: the table counts in sectors without saying how large they are, and a raw file does not know."""
    return list(dict.fromkeys((blocks.sector_size, 512, 4096)))


def _primary_without_mbr(blocks: Blocks, trouble: MntapiError | None = None) -> Table | None:
    """The primary table, if it is without fault. If not, ``trouble`` is raised, or what reading where it should be raised."""
    for sector_size in _sector_sizes(blocks):
        try:
            return _read_table(blocks, _PRIMARY_LBA, sector_size)
        except MntapiError as error:
            if error.reason not in (_ABSENT, _DAMAGED) and sector_size == blocks.sector_size:
                trouble = trouble or error
    if trouble is not None:
        raise trouble
    return None


def _places(blocks: Blocks, mbr: bytes) -> Iterator[tuple[int, int]]:
    """Where a header may be, as (LBA, sector size): the primary, where it or the MBR say the disk ends, where it does end.

    A disk that grew has its backup not at its end but where the primary says, damaged as that may be, or the MBR.
    """
    sizes = _sector_sizes(blocks)
    yield from ((_PRIMARY_LBA, size) for size in sizes)
    told = [entry.first_sector + entry.sector_count - 1 for entry in parse_record(mbr).entries if entry.type == PROTECTIVE]
    for size in sizes:
        ends = dict.fromkeys([*_told_by_primary(blocks, size), *told, blocks.size // size - 1])
        yield from ((lba, size) for lba in ends if _PRIMARY_LBA < lba < blocks.size // size)


def _told_by_primary(blocks: Blocks, sector_size: int) -> list[int]:
    try:
        sector = read_clipped(blocks, _PRIMARY_LBA * sector_size, _HEADER.size)
    except MntapiError:
        return []  # the failure is already on the list: reading the primary came first
    return [_HEADER.unpack(sector)[6]] if sector.startswith(_MAGIC) and len(sector) == _HEADER.size else []


def _read_table(blocks: Blocks, lba: int, sector_size: int) -> Table:
    offset = lba * sector_size
    sector = read_clipped(blocks, offset, sector_size)
    try:
        header = parse_header(sector, lba)
    except MntapiError as error:
        raise error.located(base=offset) from error.__cause__
    start = header.entries_lba * sector_size
    if start + header.table_size > blocks.size:
        raise Corrupt("the GPT entries are past the end of the disk", offset=offset + 72, found=start, reason=_DAMAGED)
    table = read(blocks, start, header.table_size)
    _check_crc("the GPT entries", table, header.entries_crc, offset=start)
    return Table(header, sector_size, table)


def _check_crc(what: str, data: bytes, expected: int, *, offset: int) -> None:
    found = crc32(data)
    if found != expected:
        raise Corrupt(
            f"the checksum of {what} is wrong", offset=offset, expected=f"{expected:08x}", found=f"{found:08x}", reason=_DAMAGED
        )


def _guid(stored: bytes) -> str:
    """A GUID as text. The first three fields are little-endian (RFC 9562, section 4 tells of both orders)."""
    return str(UUID(bytes_le=stored))


def _partitions(container: Volume) -> Iterator[Volume]:
    table = find_table(container.blocks)
    if table is None:
        raise Corrupt("the GPT is no longer there", offset=0, reason="changed")
    entries = list(parse_entries(table.entries, table.header.entry_size))
    times = Counter(entry.guid for entry in entries)
    for entry in entries:
        is_own = times[entry.guid] == 1 and entry.guid != _NIL
        yield partition(
            container,
            entry.number,
            entry.first_lba * table.sector_size,
            (entry.last_lba - entry.first_lba + 1) * table.sector_size,
            key=f"gpt:{entry.guid}" if is_own else f"gpt:{entry.guid}-p{entry.number}",
            type_code=entry.type_guid,
            label=entry.label or None,
            reason=table.damage,
        )
