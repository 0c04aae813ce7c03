"""The volume in the clear, to be read and to be written."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import check_range, whole
from mntapi.blocks.turns import Turns
from mntapi.blocks.writable import Layer, writable
from mntapi.crypto.sectors import RUN, SectorCipher
from mntapi.errors import Unsupported
from mntapi.types import Blocks, Extent, ExtentKind, WritableBlocks
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
        self._turns = Turns()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self._turns.read(self._read, offset, buffer)

    def _read(self, offset: int, buffer: memoryview) -> None:
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

    def writable(self) -> WritableBlocks:
        """The same, to be written. Raises Unsupported where ``inner`` cannot be."""
        return Encrypted(self, writable(self._inner), self._cipher, self._unit, self._first_sector, self._turns)

    def close(self) -> None:
        """Overwrite the key."""
        self._cipher.close()


class Encrypted(Layer):
    """What is written is encrypted and written to ``inner``. Made by ``Decrypted.writable``.

    Of a sector that is written in part, the rest is read first; as all who write one volume share its turns, none undoes what
    another wrote to the same sector.
    """

    def __init__(
        self, shown: Decrypted, inner: WritableBlocks, cipher: SectorCipher, unit: int, first_sector: int, turns: Turns
    ) -> None:
        super().__init__(shown, [inner])
        self._read_sectors = shown._read_sectors
        self._inner = inner
        self._cipher = cipher
        self._unit = unit
        self._first_sector = first_sector
        self._turns = turns

    def write(self, offset: int, content: memoryview) -> None:
        """See ``WritableBlocks``."""
        check_range(self.size, offset, len(content))
        end = offset + len(content)
        start, stop = align_up(offset, self._unit), align_down(end, self._unit)
        with self._turns.writing():
            if start >= stop:  # no whole sector
                self._write_parts(offset, content)
                return
            self._write_parts(offset, content[: start - offset])
            for at in range(start, stop, RUN):
                self._write_sectors(at, bytearray(content[at - offset : min(at + RUN, stop) - offset]))
            self._write_parts(stop, content[stop - offset :])

    def _write_sectors(self, offset: int, sectors: bytearray) -> None:
        """Encrypt them where they are, and write them."""
        self._cipher.encrypt(memoryview(sectors), self._first_sector + offset // SECTOR)
        self._inner.write(offset, memoryview(sectors))

    def _write_parts(self, offset: int, content: memoryview) -> None:
        """Parts of one or two sectors."""
        if content:
            start, stop = align_down(offset, self._unit), align_up(offset + len(content), self._unit)
            sectors = bytearray(stop - start)
            self._read_sectors(start, memoryview(sectors))
            sectors[offset - start : offset - start + len(content)] = content
            self._write_sectors(start, sectors)

    def discard(self, offset: int, length: int) -> None:
        """Raises Unsupported: what was forgotten would not read as zeros, but as zeros decrypted."""
        check_range(self.size, offset, length)
        raise Unsupported("parts of an encrypted volume cannot be discarded", reason="discard")
