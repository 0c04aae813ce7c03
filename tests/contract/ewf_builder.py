"""EWF segment files made by hand, for what ewfacquire does not write: lists of errors, damage, other layouts."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

SIGNATURE = b"EVF\x09\x0d\x0a\xff\x00"
CHUNK = 32768


def checked(raw: bytes) -> bytes:
    """With its Adler-32 behind it."""
    return raw + zlib.adler32(raw).to_bytes(4, "little")


def volume(size: int, *, chunks: int | None = None, sector: int = 512, per_chunk: int = 64) -> bytes:
    """The content of a volume section."""
    count = -(-size // (sector * per_chunk)) if chunks is None else chunks
    return checked(struct.pack("<B3xIIIQ", 1, count, per_chunk, sector, size // sector).ljust(1048, b"\0"))


def table(entries: list[int], base: int) -> bytes:
    """The content of a table section."""
    header = checked(struct.pack("<I4xQ4x", len(entries), base))
    return header + checked(struct.pack(f"<{len(entries)}I", *entries))


def errors(ranges: list[tuple[int, int]]) -> bytes:
    """The content of an error2 section: (first sector, count)."""
    return checked(struct.pack("<I512x", len(ranges))) + checked(b"".join(struct.pack("<II", *one) for one in ranges))


@dataclass
class Segment:
    """Sections one after the other; each call appends one and returns the offset of its content."""

    number: int = 1
    raw: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.raw += SIGNATURE + struct.pack("<BHH", 1, self.number, 0)

    def section(self, kind: str, content: bytes = b"", *, following: int | None = None, size: int | None = None) -> int:
        offset = len(self.raw)
        end = offset + 76 + len(content)
        is_last = kind in ("next", "done")
        next_offset = following if following is not None else offset if is_last else end
        length = size if size is not None else 76 + len(content)
        self.raw += checked(struct.pack("<16sQQ40x", kind.encode(), next_offset, length)) + content
        return offset + 76

    def chunks(self, content: bytes, *, packed: bool = True, copy: bool = True, chunk: int = CHUNK) -> list[int]:
        """Sectors, table and its copy. Returns where each chunk is."""
        begin = len(self.raw)
        body, entries, places = bytearray(), [], []
        for at in range(0, len(content), chunk):
            piece = content[at : at + chunk]
            places.append(begin + 76 + len(body))
            entries.append(76 + len(body) | (1 << 31 if packed else 0))
            body += zlib.compress(piece) if packed else checked(piece)
        self.section("sectors", bytes(body))
        self.section("table", table(entries, begin))
        if copy:
            self.section("table2", table(entries, begin))
        return places

    def write(self, path: Path) -> Path:
        path.write_bytes(self.raw)
        return path


def image(content: bytes, **options: bool) -> Segment:
    """A whole image in one segment."""
    segment = Segment()
    segment.section("volume", volume(len(content)))
    segment.chunks(content, **options)  # type: ignore[arg-type]
    segment.section("done")
    return segment
