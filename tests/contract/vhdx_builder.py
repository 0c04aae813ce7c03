"""Writes VHDX files for tests, from [MS-VHDX]: differencing disks and logs, which qemu-img cannot write, and damaged ones.

The only thing of the product in here is its CRC-32C, which has test vectors of its own.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from mntapi.crc32c import crc32c

KIB, MIB = 1 << 10, 1 << 20
BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
VHDX_PARENT = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913")
LOG_AT, METADATA_AT, BAT_AT, BLOCKS_AT = 1 * MIB, 2 * MIB, 3 * MIB, 4 * MIB
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7


def seal(content: bytearray) -> bytes:
    """Set the CRC-32C at bytes 4 to 8."""
    content[4:8] = bytes(4)
    struct.pack_into("<I", content, 4, crc32c(bytes(content)))
    return bytes(content)


def header(
    sequence: int,
    data_write: uuid.UUID,
    log_guid: uuid.UUID | None = None,
    *,
    log: tuple[int, int] = (LOG_AT, MIB),
    version: int = 1,
    log_version: int = 0,
) -> bytes:
    content = bytearray(4 * KIB)
    log_bytes = log_guid.bytes_le if log_guid else bytes(16)
    fields = (b"head", 0, sequence, uuid.uuid4().bytes_le, data_write.bytes_le, log_bytes, log_version, version, log[1], log[0])
    struct.pack_into("<4sIQ16s16s16sHHIQ", content, 0, *fields)
    return seal(content)


def region_table(entries: list[tuple[uuid.UUID, int, int, int]], *, count: int | None = None) -> bytes:
    content = bytearray(64 * KIB)
    struct.pack_into("<4sII", content, 0, b"regi", 0, len(entries) if count is None else count)
    for number, (guid, offset, length, required) in enumerate(entries):
        struct.pack_into("<16sQII", content, 16 + 32 * number, guid.bytes_le, offset, length, required)
    return seal(content)


REGIONS = [(BAT, BAT_AT, MIB, 1), (METADATA, METADATA_AT, MIB, 1)]


def metadata(items: list[tuple[uuid.UUID, bytes, int]], *, count: int | None = None) -> bytes:
    """The metadata region; an item is a GUID, its content, and flags (1 user, 2 virtual disk, 4 required)."""
    content = bytearray(128 * KIB)
    struct.pack_into("<8sHH", content, 0, b"metadata", 0, len(items) if count is None else count)
    at = 64 * KIB
    for number, (guid, value, flags) in enumerate(items):
        struct.pack_into("<16sIII", content, 32 + 32 * number, guid.bytes_le, at if value else 0, len(value), flags)
        content[at : at + len(value)] = value
        at += len(value)
    return bytes(content)


def parent_locator(keys: dict[str, str], kind: uuid.UUID = VHDX_PARENT) -> bytes:
    table, texts = b"", b""
    at = 20 + 12 * len(keys)
    for key, value in keys.items():
        key_bytes, value_bytes = key.encode("utf-16-le"), value.encode("utf-16-le")
        table += struct.pack("<IIHH", at, at + len(key_bytes), len(key_bytes), len(value_bytes))
        texts += key_bytes + value_bytes
        at += len(key_bytes) + len(value_bytes)
    return kind.bytes_le + struct.pack("<HH", 0, len(keys)) + table + texts


@dataclass
class Disk:
    """A VHDX to be written. ``states`` has the state of blocks, ``contents`` the bytes of those that are stored."""

    size: int
    block_size: int = MIB
    sector_size: int = 512
    data_write: uuid.UUID = field(default_factory=uuid.uuid4)
    parent: dict[str, str] | None = None
    states: dict[int, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    stored: dict[int, set[int]] = field(default_factory=dict)
    """Sectors present in the blocks whose state is PARTIAL."""
    log_guid: uuid.UUID | None = None
    log: bytes = b""
    regions: list[tuple[uuid.UUID, int, int, int]] = field(default_factory=lambda: list(REGIONS))
    extra_items: list[tuple[uuid.UUID, bytes, int]] = field(default_factory=list)

    @property
    def ratio(self) -> int:
        return (1 << 23) * self.sector_size // self.block_size

    def items(self) -> list[tuple[uuid.UUID, bytes, int]]:
        items = [
            (FILE_PARAMETERS, struct.pack("<II", self.block_size, 2 if self.parent else 0), 4),
            (DISK_SIZE, struct.pack("<Q", self.size), 6),
            (DISK_ID, uuid.uuid4().bytes_le, 6),
            (LOGICAL, struct.pack("<I", self.sector_size), 6),
            (PHYSICAL, struct.pack("<I", 4096), 6),
        ]
        if self.parent:
            items.append((PARENT_LOCATOR, parent_locator(self.parent), 4))
        return items + self.extra_items

    def bat_index(self, block: int) -> int:
        return block + block // self.ratio

    def write(self, path: Path) -> None:
        with path.open("wb") as out:
            for at, content in self._parts():
                out.seek(at)
                out.write(content)
            end = -(-out.tell() // MIB) * MIB
            out.truncate(max(end, BLOCKS_AT))

    def _parts(self):
        yield 0, b"vhdxfile" + "tests".encode("utf-16-le")
        yield 64 * KIB, header(6, self.data_write, None)
        yield 128 * KIB, header(7, self.data_write, self.log_guid)
        yield 192 * KIB, region_table(self.regions)
        yield 256 * KIB, region_table(self.regions)
        yield LOG_AT, self.log
        yield METADATA_AT, metadata(self.items())
        at = BLOCKS_AT
        bitmaps: dict[int, bytearray] = {}
        for block, state in self.states.items():
            offset = 0
            if block in self.contents:
                offset, at = at, at + self.block_size
                yield offset, self.contents[block]
            yield BAT_AT + 8 * self.bat_index(block), struct.pack("<Q", offset | state)
            if state == PARTIAL and block in self.stored:
                bitmap = bitmaps.setdefault(block // self.ratio, bytearray(MIB))
                first = block % self.ratio * (self.block_size // self.sector_size)
                for sector in self.stored[block]:
                    bitmap[(first + sector) // 8] |= 1 << (first + sector) % 8
        for chunk, bitmap in bitmaps.items():
            yield BAT_AT + 8 * (chunk * (self.ratio + 1) + self.ratio), struct.pack("<Q", at | FULL)
            yield at, bytes(bitmap)
            at += MIB
        yield at, b""


def log_entry(
    guid: uuid.UUID,
    sequence: int,
    tail: int,
    writes: list[tuple[int, bytes | int]],
    *,
    flushed: int = BLOCKS_AT,
    last: int = BLOCKS_AT,
) -> bytes:
    """An entry; a write is an offset in the file and 4 KiB of content, or the length of zeros."""
    described = -(-(64 + 32 * len(writes)) // (4 * KIB)) * 4 * KIB
    data = [content for _, content in writes if isinstance(content, bytes)]
    content = bytearray(described + len(data) * 4 * KIB)
    fields = (b"loge", 0, len(content), tail, sequence, len(writes), 0, guid.bytes_le, flushed, last)
    struct.pack_into("<4sIIIQII16sQQ", content, 0, *fields)
    at = described
    for number, (offset, what) in enumerate(writes):
        place = 64 + 32 * number
        if isinstance(what, int):
            struct.pack_into("<4sIQQQ", content, place, b"zero", 0, what, offset, sequence)
            continue
        struct.pack_into("<4s4s8sQQ", content, place, b"desc", what[-4:], what[:8], offset, sequence)
        struct.pack_into("<4sI4084sI", content, at, b"data", sequence >> 32, what[8:-4], sequence & 0xFFFFFFFF)
        at += 4 * KIB
    return seal(content)


def ring(pieces: list[tuple[int, bytes]], length: int = MIB) -> bytes:
    """A log of ``length`` bytes with the pieces at their offsets; what goes past the end goes on at the start."""
    log = bytearray(length)
    for offset, content in pieces:
        first = content[: length - offset]
        log[offset : offset + len(first)] = first
        log[: len(content) - len(first)] = content[len(first) :]
    return bytes(log)
