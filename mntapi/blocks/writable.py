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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from operator import itemgetter
from typing import NoReturn, Protocol, runtime_checkable
from weakref import WeakSet

from mntapi.blocks.base import check_range, read
from mntapi.blocks.concat import Concat
from mntapi.blocks.missing import Missing
from mntapi.blocks.slice import Slice
from mntapi.blocks.zero import Zero
from mntapi.errors import AWAY, Failed, MntapiError, Unsupported
from mntapi.types import Blocks, ExtentKind, WritableBlocks
from mntapi.units import SECTOR

_ZEROS = bytes(1 << 16)
REASON = "read-only"
"""The slug of the errors here."""

_apart: WeakSet[Blocks] = WeakSet()
"""Arrays whose members may disagree, as a write failed and could not be put right. Here, as several writers may share one."""

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

    If a write raises, copies are alike all the same: all become what the last of them holds. That needs no room, for where an
    earlier copy differs from a later one, it was just written. If the process or the machine dies between the writes, copies
    differ until the range is written again, as those of any mirror that keeps no journal.

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
        self._shown = shown
        self._places = places
        self._has_copies = turn is not None
        self._turn = turn or nullcontext()

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``. Raises Failed once copies could not be made alike after an error."""
        check_range(self.size, offset, len(content))
        with self._turn:
            check_agreement(self._shown)
            try:
                for index, start, length, position in self._places(offset, len(content)):
                    self._below[index].write(start, content[position : position + length])
            except BaseException:
                self._make_alike(offset, len(content))
                raise

    def discard(self, offset: int, length: int) -> None:
        """See ``WritableBlocks``. Copies become zeros to the byte: what lies below rounds to blocks of its own, and copies that
        begin at different offsets would differ then. All forget before any is written, which may fail."""
        check_range(self.size, offset, length)
        with self._turn:
            check_agreement(self._shown)
            runs = list(_runs(self._places(offset, length)))
            try:
                for index, start, end in runs:
                    self._below[index].discard(start, end - start)
                for index, start, end in runs if self._has_copies else ():
                    _zero_data(self._below[index], start, end - start)
            except BaseException:
                self._make_alike(offset, length)
                raise

    def _make_alike(self, offset: int, length: int) -> None:
        """Give all copies of the range what the last of them holds; the last one that can be read, sector by sector."""
        if not self._has_copies:
            return
        with putting_right(self._shown):
            for start in range(offset, offset + length, len(_ZEROS)):
                end = min(offset + length, start + len(_ZEROS))
                if not self._is_alike(start, end - start):
                    for sector in range(start, end, SECTOR):
                        self._correct(sector, min(SECTOR, end - sector))

    def _is_alike(self, offset: int, length: int) -> bool:
        try:
            return all(len({read(*copy) for copy in copies}) == 1 for copies in self._copies(offset, length))
        except MntapiError:
            return False

    def _correct(self, offset: int, length: int) -> None:
        for copies in self._copies(offset, length):
            right: bytes | None = None
            for blocks, start, count in reversed(copies):
                right = correct(blocks, start, count, right)

    def _copies(self, offset: int, length: int) -> Iterator[list[tuple[WritableBlocks, int, int]]]:
        """For each piece of the range where its copies are, in the order in which they are written."""
        for _, copies in groupby(self._places(offset, length), key=itemgetter(3)):
            yield [(self._below[index], start, count) for index, start, count, _ in copies]


def check_agreement(array: Blocks) -> None:
    """Raise Failed if the members of ``array`` may disagree."""
    if array in _apart:
        what = "a write failed and could not be undone: members of the array may disagree, and it is not written any more"
        raise Failed(what, hint="start again with new overlays", reason="members-disagree")


@contextmanager
def putting_right(array: Blocks) -> Iterator[None]:
    """Hold this while what a failed write left is put right. Raises Failed if that fails: ``array`` is not written again."""
    _apart.add(array)
    try:
        yield
    except MntapiError:
        check_agreement(array)
    _apart.discard(array)


def correct(blocks: WritableBlocks, offset: int, length: int, right: bytes | None) -> bytes | None:
    """Write what differs from ``right``, and nothing else: there may be no room for the rest.

    Returns ``right``, or what is there if that is None.

    What can never be read does not disagree; it is left alone.
    """
    try:
        held = read(blocks, offset, length)
    except MntapiError as error:
        if error.reason in AWAY:
            raise
        return right
    if right is None or held == right:
        return held
    wrong = [at for at in range(length) if held[at] != right[at]]
    blocks.write(offset + wrong[0], memoryview(right)[wrong[0] : wrong[-1] + 1])
    return right


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
    _zero_data(blocks, offset, length)


def _zero_data(blocks: WritableBlocks, offset: int, length: int) -> None:
    for extent in [one for one in blocks.extents(offset, length) if one.kind is ExtentKind.DATA]:
        for start in range(extent.offset, extent.end, len(_ZEROS)):
            blocks.write(start, memoryview(_ZEROS)[: extent.end - start])
