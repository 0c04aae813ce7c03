"""Physical volumes by the byte, for tests of what no tool would write: labels, metadata areas, texts. Checksums are right."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from zlib import crc32

from mntapi.blocks import check_range, whole
from mntapi.types import ExtentKind, Volume

SECTOR = 512
EXTENT = 64 * 1024
AREA_AT = 4096
AREA_SIZE = 256 * 1024
DATA_AT = 1 << 20
AREA_MAGIC = b" LVM2 x[5A%r0N*>"


class Memory:
    """Bytes as blocks."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.sector_size = SECTOR

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int):
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""


def crc(content: bytes) -> int:
    """LVM's CRC, bit by bit from its definition: polynomial EDB88320, start F597A6CF, nothing inverted."""
    return crc32(content, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def uuid(seed: str) -> str:
    """A UUID as LVM writes it."""
    text = re.sub("[^A-Za-z0-9]", "", seed).ljust(32, "x")[:32]
    return "-".join((text[:6], *(text[at : at + 4] for at in range(6, 26, 4)), text[26:]))


def label(
    seed: str,
    size: int,
    *,
    areas: Sequence[tuple[int, int]] = ((AREA_AT, AREA_SIZE),),
    number: int = 1,
    used: bool = True,
    start: int = 32,
    data: Sequence[tuple[int, int]] = ((DATA_AT, 0),),
    own: bytes | None = None,
) -> bytes:
    """A label sector."""
    header = (own or uuid(seed).replace("-", "").encode()) + struct.pack("<Q", size)
    for group in (data, areas):
        header += b"".join(struct.pack("<QQ", *area) for area in group) + bytes(16)
    header += struct.pack("<II", 2, used) + bytes(16)
    body = (struct.pack("<I8s", start, b"LVM2 001") + bytes(max(0, start - 32)) + header).ljust(SECTOR - 20, b"\0")[
        : SECTOR - 20
    ]
    return struct.pack("<8sQI", b"LABELONE", number, crc(body)) + body


def area_header(
    *,
    location: tuple[int, int, int, int] = (0, 0, 0, 0),
    start: int = AREA_AT,
    size: int = AREA_SIZE,
    version: int = 1,
    magic: bytes = AREA_MAGIC,
) -> bytes:
    """The header of a metadata area; ``location`` is offset, size, checksum, flags."""
    body = struct.pack("<16sIQQ", magic, version, start, size) + struct.pack("<QQII", *location)
    body = body.ljust(SECTOR - 4, b"\0")
    return struct.pack("<I", crc(body)) + body


def area(text: bytes, *, at: int = SECTOR, flags: int = 0, start: int = AREA_AT, size: int = AREA_SIZE) -> bytes:
    """A whole metadata area with a text at byte ``at`` of it, going on behind the header if it reaches the end."""
    content = bytearray(size)
    content[:SECTOR] = area_header(location=(at, len(text), crc(text), flags), start=start, size=size)
    first = min(len(text), size - at)
    content[at : at + first] = text[:first]
    content[SECTOR : SECTOR + len(text) - first] = text[first:]
    return bytes(content)


def disk(seed: str, text: str | bytes | None, *, extents: int = 16, at: int = SECTOR, flags: int = 0, fill: str = "") -> bytes:
    """A whole physical volume. ``text`` None: it has a metadata area, and no group."""
    content = bytearray(DATA_AT + extents * EXTENT)
    content[SECTOR : 2 * SECTOR] = label(seed, len(content), used=text is not None)
    stored = text.encode() if isinstance(text, str) else text
    content[AREA_AT : AREA_AT + AREA_SIZE] = (
        area(stored, at=at, flags=flags) if stored is not None else area_header().ljust(AREA_SIZE, b"\0")
    )
    for extent in range(extents):
        start = DATA_AT + extent * EXTENT
        content[start : start + EXTENT] = f"{fill}{seed} {extent}.".encode().ljust(EXTENT, b".")
    return bytes(content)


def group_text(
    logical: str,
    *,
    physical: Sequence[str] = ("one",),
    generation: int = 1,
    name: str = "vg",
    extents: int = 16,
    more: str = "",
) -> str:
    """A group's metadata: physical volumes pv0, pv1 ... named by their seeds; ``logical`` as ``volume`` makes it."""
    listed = "".join(
        f'pv{index} {{ id = "{uuid(seed)}" status = ["ALLOCATABLE"] flags = []\n'
        f"pe_start = {DATA_AT // SECTOR} pe_count = {extents} }}\n"
        for index, seed in enumerate(physical)
    )
    return (
        f'{name} {{\nid = "{uuid("group" + name)}"\nseqno = {generation}\nformat = "lvm2" # informational\n'
        f'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = []\nextent_size = {EXTENT // SECTOR}\n{more}'
        f"physical_volumes {{\n{listed}}}\nlogical_volumes {{\n{logical}}}\n}}\n"
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = "a \\"test\\""\n\0'
    )


def volume(name: str, *segments: str, visible: bool = True, more: str = "") -> str:
    """A logical volume; each segment as ``segment`` makes it."""
    status = '"READ", "WRITE"' + (', "VISIBLE"' if visible else "")
    inner = "\n".join(f"segment{index} {{ {text} }}" for index, text in enumerate(segments, 1))
    return f'{name} {{ id = "{uuid(name)}" status = [{status}] flags = [] {more} segment_count = {len(segments)}\n{inner} }}\n'


def segment(first: int, count: int, kind: str, rest: str) -> str:
    """A segment of any kind."""
    return f'start_extent = {first} extent_count = {count} type = "{kind}" {rest}'


def linear(first: int, count: int, below: str, at: int) -> str:
    """A linear segment over a physical or logical volume."""
    return segment(first, count, "striped", f'stripe_count = 1 stripes = [\n"{below}", {at}\n]')


def found(content: bytes, name: str = "disk0", key: str | None = None) -> Volume:
    """The volume a scan would claim."""
    return Volume(id=key or f"disk:{name}", name=name, kind="disk", blocks=Memory(content), disk=0, offset=0)
