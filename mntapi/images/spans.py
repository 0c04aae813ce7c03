"""Disks that are packed in spans: each is unpacked whole, checked, and kept for a while. EWF and compressed files.

What a span unpacks to is known beforehand, so that a decompression bomb ends there.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from mntapi.blocks import check_range, merged
from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, Invalid
from mntapi.images.vmdk.recent import Recent
from mntapi.types import Extent, ExtentKind
from mntapi.units import MIB

CAPACITY = 32 * MIB
"""Bytes of unpacked spans that are kept, or one span where that is larger."""


class Source(Protocol):
    """Where the spans come from. ``starts`` are the bytes of the disk they begin at, ascending from 0."""

    @property
    def starts(self) -> Sequence[int]: ...

    @property
    def size(self) -> int:
        """Bytes of the disk that the spans hold."""

    def unpack(self, index: int) -> bytes:
        """The bytes of a span. Raises Corrupt or ReadFailed with the place in the file."""

    def is_zero(self, index: int) -> bool:
        """Whether the span is known to be nothing but zeros."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Why a stream ends before its end: ``offset`` is the byte of the file ``path`` where."""

    what: str
    path: str
    offset: int
    reason: str

    def error(self) -> Corrupt:
        """As an error."""
        return Corrupt(self.what, path=self.path, offset=self.offset, reason=self.reason)


class Spans:
    """The bytes of a source's spans. Calls ``release`` when closed.

    Args:
        source: the spans.
        path: the file, for messages.
        release: closes what the source reads.
        damage: there should be more, and nothing tells how much. The disk then goes on to the next sector boundary after
            what is there, and reading that sector raises: what copies the disk must not take the part for the whole.
        serial: unpack one span at a time: they are large, or the source is not thread-safe.
    """

    sector_size = 512

    def __init__(
        self, source: Source, *, path: str, release: Callable[[], None], damage: Damage | None = None, serial: bool = False
    ) -> None:
        self._source = source
        self._path = path
        self._release = release
        self._damage = damage
        self._end = source.size
        self.size = source.size if damage is None else (source.size // self.sector_size + 1) * self.sector_size
        self._recent: Recent[bytes] = Recent(CAPACITY // 2)
        self._turn: AbstractContextManager[object] = threading.Lock() if serial else nullcontext()
        self._closed = False

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        done = 0
        for index, start, count in self._pieces(offset, len(buffer)):
            part = buffer[done : done + count]
            if self._source.is_zero(index):
                fill(part)
            else:
                part[:] = memoryview(self._span(index))[start : start + count]
            done += count
        if done < len(buffer) and self._damage is not None:
            raise self._damage.error()

    def _check(self, offset: int, length: int) -> None:
        check_range(self.size, offset, length)
        if self._closed:
            raise Invalid("is closed", path=self._path, offset=offset)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """The spans a range touches: (index, offset in it, length in it), in bytes. What is lost is left out."""
        end = min(offset + length, self._end)
        index = bisect_right(self._source.starts, offset) - 1
        while offset < end:
            start = self._source.starts[index]
            count = min(end, self._end_of(index)) - offset
            yield index, offset - start, count
            offset += count
            index += 1

    def _end_of(self, index: int) -> int:
        return self._source.starts[index + 1] if index + 1 < len(self._source.starts) else self._end

    def _span(self, index: int) -> bytes:
        content = self._recent.get(index)
        if content is not None:
            return content
        with self._turn:
            content = self._recent.get(index)
            if content is None:
                content = self._unpacked(index)
                self._recent.put(index, content, len(content))
            return content

    def _unpacked(self, index: int) -> bytes:
        start = self._source.starts[index]
        content = self._source.unpack(index)
        if len(content) != self._end_of(index) - start:
            raise Corrupt(
                f"does not unpack to what it should at byte {start} of the disk",
                path=self._path,
                expected=f"{self._end_of(index) - start} bytes",
                found=len(content),
                reason="unpack",
            )
        return content

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        self._check(offset, length)
        return merged(self._extents(offset, length))

    def _extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = offset + length
        for index, _, count in self._pieces(offset, length):
            yield Extent(offset, count, ExtentKind.ZERO if self._source.is_zero(index) else ExtentKind.DATA)
            offset += count
        if offset < end:
            yield Extent(offset, end - offset, ExtentKind.DATA)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._recent.clear()
            self._release()
