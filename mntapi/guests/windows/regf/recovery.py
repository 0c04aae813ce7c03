"""A hive with its transaction logs applied, in memory: where a log has newer content, it is read from there.

Which entries apply: those whose numbers follow the last completed write without a gap, from whichever log. Where the hive's
own base block is damaged, a log's stands in, and the entries that lead up to the newest without a gap apply: applying one again
that the hive already has does no harm, for every later one follows.

Source: "Windows registry file format specification", sections "Log entries" and "Dirty state of a hive". Not done: Windows
looks at the hive bins of an old log and stops at a damaged one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mntapi.blocks import check_range, read_clipped, whole
from mntapi.errors import Corrupt, MntapiError
from mntapi.guests.windows.regf.base import BINS_START, PRIMARY, Base, parse_base
from mntapi.guests.windows.regf.log import MAX_REPLAY, Entry, Log, Page, entries, entry_pages, open_log, vector_pages
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import SECTOR

_TIMESTAMP_AT = BINS_START + 20
"""Of the first hive bin: a copy of the base block's time."""


class Replayed:
    """The hive, its sectors replaced by those in logs. Borrows all of them.

    Args:
        primary: the hive as it is.
        sectors: by number, from the start of the hive: which log has it, and at which byte.
        size: bytes the hive has with the logs applied. What neither it nor a log has raises Corrupt.
    """

    sector_size = SECTOR

    def __init__(self, primary: Blocks, sectors: Mapping[int, tuple[Blocks, int]], size: int) -> None:
        self.size = size
        self._primary = primary
        self._sectors = sectors

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        done = 0
        while done < len(buffer):
            number, skip = divmod(offset + done, SECTOR)
            length = min(SECTOR - skip, len(buffer) - done)
            place = self._sectors.get(number)
            if place is None:
                while number + 1 not in self._sectors and done + length < len(buffer):
                    number += 1
                    length = min(length + SECTOR, len(buffer) - done)
                self._read_primary(offset + done, buffer[done : done + length])
            else:
                place[0].readinto(place[1] + skip, buffer[done : done + length])
            done += length

    def _read_primary(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > self._primary.size:
            raise Corrupt("the hive is cut off", offset=self._primary.size, expected=f"{self.size} bytes")
        self._primary.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release: the files belong to somebody else."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """``content`` is the hive with what applies of its logs. ``applied`` counts the log entries; ``doubt`` says why the newest
    changes may be missing, None where they are all there."""

    content: Blocks
    base: Base
    applied: int = 0
    doubt: str | None = None


def recover(primary: Blocks, logs: Sequence[Blocks]) -> Recovered:
    """The hive with its logs applied, as far as they apply.

    Raises:
        Corrupt, Unsupported: it is no hive that is read, and no log has a base block for it.
        MntapiError: it cannot be read.
    """
    head = _own_base(primary)
    own = head if isinstance(head, Base) else None
    if own is not None and not own.is_dirty:
        return Recovered(Replayed(primary, {}, BINS_START + own.bins_size), own)
    opened, notes = _open_logs(logs)
    found = _replay_new(primary, own, opened, notes) or _replay_old(primary, own, opened, notes)
    if found is not None:
        return found
    if isinstance(head, Corrupt):
        raise head
    notes.insert(0, "a write to it was not completed, and no transaction log tells the rest")
    return Recovered(Replayed(primary, {}, BINS_START + head.bins_size), head, doubt="; ".join(notes))


def _own_base(primary: Blocks) -> Base | Corrupt:
    """The hive's base block, or what is wrong with it: then a log may have another."""
    try:
        return parse_base(read_clipped(primary, 0, SECTOR))
    except Corrupt as error:
        return error


def _open_logs(logs: Sequence[Blocks]) -> tuple[list[Log], list[str]]:
    opened, notes = [], []
    for blocks in logs:
        try:
            log = open_log(blocks)
        except MntapiError as error:
            notes.append(f"a log is not used: {error}")
            continue
        if log is not None:
            opened.append(log)
    return opened, notes


def _replay_new(primary: Blocks, own: Base | None, logs: Sequence[Log], notes: list[str]) -> Recovered | None:
    """The hive with the entries of new logs applied; None if none applies."""
    found: dict[int, tuple[Log, Entry]] = {}
    for log in logs:
        if not log.is_old:
            for entry in entries(log):
                found.setdefault(entry.sequence, (log, entry))
    start = own.secondary_sequence if own else _first_of_newest(found)
    base = own or max((log.base for log in logs if not log.is_old), key=lambda base: base.primary_sequence, default=None)
    if base is None or start not in found:
        return None
    sectors: dict[int, tuple[Blocks, int]] = {}
    number, budget, bins_size = start, MAX_REPLAY, base.bins_size
    while number in found:
        log, entry = found[number]
        budget -= entry.size
        if budget < 0:
            notes.append(f"more than {MAX_REPLAY} bytes of the logs: the entries from {number} on are not applied")
            break
        try:
            pages = entry_pages(log, entry)
        except MntapiError as error:
            notes.append(f"the log ends at entry {number}: {error}")
            break
        _paint(sectors, log.blocks, pages)
        bins_size, number = entry.bins_size, (number + 1) & 0xFFFFFFFF
    if number == start:
        return None
    base = replace(base, primary_sequence=number, secondary_sequence=number, bins_size=bins_size, file_type=PRIMARY)
    content = Replayed(primary, sectors, BINS_START + bins_size)
    return Recovered(content, base, number - start, "; ".join(notes) or None)


def _first_of_newest(sequences: Mapping[int, object]) -> int:
    """The first of the numbers that lead up to the highest without a gap; -1 if there is none."""
    number = max(sequences, default=-1)
    while number - 1 in sequences:
        number -= 1
    return number


def _replay_old(primary: Blocks, own: Base | None, logs: Sequence[Log], notes: list[str]) -> Recovered | None:
    """The hive with the old log applied that was written with it; None if there is none."""
    written = own.written if own else int.from_bytes(read_clipped(primary, _TIMESTAMP_AT, 8), "little")
    for log in logs:
        if not log.is_old or log.base.is_dirty or log.base.written != written:
            continue
        try:
            pages = vector_pages(log)
        except MntapiError as error:
            notes.append(f"a log is not used: {error}")
            continue
        sectors: dict[int, tuple[Blocks, int]] = {}
        _paint(sectors, log.blocks, pages)
        base = replace(own or log.base, bins_size=log.base.bins_size, file_type=PRIMARY)
        content = Replayed(primary, sectors, BINS_START + base.bins_size)
        return Recovered(content, base, 1, "; ".join(notes) or None)
    return None


def _paint(sectors: dict[int, tuple[Blocks, int]], log: Blocks, pages: Sequence[Page]) -> None:
    """Note where the log has which sectors of the hive."""
    for page in pages:
        first = (BINS_START + page.offset) // SECTOR
        for number in range(page.length // SECTOR):
            sectors[first + number] = (log, page.at + number * SECTOR)
