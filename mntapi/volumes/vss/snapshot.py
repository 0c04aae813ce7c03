"""The contents of a volume at the time of a shadow copy.

A block is looked up in the copy's own store, then in those of the newer copies, oldest first, and at last on the volume itself,
where it did not change since. A store's overlays count for its own copy alone. Blocks that were not in use when the copy was
made read as zeros where Windows 8 and later says so; before, they read as what is there now.

Source: libyal, Volume Shadow Snapshot (VSS) format, "Reading snapshot data"; where dfir_ntfs, which was compared with Windows,
contradicts it (blocks not in use), the latter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.blocks import check_range, merged, shifted, whole
from mntapi.blocks.runs import Run, joined, read_runs
from mntapi.errors import Corrupt
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import SECTOR
from mntapi.volumes.vss.store import Store, Table, is_forward
from mntapi.volumes.vss.structures import BLOCK


class Snapshot:
    """The volume at the time of the copy that ``stores`` begins with; the newer ones follow, the newest is the last.

    Borrows the volume and what the stores lie on. Thread-safe.
    """

    def __init__(self, volume: Blocks, stores: Sequence[Store], size: int) -> None:
        self._volume = volume
        self._stores = tuple(stores)
        self._tables: tuple[Table, ...] | None = None
        self.size = size
        self.sector_size = volume.sector_size

    @property
    def sources(self) -> tuple[Blocks, ...]:
        """What it reads: the volume, and what the stores lie on."""
        return (self._volume, *(store.storage for store in self._stores))

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        read_runs(map(_checked, self._runs(offset, len(buffer))), buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for source, start, count in joined(self._runs(offset, length)):
            if source is self._volume and start + count <= source.size:
                yield from shifted(source.extents(start, count), offset - start)
            else:
                yield from whole(offset, count, ExtentKind.ZERO if source is None else ExtentKind.DATA)
            offset += count

    def close(self) -> None:
        """Nothing to release: the volume belongs to somebody else."""

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        """Where the range lies."""
        if self._tables is None:
            self._tables = tuple(store.table() for store in self._stores)
        tables = self._tables
        end = offset + length
        while offset < end:
            block, skip = divmod(offset, BLOCK)
            source, start, until = self._find(tables, block)
            count = min(end, until * BLOCK) - offset
            base = Run(source, start + skip, count)
            overlays = tables[0].overlays_of(block)
            yield from self._overlaid(overlays, base, skip) if overlays else (base,)
            offset += count

    def _find(self, tables: Sequence[Table], block: int) -> tuple[Blocks | None, int, int]:
        """Where a block lies without its overlays: source, offset there, and the block up to which the same goes on."""
        until = tables[0].next_overlay(block)
        if until == block:
            until = block + 1
        for index, table in enumerate(tables):
            target, following = table.find(block)
            if target is not None:
                return (*self._target(tables, index, target), block + 1)
            until = min(until, following)
        is_unused, run_end = tables[0].unused_run(block)
        return (None if is_unused else self._volume, block * BLOCK, min(until, run_end))

    def _target(self, tables: Sequence[Table], index: int, target: int) -> tuple[Blocks, int]:
        """Where a target of store ``index`` leads: a block that was moved may have been saved by a newer store since."""
        while is_forward(target):
            block = target // BLOCK
            hits = ((later, tables[later].find(block)[0]) for later in range(index + 1, len(tables)))
            index, found = next(((later, hit) for later, hit in hits if hit is not None), (index, None))
            if found is None:
                return self._volume, block * BLOCK
            target = found
        return self._stores[index].storage, target

    def _overlaid(self, overlays: Sequence[tuple[int, int]], base: Run, skip: int) -> Iterator[Run]:
        """A range inside one block, sector by sector from the topmost overlay that has it, or from the block itself."""
        storage, done = self._stores[0].storage, 0
        while done < base.length:
            sector, rest = divmod(skip + done, SECTOR)
            count = min(SECTOR - rest, base.length - done)
            stored = next((at for at, sectors in reversed(overlays) if sectors >> sector & 1), None)
            source, at = (base.source, base.position) if stored is None else (storage, stored + skip)
            yield Run(source, at + done, count)
            done += count


def _checked(run: Run) -> Run:
    if run.source is not None and run.position + run.length > run.source.size:
        what = "vss: a block past the end of the volume"
        raise Corrupt(what, offset=run.position, expected=run.source.size, reason="vss")
    return run
