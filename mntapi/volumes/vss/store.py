"""The store of one shadow copy: which blocks of the volume it holds, and which were not in use when the copy was made."""

from __future__ import annotations

import re
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.volumes.vss.structures import (
    BITMAP,
    BLOCK,
    DESCRIPTORS,
    FORWARDER,
    OVERLAY,
    Copy,
    Descriptor,
    Place,
    parse_block,
    parse_descriptors,
)

MAX_DESCRIPTORS = 2 << 20
"""In one store: 32 GiB of changes."""
_DESCRIPTORS_A_BLOCK = 508
_BITS_A_BLOCK = (BLOCK - 128) * 8
_FORWARD = 1
"""In a target, whose lowest bits are zero otherwise: it is where the block was moved to."""
_GONE = 2
"""Instead of a target, likewise: the block is as it was."""
_POSITION_BITS = MAX_DESCRIPTORS.bit_length()
_POSITION = (1 << _POSITION_BITS) - 1
_NO_MORE = 1 << 62
_CHANGE = {0: re.compile(b"[^\x00]"), 1: re.compile(b"[^\xff]")}


@dataclass(frozen=True, slots=True)
class Table:
    """What a store holds, by number of the block. Targets are offsets in bytes: on the storage, or on the volume if
    ``is_forward``."""

    blocks: array[int]
    targets: array[int]
    overlaid: array[int]
    """The blocks with overlays, as often as they have some; the next two go with it."""
    overlays: array[int]
    """Offsets on the storage."""
    sectors: array[int]
    """The sectors that are in the overlay, as bits."""
    unused: bytes
    """One bit a block; what it does not reach was in use. Empty where what was not in use reads as it is now."""

    def find(self, block: int) -> tuple[int | None, int]:
        """The target of the block or None, and the next block that has one."""
        index = bisect_left(self.blocks, block)
        if index == len(self.blocks):
            return None, _NO_MORE
        found = self.blocks[index]
        return (self.targets[index] if found == block else None), found

    def next_overlay(self, block: int) -> int:
        """The first block from this one on that has an overlay."""
        index = bisect_left(self.overlaid, block)
        return self.overlaid[index] if index < len(self.overlaid) else _NO_MORE

    def overlays_of(self, block: int) -> list[tuple[int, int]]:
        """The overlays of a block: (offset on the storage, sectors as bits), the later ones on top."""
        part = slice(bisect_left(self.overlaid, block), bisect_right(self.overlaid, block))
        return list(zip(self.overlays[part], self.sectors[part], strict=True))

    def unused_run(self, block: int) -> tuple[bool, int]:
        """Whether the block was not in use, and up to which block that is so (exclusive)."""
        if block >= len(self.unused) * 8:
            return False, _NO_MORE
        state = self.unused[block // 8] >> block % 8 & 1
        while block % 8 and self.unused[block // 8] >> block % 8 & 1 == state:
            block += 1
        if block % 8 or block == len(self.unused) * 8:
            return bool(state), block
        match = _CHANGE[state].search(self.unused, block // 8)
        if match is None:
            return bool(state), len(self.unused) * 8
        block, changed = match.start() * 8, match.group()[0] ^ (0xFF if state else 0)
        return bool(state), block + (changed & -changed).bit_length() - 1


def is_forward(target: int) -> bool:
    """Whether a target is a place on the volume."""
    return bool(target & _FORWARD)


@dataclass(slots=True)
class Store:
    """The store of a copy on ``storage``. Its table is read when it is first needed, and kept; so is that it is damaged."""

    copy: Copy
    place: Place
    storage: Blocks
    used: set[int]
    """Blocks of metadata of all stores on this storage that were read so far: no two share one."""
    _table: Table | Corrupt | Unsupported | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def table(self) -> Table:
        """Its table.

        Raises:
            Corrupt: a chain of blocks is broken.
            Unsupported: the store is too large.
            MntapiError: it cannot be read.
        """
        with self._lock:
            if self._table is None:
                try:
                    self._table = _load(self)
                except (Corrupt, Unsupported) as error:
                    self._table = error
        if isinstance(self._table, Table):
            return self._table
        raise self._table.with_traceback(None)


def _load(store: Store) -> Table:
    read: set[int] = set()
    log = _replay(_descriptors(store, read))
    unused = b""
    if store.copy.zero_fills:
        unused = _bitmap(store, store.place.bitmap, read)
        if store.place.previous_bitmap:
            unused = _both(unused, _bitmap(store, store.place.previous_bitmap, read))
    store.used.update(read)
    last = _last_of_each(log.blocks, log.targets)
    order = _by_block(log.overlaid)
    return Table(
        blocks=array("Q", map(log.blocks.__getitem__, last)),
        targets=array("Q", map(log.targets.__getitem__, last)),
        overlaid=array("Q", map(log.overlaid.__getitem__, order)),
        overlays=array("Q", map(log.overlays.__getitem__, order)),
        sectors=array("I", map(log.sectors.__getitem__, order)),
        unused=unused,
    )


class _Log(NamedTuple):
    """What the descriptors of a store amount to, in the order they were written: a later target of a block replaces an earlier
    one, ``_GONE`` takes it away. In arrays: there may be millions."""

    blocks: array[int]
    targets: array[int]
    overlaid: array[int]
    overlays: array[int]
    sectors: array[int]


def _by_block(blocks: array[int]) -> list[int]:
    """Positions in ``blocks``, ordered by what is there; where it is the same, by position."""
    order = sorted([block << _POSITION_BITS | at for at, block in enumerate(blocks)])
    return [both & _POSITION for both in order]


def _last_of_each(blocks: array[int], targets: array[int]) -> array[int]:
    """The last position of each block, in the order of the blocks, without those that were taken away."""
    order = array("Q", _by_block(blocks))
    kept = [at for at, following in pairwise(order) if blocks[at] != blocks[following]]
    return array("Q", [at for at in (*kept, *order[-1:]) if targets[at] != _GONE])


def _replay(descriptors: Iterable[Descriptor]) -> _Log:
    """What the descriptors amount to.

    A block that was moved (defragmentation) is not saved: a forwarder says where it is now. When what is there is saved or
    moved later, that descriptor is for the block that was moved there. One that was moved back home needs none any more
    (libvshadow keeps the outdated forwarder then), and one that was moved to where it was is as before.
    """
    log = _Log(array("Q"), array("Q"), array("Q"), array("Q"), array("I"))
    moved: dict[int, int] = {}
    for original, forward, stored, flags, sectors in descriptors:
        block = original // BLOCK
        if flags & OVERLAY:
            log.overlaid.append(block)
            log.overlays.append(stored)
            log.sectors.append(sectors)
            continue
        was_moved = block in moved
        block = moved.pop(block, block)
        target = stored
        if flags & FORWARDER:
            target = forward | _FORWARD
            if forward // BLOCK != block:
                moved[forward // BLOCK] = block
            elif was_moved:
                target = _GONE
            else:
                continue
        log.blocks.append(block)
        log.targets.append(target)
    return log


def _descriptors(store: Store, read: set[int]) -> Iterator[Descriptor]:
    limit = MAX_DESCRIPTORS // _DESCRIPTORS_A_BLOCK
    for at, content in _chain(store, store.place.descriptors, DESCRIPTORS, limit, read):
        yield from parse_descriptors(content, at)


def _bitmap(store: Store, first: int, read: set[int]) -> bytes:
    """A bitmap of the whole volume; what it does not reach is in use."""
    limit = -(-store.copy.size // BLOCK // _BITS_A_BLOCK) + 1
    return b"".join(content for _, content in _chain(store, first, BITMAP, limit, read))


def _both(one: bytes, other: bytes) -> bytes:
    length = min(len(one), len(other))
    both = int.from_bytes(one[:length], "little") & int.from_bytes(other[:length], "little")
    return both.to_bytes(length, "little")


def _chain(store: Store, first: int, record: int, limit: int, read: set[int]) -> Iterator[tuple[int, bytes]]:
    """As ``chain``; adds to ``read`` what it read."""
    for at, content in chain(store.storage, first, record, limit):
        if at in store.used:
            raise Corrupt("vss: two stores share a block of metadata", offset=at, reason="vss-loop")
        read.add(at)
        yield at, content


def chain(storage: Blocks, first: int, record: int, limit: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of a chain, each with its offset; their headers are taken off.

    Raises:
        Corrupt: a block is not what the chain says, or the chain goes in circles.
        Unsupported: it has more than ``limit`` blocks.
    """
    at, seen = first, set[int]()
    while at:
        if at in seen:
            raise Corrupt("vss: a chain of blocks goes in circles", offset=at, reason="vss-loop")
        if len(seen) == limit:
            raise Unsupported(f"vss: a chain of more than {limit} blocks", offset=at, reason="vss-too-large")
        seen.add(at)
        following, content = parse_block(read_clipped(storage, at, BLOCK), record, at)
        yield at, content
        at = following
