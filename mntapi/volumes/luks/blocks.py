"""The volume in the clear."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import check_range, whole
from mntapi.crypto.sectors import RUN, SectorCipher
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import SECTOR, align_down, align_up


class Decrypted:
    """What ``inner`` holds, decrypted when it is read. Borrows ``inner``; owns the cipher, whose key ``close`` overwrites.

    Whole sectors are read and decrypted in the caller's buffer, at most ``RUN`` bytes at once; the parts of a sector at the
    ends of a range in one of our own.
    """

    def __init__(self, inner: Blocks, cipher: SectorCipher, *, unit: int, first_sector: int = 0) -> None:
        """``unit``: bytes that are encrypted as one, of which ``inner`` must have a whole number. ``first_sector``: the number
        of the first 512 bytes for the cipher."""
        self._inner = inner
        self._cipher = cipher
        self._unit = unit
        self._first_sector = first_sector
        self.size = inner.size
        self.sector_size = max(inner.sector_size, unit)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        end = offset + len(buffer)
        start, stop = align_up(offset, self._unit), align_down(end, self._unit)
        if start >= stop:  # no whole sector
            self._read_parts(offset, buffer)
            return
        self._read_parts(offset, buffer[: start - offset])
        for at in range(start, stop, RUN):
            self._read_sectors(at, buffer[at - offset : min(at + RUN, stop) - offset])
        self._read_parts(stop, buffer[stop - offset :])

    def _read_sectors(self, offset: int, buffer: memoryview) -> None:
        self._inner.readinto(offset, buffer)
        self._cipher.decrypt(buffer, self._first_sector + offset // SECTOR)

    def _read_parts(self, offset: int, buffer: memoryview) -> None:
        """Parts of one or two sectors."""
        if buffer:
            start, stop = align_down(offset, self._unit), align_up(offset + len(buffer), self._unit)
            sectors = memoryview(bytearray(stop - start))
            self._read_sectors(start, sectors)
            buffer[:] = sectors[offset - start : offset - start + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """DATA: what was never written is decrypted like the rest, and is not zeros then."""
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Overwrite the key."""
        self._cipher.close()
