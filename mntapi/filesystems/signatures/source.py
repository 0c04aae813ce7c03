"""The volume while it is probed: its first and last bytes in memory, the rest read on demand."""

from __future__ import annotations

from dataclasses import dataclass

from mntapi.blocks import read, read_clipped
from mntapi.errors import MntapiError
from mntapi.types import Blocks
from mntapi.units import KIB

HEAD = 264 * KIB
"""Bytes read at once from the start: everything up to a UFS superblock at 256 KiB."""
TAIL = 132 * KIB
"""Bytes read at once from the end: MD 0.90 lies at most 128 KiB, a DDF header at most 129 KiB from it."""
MAX_READ = 512 * KIB
"""Bytes a probe may ask for at once; more is a number from disk that was believed."""


class CutOff(Exception):  # not an error of the volume: it ends a probe with the answer no
    """The volume ends before the structure that was asked for does, or the structure claims an absurd size."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a superblock says of itself."""

    label: str | None = None
    uuid: str | None = None
    dirty: str | None = None


class Source:
    """Reads of one volume. Not thread-safe: it lives for one probe."""

    def __init__(self, blocks: Blocks) -> None:
        self.size = blocks.size
        self.sector_size = blocks.sector_size
        self._blocks = blocks
        self._head = self._load(0, HEAD)
        tail = max(len(self._head), self.size - TAIL)
        self._tail_at = tail
        self._tail = self._load(tail, TAIL)

    def _load(self, offset: int, length: int) -> bytes:
        """The region, or nothing if a part of it is unreadable: then each structure in it is read by itself."""
        try:
            return read_clipped(self._blocks, offset, length)
        except MntapiError:
            return b""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset``.

        Raises:
            CutOff: they are not all inside the volume, or more than ``MAX_READ``.
            MntapiError: they cannot be read.
        """
        if offset < 0 or length < 0 or length > MAX_READ or offset + length > self.size:
            raise CutOff
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        start = offset - self._tail_at
        if start >= 0 and start + length <= len(self._tail):
            return self._tail[start : start + length]
        return read(self._blocks, offset, length)

    def detail(self, offset: int, length: int) -> bytes:
        """What can be had of a range that only label or state depend on: cut at the end of the volume, empty if unreadable.

        A bad sector under the label must not hide the kind of the volume.
        """
        length = min(length, MAX_READ, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        try:
            return self.read(offset, length)
        except MntapiError:
            return b""

    def has(self, offset: int, value: bytes) -> bool:
        """Whether these bytes are there; no if the place is outside the volume."""
        if offset >= 0 and offset + len(value) <= len(self._head):
            return self._head.startswith(value, offset)
        if offset < 0 or offset + len(value) > self.size:
            return False
        return self.read(offset, len(value)) == value
