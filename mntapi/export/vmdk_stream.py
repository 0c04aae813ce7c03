"""Stream-optimized VMDK, as OVF and OVA carry it: compressed grains behind markers, tables after them, a footer last.

Sources: Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents"; what VMware's own tools write into the
descriptor: open-vmdk (Apache-2.0).
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from array import array

from mntapi.errors import Unsupported
from mntapi.export.batches import Batch
from mntapi.export.writer import Target, encoded, packed_units
from mntapi.images.vmdk.headers import AT_END, FOOTER, GRAIN_DIRECTORY, GRAIN_TABLE, HOSTED_MAGIC
from mntapi.units import KIB, SECTOR, align_up

GRAIN = 64 * KIB
ENTRIES = 512
"""Grains of a grain table."""
MAX_GRAINS = 1 << 32
"""What a reader that counts grains in 32 bits can have: 256 TiB."""
_VERSION = 3
_FLAGS = 1 | 1 << 16 | 1 << 17
"""The newline test is valid, grains are compressed, markers are there."""
_DEFLATE = 1
_NEWLINE_TEST = b"\n \r\n"
_DESCRIPTOR_AT, _DESCRIPTOR_SIZE = SECTOR, 20 * SECTOR
_DATA_AT = 128 * SECTOR
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARKER = struct.Struct("<QII496x")
_GRAIN_MARKER = struct.Struct("<QI")
_END_OF_STREAM = 0
_HEADS, _SECTORS_PER_TRACK, _MAX_CYLINDERS = 255, 63, 65535


class VmdkStreamWriter:
    """See ``mntapi.export.writer.Writer``."""

    unit = GRAIN

    def __init__(self, target: Target) -> None:
        grains = -(-target.size // GRAIN)
        if grains > MAX_GRAINS:
            raise Unsupported("the disk is too large for a VMDK", path=target.file.path, found=f"{target.size} bytes")
        self._file = target.file
        self._capacity = target.size // SECTOR
        self._pool = target.pool
        self._end = _DATA_AT
        self._directory = array("I", bytes(4 * -(-grains // ENTRIES)))
        self._index = -1
        self._table = array("I")

    def write(self, batch: Batch) -> None:
        for piece, packed in packed_units(self._pool, batch, GRAIN, zlib.compress):
            index, at = divmod(piece.offset // GRAIN, ENTRIES)
            if index != self._index:
                self._write_table()
                self._index, self._table = index, array("I", bytes(4 * ENTRIES))
            self._table[at] = self._append(_GRAIN_MARKER.pack(piece.offset // SECTOR, len(packed)) + packed)

    def _append(self, content: bytes) -> int:
        """Write at the end, filled up to whole sectors; returns the sector it starts at."""
        sector = self._end // SECTOR
        if sector >= 1 << 32:
            raise Unsupported(
                "a VMDK stream cannot be longer than 2 TiB",
                path=self._file.path,
                hint="choose another format",
                reason="too-long",
            )
        size = align_up(len(content), SECTOR)
        self._file.write(self._end, content.ljust(size, b"\0"))
        self._end += size
        return sector

    def _write_table(self) -> None:
        if self._index >= 0:
            self._directory[self._index] = self._append_marked(GRAIN_TABLE, encoded(self._table, "little"))

    def _append_marked(self, kind: int, content: bytes) -> int:
        """Write a marker and what it announces; returns the sector that starts at."""
        self._append(_MARKER.pack(-(-len(content) // SECTOR), 0, kind))
        return self._append(content) if content else 0

    def finish(self) -> None:
        self._write_table()
        directory = self._append_marked(GRAIN_DIRECTORY, encoded(self._directory, "little"))
        self._append_marked(FOOTER, self._header(directory))
        self._append_marked(_END_OF_STREAM, b"")
        self._file.write(0, self._header(AT_END))
        self._file.write(_DESCRIPTOR_AT, descriptor(os.path.basename(self._file.path), self._capacity))

    def _header(self, directory: int) -> bytes:
        """Header and footer differ in the directory's sector only."""
        return _HEADER.pack(
            HOSTED_MAGIC,
            _VERSION,
            _FLAGS,
            self._capacity,
            GRAIN // SECTOR,
            _DESCRIPTOR_AT // SECTOR,
            _DESCRIPTOR_SIZE // SECTOR,
            ENTRIES,
            0,
            directory,
            _DATA_AT // SECTOR,
            0,
            _NEWLINE_TEST,
            _DEFLATE,
        )


def descriptor(name: str, capacity: int) -> bytes:
    """The text that goes into the file called ``name``, for a disk of ``capacity`` sectors."""
    content_id = secrets.token_bytes(15) + bytes([secrets.randbelow(0xFE)])  # the last 4 bytes: neither ffffffff nor fffffffe
    cylinders = min(_MAX_CYLINDERS, -(-capacity // (_HEADS * _SECTORS_PER_TRACK)))
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={content_id[-4:].hex()}",
        "parentCID=ffffffff",
        'createType="streamOptimized"',
        "",
        "# Extent description",
        f'RW {capacity} SPARSE "{_plain(name)}"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        f'ddb.longContentID = "{content_id.hex()}"',
        'ddb.virtualHWVersion = "4"',
        f'ddb.geometry.cylinders = "{cylinders}"',
        f'ddb.geometry.heads = "{_HEADS}"',
        f'ddb.geometry.sectors = "{_SECTORS_PER_TRACK}"',
        'ddb.adapterType = "lsilogic"',
        'ddb.toolsVersion = "2147483647"',
        "",
    )
    return "\n".join(lines).encode()


def _plain(name: str) -> str:
    """The name without what would end or break its line; readers of an embedded descriptor do not follow it."""
    return "".join("_" if char == '"' or not char.isprintable() else char for char in name)
