"""Where the bytes of a file lie on its volume, and ``Blocks`` that read them from there without asking anybody again."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from mntapi.blocks import check_range, merged
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, Extent, ExtentKind

MAX_RUNS = 1 << 21
"""Runs of one file. At 16 bytes each this is 32 MiB; no real file has been seen with more than a tenth of it."""
MAX_OFFSET = (1 << 63) - 1
"""Bytes; what a file offset of the kernel can say."""
_HOLE = -1


class RunList:
    """Runs of a file, gapless from its first byte on. Neighbours that continue each other are joined as they come."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes covered so far."""
        self._starts = array("q")
        self._sources = array("q")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, length: int, source: int | None) -> None:
        """Append ``length`` bytes stored at byte ``source`` of the volume; None for bytes that read as zeros.

        Raises:
            Unsupported: the file has more than ``MAX_RUNS`` runs.
            Corrupt: it, or the place it is stored at, goes past ``MAX_OFFSET``.
        """
        if length == 0:
            return
        if self.size + length > MAX_OFFSET or (source or 0) + length > MAX_OFFSET:
            raise Corrupt(
                "a run at an impossible place", expected=f"at most {MAX_OFFSET}", found=source, reason="run-outside-volume"
            )
        where = _HOLE if source is None else source
        if not self._continues(where):
            if len(self._starts) >= MAX_RUNS:
                raise Unsupported("the file is in too many pieces", expected=f"at most {MAX_RUNS}", reason="too-many-runs")
            self._starts.append(self.size)
            self._sources.append(where)
        self.size += length

    def _continues(self, where: int) -> bool:
        if not self._starts:
            return False
        last = self._sources[-1]
        return where == _HOLE if last == _HOLE else where == last + self.size - self._starts[-1]

    def pad(self, size: int) -> None:
        """Let the list reach ``size`` bytes, with a hole at its end where it falls short."""
        self.add(max(0, size - self.size), None)

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int | None]]:
        """The range cut at run borders: (bytes, byte on the volume or None for zeros). It must lie inside the list."""
        index = bisect_right(self._starts, offset) - 1
        end = offset + length
        while offset < end:
            start, source = self._starts[index], self._sources[index]
            stop = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
            count = min(stop, end) - offset
            yield count, None if source == _HOLE else source + offset - start
            offset += count
            index += 1


class RunBlocks:
    """The first ``size`` bytes of ``runs`` on ``volume``; from byte ``valid`` on they read as zeros. Borrows the volume.

    ``valid`` is NTFS's initialised size and exFAT's valid data length: what lies behind was never written.
    """

    def __init__(self, volume: Blocks, runs: RunList, size: int, valid: int | None = None) -> None:
        if runs.size < size:
            raise Corrupt("the runs of the file end before the file does", expected=f"{size} bytes", found=runs.size)
        self._volume = volume
        self._runs = runs
        self._valid = size if valid is None else min(valid, size)
        self.size = size
        self.sector_size = volume.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        done = 0
        for count, source in self._pieces(offset, length):
            part = buffer[done : done + count]
            if source is None:
                fill(part)
            else:
                self._inside(source, count)
                self._volume.readinto(source, part)
            done += count

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int | None]]:
        written = max(0, min(length, self._valid - offset))
        yield from self._runs.pieces(offset, written)
        if written < length:
            yield length - written, None

    def _inside(self, source: int, count: int) -> None:
        if source + count > self._volume.size:
            raise Corrupt(
                "a run of the file lies outside the volume",
                offset=source,
                expected=f"at most {self._volume.size}",
                found=source + count,
                reason="run-outside-volume",
            )

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        for count, source in self._pieces(offset, length):
            yield Extent(offset, count, ExtentKind.ZERO if source is None else ExtentKind.DATA)
            offset += count

    def close(self) -> None:
        """Nothing to release: the volume belongs to somebody else."""


class Memory:
    """The bytes of a small file that its own metadata held: an inline ext4 file, a resident NTFS attribute."""

    def __init__(self, content: bytes, sector_size: int = 512) -> None:
        self._content = content
        self.size = len(content)
        self.sector_size = sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        if length:
            yield Extent(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""
