"""VHDX, dynamic: blocks of 32 MiB that are there where there is data, an empty log, all structures at whole MiB.

Inside a block, zeros are left to the host as holes. Sectors are those of the disk, 512 or 4096 bytes; Hyper-V takes both, QEMU
opens no VHDX with the latter. Source: [MS-VHDX], revision 7.0, sections 2.2 to 2.6.
"""

from __future__ import annotations

import struct
import uuid
from array import array

from mntapi.crc32c import crc32c
from mntapi.errors import Unsupported
from mntapi.export.batches import Batch
from mntapi.export.writer import Target, encoded
from mntapi.images.vhdx.layout import FULLY_PRESENT
from mntapi.images.vhdx.metadata import (
    DISK_ID,
    DISK_SIZE,
    FILE_PARAMETERS,
    LOGICAL_SECTOR_SIZE,
    MAX_DISK_SIZE,
    PHYSICAL_SECTOR_SIZE,
    TABLE_SIZE,
)
from mntapi.images.vhdx.structures import (
    BAT,
    HEADER_SIZE,
    HEADERS_AT,
    LOG_VERSION,
    METADATA,
    REGION_TABLE_SIZE,
    REGION_TABLES_AT,
    VERSION,
)
from mntapi.units import KIB, MIB, align_up

BLOCK = 32 * MIB
UNIT = 64 * KIB
_LOG_AT, _METADATA_AT, _BAT_AT = 1 * MIB, 2 * MIB, 3 * MIB
_BITMAP_SECTORS = 1 << 23
"""Sectors that one sector bitmap block describes; its entry in the table is there also where there is no such block."""
_PHYSICAL_SECTOR = 4096
_IDENTIFIER = struct.Struct("<8s512s")
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGIONS = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_METADATA_TABLE = struct.Struct("<8sHH20x")
_ITEM = struct.Struct("<16sIIII")
_IS_REQUIRED_REGION = 1
_IS_DISK, _IS_REQUIRED = 2, 4


class VhdxWriter:
    """See ``mntapi.export.writer.Writer``."""

    unit = UNIT

    def __init__(self, target: Target) -> None:
        if target.size > MAX_DISK_SIZE:
            raise Unsupported(
                "the disk is too large for a VHDX",
                path=target.file.path,
                expected="at most 64 TiB",
                found=f"{target.size} bytes",
            )
        self._file = target.file
        self._size = target.size
        self._sector_size = target.sector_size
        self._ratio = _BITMAP_SECTORS * target.sector_size // BLOCK
        blocks = -(-target.size // BLOCK)
        self._table = array("Q", bytes(8 * (blocks + (blocks - 1) // self._ratio)))
        self._table_size = align_up(len(self._table) * 8, MIB)
        self._end = _BAT_AT + self._table_size

    def write(self, batch: Batch) -> None:
        for run in batch.runs(UNIT):
            content, done = batch.view(run), 0
            while done < run.length:
                index, start = divmod(run.offset + done, BLOCK)
                count = min(run.length - done, BLOCK - start)
                self._file.write(self._block(index) + start, content[done : done + count])
                done += count

    def _block(self, index: int) -> int:
        """Byte offset of a block in the file, which it gets when it is first asked for."""
        at = index + index // self._ratio
        if not self._table[at]:
            self._table[at] = self._end | FULLY_PRESENT
            self._end += BLOCK
        return self._table[at] & -MIB

    def finish(self) -> None:
        self._file.write(0, _IDENTIFIER.pack(b"vhdxfile", "mntapi".encode("utf-16-le")))
        write_guid = uuid.uuid4().bytes_le
        for sequence, at in enumerate(HEADERS_AT, 1):
            self._file.write(at, _header(sequence, write_guid))
        for at in REGION_TABLES_AT:
            self._file.write(at, _regions(self._table_size))
        self._file.write(_METADATA_AT, _metadata(self._size, self._sector_size))
        self._file.write(_BAT_AT, encoded(self._table, "little"))
        self._file.resize(self._end)


def _header(sequence: int, write_guid: bytes) -> bytes:
    """One of the two; no log GUID says that the log is empty."""
    fields = (b"head", 0, sequence, write_guid, write_guid, bytes(16), LOG_VERSION, VERSION, MIB, _LOG_AT)
    return _with_checksum(_HEADER.pack(*fields).ljust(HEADER_SIZE, b"\0"))


def _regions(table_size: int) -> bytes:
    content = _REGIONS.pack(b"regi", 0, 2, 0)
    for guid, offset, length in ((BAT, _BAT_AT, table_size), (METADATA, _METADATA_AT, MIB)):
        content += _REGION.pack(guid.bytes_le, offset, length, _IS_REQUIRED_REGION)
    return _with_checksum(content.ljust(REGION_TABLE_SIZE, b"\0"))


def _with_checksum(content: bytes) -> bytes:
    return content[:4] + crc32c(content).to_bytes(4, "little") + content[8:]


def _metadata(size: int, sector_size: int) -> bytes:
    items = (
        (FILE_PARAMETERS, _IS_REQUIRED, struct.pack("<II", BLOCK, 0)),
        (DISK_SIZE, _IS_DISK | _IS_REQUIRED, struct.pack("<Q", size)),
        (LOGICAL_SECTOR_SIZE, _IS_DISK | _IS_REQUIRED, struct.pack("<I", sector_size)),
        (PHYSICAL_SECTOR_SIZE, _IS_DISK | _IS_REQUIRED, struct.pack("<I", _PHYSICAL_SECTOR)),
        (DISK_ID, _IS_DISK | _IS_REQUIRED, uuid.uuid4().bytes_le),
    )
    table, contents = _METADATA_TABLE.pack(b"metadata", 0, len(items)), b""
    for guid, flags, content in items:
        table += _ITEM.pack(guid.bytes_le, TABLE_SIZE + len(contents), len(content), flags, 0)
        contents += content
    return table.ljust(TABLE_SIZE, b"\0") + contents
