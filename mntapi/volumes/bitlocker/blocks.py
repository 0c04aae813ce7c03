"""The ``Blocks`` that BitLocker needs beside the common ones: decrypted sectors, Vista's boot sector, and all parts as one."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from mntapi.blocks import Concat, check_range, read, whole
from mntapi.types import Blocks, Extent, ExtentKind
from mntapi.units import KIB, align_down, align_up
from mntapi.volumes.bitlocker.boot import Boot

_PIECE = 256 * KIB
"""Bytes decrypted at a time: enough to spread the cost of a call, little enough for the processor's cache."""

_NTFS = b"NTFS    "
_NAME_AT = 3
_MIRROR = struct.Struct("<Q")
_MIRROR_AT = 56


class SectorCipher(Protocol):
    """Decrypts sectors of one size with one key. Thread-safe."""

    def decrypt(self, content: memoryview, offset: int) -> None:
        """Decrypt in place whole sectors that begin at byte ``offset`` of the volume, a multiple of the sector size."""

    def close(self) -> None:
        """Overwrite the key; from then on decrypting raises Invalid."""


class Decrypted:
    """The first ``size`` bytes of ``inner`` (a multiple of the sector size), each sector decrypted. Borrows ``inner``."""

    def __init__(self, inner: Blocks, cipher: SectorCipher, size: int, sector_size: int) -> None:
        self._inner = inner
        self._cipher = cipher
        self.size = size
        self.sector_size = sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        end, done = offset + len(buffer), offset
        while done < end:
            start = align_down(done, self.sector_size)
            stop = min(align_up(end, self.sector_size), start + _PIECE)
            if start == done and stop <= end:
                self._decrypt(start, buffer[start - offset : stop - offset])
            else:
                sectors = bytearray(stop - start)
                self._decrypt(start, memoryview(sectors))
                buffer[done - offset : min(stop, end) - offset] = sectors[done - start : min(stop, end) - start]
            done = stop

    def _decrypt(self, start: int, sectors: memoryview) -> None:
        self._inner.readinto(start, sectors)
        self._cipher.decrypt(sectors, start)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """DATA throughout: what was never written is no zeros once it is decrypted."""
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release: the inner blocks belong to somebody else."""


class Unlocked:
    """The whole volume, and the owner of its cipher: ``close`` overwrites the key."""

    def __init__(self, parts: Sequence[Blocks], cipher: SectorCipher | None) -> None:
        self._parts = Concat(parts)
        self._cipher = cipher
        self.size = self._parts.size
        self.sector_size = self._parts.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._parts.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._parts.extents(offset, length)

    def close(self) -> None:
        if self._cipher is not None:
            self._cipher.close()


class VistaBootSector:
    """The boot sector as NTFS made it, from the one that Vista changed: the name, and where the mirror of the MFT is."""

    def __init__(self, inner: Blocks, boot: Boot, mirror_cluster: int) -> None:
        self._inner = inner
        self._mirror = _MIRROR.pack(mirror_cluster)
        self.size = self.sector_size = boot.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        sector = bytearray(read(self._inner, 0, self.size))
        sector[_NAME_AT : _NAME_AT + len(_NTFS)] = _NTFS
        sector[_MIRROR_AT : _MIRROR_AT + len(self._mirror)] = self._mirror
        buffer[:] = sector[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release: the inner blocks belong to somebody else."""
