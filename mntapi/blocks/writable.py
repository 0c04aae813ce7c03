"""Writing a volume: from its blocks, which lie on overlays, to the same bytes to be written.

The blocks of a volume are a tree: partitions, segments, stripes, copies, decryption; at the bottom are the disks. ``writable``
goes down that tree. Where bytes are stored as they are, in one place or in several, ``Spread`` writes them through the map
that reading uses; what is computed from them, ciphertext and parity, has a writer of its own beside its reader
(``Changeable``).

Always true: only overlays are written, as nothing else at the bottom of a tree is ``WritableBlocks``; a tree in which
anything is missing, or is not understood, is not written at all; reading through what is made here is reading as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn, Protocol, runtime_checkable

from mntapi.blocks.base import check_range
from mntapi.blocks.concat import Concat
from mntapi.blocks.missing import Missing
from mntapi.blocks.slice import Slice
from mntapi.blocks.zero import Zero
from mntapi.errors import Unsupported
from mntapi.types import Blocks, ExtentKind, WritableBlocks

_ZEROS = bytes(1 << 16)
REASON = "read-only"
"""The slug of the errors here."""

Place = tuple[int, int, int, int]
"""(which of the blocks below, offset there, length, how far into the range that was asked for), in bytes."""


@runtime_checkable
class Changeable(Protocol):
    """Blocks that know how they are written."""

    def writable(self) -> WritableBlocks:
        """The same bytes, to be written. Raises Unsupported with the reason why they cannot be."""


def writable(blocks: Blocks) -> WritableBlocks:
    """The same bytes, to be written; ``blocks`` themselves where they are an overlay.

    Raises:
        Unsupported: something they lie on cannot be written; says what and why.
    """
    if isinstance(blocks, WritableBlocks):
        return blocks
    if isinstance(blocks, Slice):  # reading knows nothing of writing, so this package's own kinds are taken apart here
        return WritableSlice(writable(blocks._inner), blocks._start, blocks.size, sector_size=blocks.sector_size)
    if isinstance(blocks, Concat):
        return _concatenated(blocks)
    if isinstance(blocks, Changeable):
        return blocks.writable()
    if isinstance(blocks, Missing):
        raise Unsupported(blocks._what, reason=REASON)
    if isinstance(blocks, Zero):
        raise Unsupported("a part of it is zeros that are stored nowhere", reason=REASON)
    raise Unsupported("there is no writer for volumes of this kind", reason=REASON)


class Unwritable:
    """``inner``, which must not be written although all it lies on could be, and why. Borrows it."""

    def __init__(self, inner: Blocks, why: str) -> None:
        self.size = inner.size
        self.sector_size = inner.sector_size
        self.readinto = inner.readinto
        self.extents = inner.extents
        self.close = inner.close
        self._why = why

    def writable(self) -> NoReturn:
        """Raises Unsupported."""
        raise Unsupported(self._why, reason=REASON)


class Layer:
    """What all that lies on overlays has in common: it reads as ``shown`` does, and flushes each overlay below it once."""

    def __init__(self, shown: Blocks, below: Iterable[WritableBlocks]) -> None:
        self.size = shown.size
        self.sector_size = shown.sector_size
        self.readinto = shown.readinto
        self.extents = shown.extents
        self._overlays = {id(overlay): overlay for one in below for overlay in _overlays(one)}

    def flush(self) -> None:
        """See ``WritableBlocks``."""
        for overlay in self._overlays.values():
            overlay.flush()

    def close(self) -> None:
        """Nothing to release: what is below belongs to somebody else."""


def _overlays(blocks: WritableBlocks) -> Iterable[WritableBlocks]:
    return blocks._overlays.values() if isinstance(blocks, Layer) else (blocks,)


class WritableSlice(Layer):
    """``length`` bytes of ``inner`` from ``start`` on, to be written: a partition of an overlay. Borrows ``inner``."""

    def __init__(self, inner: WritableBlocks, start: int, length: int, *, sector_size: int | None = None) -> None:
        super().__init__(Slice(inner, start, length, sector_size=sector_size), [inner])
        self._inner = inner
        self._start = start

    def write(self, offset: int, content: memoryview) -> None:
        check_range(self.size, offset, len(content))
        self._inner.write(self._start + offset, content)

    def discard(self, offset: int, length: int) -> None:
        check_range(self.size, offset, length)
        self._inner.discard(self._start + offset, length)


class Spread(Layer):
    """Bytes that are stored as they are, in pieces and perhaps in copies, over several blocks. Borrows them.

    Args:
        shown: what reads them.
        below: what they are stored in.
        places: (offset, length) to all places of that range, every copy, in the order in which they are to be written.
        turn: for those that have copies: what is held while all copies are written, so that they stay alike.

    Raises:
        Unsupported: one of ``below`` cannot be written.
    """

    def __init__(
        self,
        shown: Blocks,
        below: Sequence[Blocks],
        places: Callable[[int, int], Iterable[Place]],
        *,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self._below = [writable(one) for one in below]
        super().__init__(shown, self._below)
        self._places = places
        self._has_copies = turn is not None
        self._turn = turn or nullcontext()

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``. If it raises, copies may differ in this range, as on a machine that loses power."""
        check_range(self.size, offset, len(content))
        with self._turn:
            for index, start, length, position in self._places(offset, len(content)):
                self._below[index].write(start, content[position : position + length])

    def discard(self, offset: int, length: int) -> None:
        """See ``WritableBlocks``. Copies become zeros to the byte: what lies below rounds to blocks of its own, and copies that
        begin at different offsets would differ then."""
        check_range(self.size, offset, length)
        with self._turn:
            for index, start, end in _runs(self._places(offset, length)):
                if self._has_copies:
                    zero_out(self._below[index], start, end - start)
                else:
                    self._below[index].discard(start, end - start)


def _runs(places: Iterable[Place]) -> Iterator[tuple[int, int, int]]:
    """Places as (which, start, end), neighbours on the same blocks joined: whole stripes are one range of each member."""
    open_runs: dict[int, tuple[int, int]] = {}
    for index, start, length, _ in places:
        first, end = open_runs.get(index, (start, start))
        if end != start:
            yield index, first, end
            first = start
        open_runs[index] = (first, start + length)
    for index, (first, end) in open_runs.items():
        yield index, first, end


def _concatenated(blocks: Concat) -> WritableBlocks:
    indices = {id(part): index for index, part in enumerate(blocks._parts)}

    def places(offset: int, length: int) -> Iterator[Place]:
        position = 0
        for part, start, count in blocks._pieces(offset, length):
            yield indices[id(part)], start, count, position
            position += count

    return Spread(blocks, blocks._parts, places)


def zero_out(blocks: WritableBlocks, offset: int, length: int) -> None:
    """Make the range read as zeros, to the byte, and store as little of it as possible. Raises as ``blocks.write``."""
    check_range(blocks.size, offset, length)
    blocks.discard(offset, length)
    for extent in [one for one in blocks.extents(offset, length) if one.kind is ExtentKind.DATA]:
        for start in range(extent.offset, extent.end, len(_ZEROS)):
            blocks.write(start, memoryview(_ZEROS)[: extent.end - start])
