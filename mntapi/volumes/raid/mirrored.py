"""RAID 1: every member holds the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from mntapi.blocks import check_range, whole
from mntapi.blocks.writable import Spread
from mntapi.errors import MntapiError, ReadFailed
from mntapi.types import Blocks, Extent, ExtentKind, WritableBlocks
from mntapi.volumes.raid.complete import all_present
from mntapi.volumes.raid.gather import UNIT, Piece
from mntapi.volumes.raid.striped import check_geometry, check_member


class Mirrored:
    """``size`` bytes that every member has from its start on. The first member that can be read is read.

    Args:
        members: the copies, the best first; None is a missing one.
        size: bytes.

    Raises:
        Invalid: no members, or one that is smaller than ``size``.
    """

    def __init__(self, members: Sequence[Blocks | None], size: int) -> None:
        check_geometry(len(members), 1, size)
        for index, member in enumerate(members):
            if member is not None:
                check_member(index, member, size)
        self.size = size
        self._members = tuple(members)
        self._copies = [member for member in members if member is not None]
        self.sector_size = max((member.sector_size for member in self._copies), default=512)
        self._turn = threading.Lock()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        if not buffer or self._read(offset, buffer) is None:
            return
        for _, start, length, position in Piece(0, offset, len(buffer), 0).units(UNIT):
            error = self._read(start, buffer[position : position + length])
            if error is not None:
                raise error

    def _read(self, offset: int, buffer: memoryview) -> MntapiError | None:
        """Read the range from one copy; if no copy has all of it, the error of the first."""
        trouble: MntapiError | None = None
        for copy in self._copies:
            try:
                copy.readinto(offset, buffer)
            except MntapiError as error:
                trouble = trouble or error
            else:
                return None
        return trouble or ReadFailed("cannot be read: all members of the mirror are missing", reason="member-missing")

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Those of the first copy."""
        check_range(self.size, offset, length)
        return self._copies[0].extents(offset, length) if self._copies else whole(offset, length, ExtentKind.DATA)

    def writable(self) -> WritableBlocks:
        """The same, to be written: all copies are. Raises Unsupported where one is missing, or cannot be."""
        return Spread(self, all_present(self._members), self._places, turn=self._turn)

    def _places(self, offset: int, length: int) -> Iterator[Piece]:
        for index in range(len(self._members)):
            yield Piece(index, offset, length, 0)

    def close(self) -> None:
        """Nothing to release: the members belong to somebody else."""
