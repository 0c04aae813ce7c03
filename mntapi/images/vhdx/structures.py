"""The two headers and the two region tables at the start of a VHDX: bytes in, checked values out. All numbers little-endian."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.crc32c import crc32c
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks, FileBlocks
from mntapi.units import KIB, MIB

HEADER_SIZE = 4 * KIB
HEADERS_AT = (64 * KIB, 128 * KIB)
REGION_TABLE_SIZE = 64 * KIB
REGION_TABLES_AT = (192 * KIB, 256 * KIB)
MAX_REGIONS = 2047
VERSION = 1
LOG_VERSION = 0

BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGIONS = struct.Struct("<4sIII")
_REGION = struct.Struct("<16sQII")
_IS_REQUIRED = 1


@dataclass(frozen=True, slots=True)
class Header:
    """The header with the higher sequence number. ``log_offset`` and ``log_length`` are bytes in the file."""

    sequence: int
    data_write_guid: uuid.UUID
    log_guid: uuid.UUID
    log_version: int
    version: int
    log_length: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class Region:
    """A range of the file, in bytes."""

    offset: int
    length: int


def read_header(file: FileBlocks) -> Header:
    """The header that counts: of those that are valid, the one with the higher sequence number.

    Raises:
        Corrupt: this is no VHDX, or both headers are damaged.
        Unsupported: its version is not 1, or that of its log not 0.

    Source: [MS-VHDX] 2.2.1, 2.2.2.
    """
    magic = read_clipped(file, 0, 8)
    if magic != b"vhdxfile":
        raise Corrupt("is not a VHDX", path=file.path, offset=0, expected=b"vhdxfile", found=magic, reason="header")
    headers = [header for at in HEADERS_AT if (header := parse_header(read_clipped(file, at, HEADER_SIZE))) is not None]
    if not headers:
        raise Corrupt("both headers are damaged", path=file.path, offset=HEADERS_AT[0], reason="header")
    header = max(headers, key=lambda one: one.sequence)
    if header.version != VERSION or header.log_version != LOG_VERSION:
        raise Unsupported(
            "a VHDX of an unknown version",
            path=file.path,
            offset=HEADERS_AT[0] + 64,
            expected=f"version {VERSION}, log version {LOG_VERSION}",
            found=f"version {header.version}, log version {header.log_version}",
            reason="version",
        )
    return header


def parse_header(content: bytes) -> Header | None:
    """The header in 4 KiB, or None where signature or checksum is wrong: the other copy then counts."""
    if len(content) < HEADER_SIZE or content[:4] != b"head" or not has_right_checksum(content):
        return None
    _, _, sequence, _, data_write, log_guid, log_version, version, length, offset = _HEADER.unpack_from(content)
    return Header(sequence, uuid.UUID(bytes_le=data_write), uuid.UUID(bytes_le=log_guid), log_version, version, length, offset)


def has_right_checksum(content: bytes) -> bool:
    """Whether bytes 4 to 8 are the CRC-32C of the whole with those bytes zero."""
    return int.from_bytes(content[4:8], "little") == crc32c(content[:4] + bytes(4) + content[8:])


def read_regions(file: Blocks, path: str) -> dict[uuid.UUID, Region]:
    """The regions we know, both of which are there and inside the file.

    Args:
        file: the file with its log replayed.
        path: its name, for messages.

    Raises:
        Corrupt: both tables are damaged, or a region is missing, twice there or outside the file.
        Unsupported: a region we do not know is required; the message has its GUID.

    Source: [MS-VHDX] 2.2.3.
    """
    for at in REGION_TABLES_AT:
        content = read_clipped(file, at, REGION_TABLE_SIZE)
        if len(content) == REGION_TABLE_SIZE and content[:4] == b"regi" and has_right_checksum(content):
            regions = _parse_regions(content, path, at)
            break
    else:
        raise Corrupt("both region tables are damaged", path=path, offset=REGION_TABLES_AT[0], reason="region-table")
    for guid, name in ((BAT, "block table"), (METADATA, "metadata")):
        region = regions.get(guid)
        if region is None:
            raise Corrupt(f"has no {name} region", path=path, offset=at, expected=guid, reason="region-table")
        if region.offset < MIB or region.offset + region.length > file.size:
            raise Corrupt(
                f"the {name} region is outside the file",
                path=path,
                offset=at,
                expected=f"{MIB} to {file.size}",
                found=f"{region.length} bytes at {region.offset}",
                reason="region-table",
            )
    return regions


def _parse_regions(content: bytes, path: str, at: int) -> dict[uuid.UUID, Region]:
    _, _, count, _ = _REGIONS.unpack_from(content)
    if count > MAX_REGIONS:
        raise Corrupt(
            "too many regions", path=path, offset=at + 8, expected=f"at most {MAX_REGIONS}", found=count, reason="region-table"
        )
    regions: dict[uuid.UUID, Region] = {}
    for number in range(count):
        entry_at = _REGIONS.size + number * _REGION.size
        raw, offset, length, flags = _REGION.unpack_from(content, entry_at)
        guid = uuid.UUID(bytes_le=raw)
        if guid in regions:
            raise Corrupt("a region is there twice", path=path, offset=at + entry_at, found=guid, reason="region-table")
        if guid not in (BAT, METADATA) and flags & _IS_REQUIRED:
            raise Unsupported(
                "needs a region of an unknown kind", path=path, offset=at + entry_at, found=guid, reason="unknown-region"
            )
        regions[guid] = Region(offset, length)
    return regions
