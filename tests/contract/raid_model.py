"""A slow and simple model of RAID, to compare with: pictures of stripes as the manuals draw them, and arithmetic bit by bit.

Numbers are chunks of data, P and Q parity; one row a line of the picture, one column a member.
Sources: md(4); lvmraid(7), "RAID6 variants"; SNIA Common RAID DDF 2.0, section 4.2; the kernel's own arrays in tests/golden/md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mntapi.blocks import check_range, merged
from mntapi.types import Extent, ExtentKind

PICTURES = {
    "left-asymmetric": "0 1 2 P / 3 4 P 5 / 6 P 7 8 / P 9 10 11",
    "right-asymmetric": "P 0 1 2 / 3 P 4 5 / 6 7 P 8 / 9 10 11 P",
    "left-symmetric": "0 1 2 P / 4 5 P 3 / 8 P 6 7 / P 9 10 11",
    "right-symmetric": "P 0 1 2 / 5 P 3 4 / 7 8 P 6 / 9 10 11 P",
    "parity-first": "P 0 1 2",
    "parity-last": "0 1 2 P",
    "raid6-left-asymmetric": "Q 0 1 2 P / 3 4 5 P Q / 6 7 P Q 8 / 9 P Q 10 11 / P Q 12 13 14",
    "raid6-right-asymmetric": "P Q 0 1 2 / 3 P Q 4 5 / 6 7 P Q 8 / 9 10 11 P Q / Q 12 13 14 P",
    "raid6-left-symmetric": "Q 0 1 2 P / 3 4 5 P Q / 7 8 P Q 6 / 11 P Q 9 10 / P Q 12 13 14",
    "raid6-right-symmetric": "P Q 0 1 2 / 5 P Q 3 4 / 7 8 P Q 6 / 9 10 11 P Q / Q 12 13 14 P",
    "raid6-parity-first": "P Q 0 1 2",
    "raid6-parity-last": "0 1 2 P Q",
    "left-asymmetric-6": "0 1 2 P Q / 3 4 P 5 Q / 6 P 7 8 Q / P 9 10 11 Q",
    "right-asymmetric-6": "P 0 1 2 Q / 3 P 4 5 Q / 6 7 P 8 Q / 9 10 11 P Q",
    "left-symmetric-6": "0 1 2 P Q / 4 5 P 3 Q / 8 P 6 7 Q / P 9 10 11 Q",
    "right-symmetric-6": "P 0 1 2 Q / 5 P 3 4 Q / 7 8 P 6 Q / 9 10 11 P Q",
    "parity-first-6": "P 0 1 2 Q",
    "ddf-zero-restart": "P Q 0 1 2 / 3 P Q 4 5 / 6 7 P Q 8 / 9 10 11 P Q / Q 12 13 14 P",
    "ddf-n-restart": "0 1 2 P Q / 3 4 P Q 5 / 6 P Q 7 8 / P Q 9 10 11 / Q 12 13 14 P",
    "ddf-n-continue": "0 1 2 Q P / 4 5 Q P 3 / 8 Q P 6 7 / Q P 9 10 11 / P 12 13 14 Q",
}

RAID10_PICTURES = {
    (3, 2, 1, False): "0 0 1 / 1 2 2 / 3 3 4 / 4 5 5",
    (4, 2, 1, False): "0 0 1 1 / 2 2 3 3",
    (4, 3, 1, False): "0 0 0 1 / 1 1 2 2 / 2 3 3 3",
    (3, 1, 2, False): "0 1 2 / 3 4 5 / 2 0 1 / 5 3 4",
    (4, 2, 2, False): "0 0 1 1 / 2 2 3 3 / 1 1 0 0 / 3 3 2 2",
    (3, 1, 2, True): "0 1 2 / 2 0 1 / 3 4 5 / 5 3 4",
    (5, 1, 3, True): "0 1 2 3 4 / 4 0 1 2 3 / 3 4 0 1 2 / 5 6 7 8 9 / 9 5 6 7 8 / 8 9 5 6 7",
    (2, 2, 1, False): "0 0 / 1 1 / 2 2",
}
"""By (members, near, far, far is offset)."""


class Memory:
    """Blocks in memory that count their reads; aligned blocks of ``grain`` zero bytes are ZERO extents."""

    sector_size = 512

    def __init__(self, content: bytes, grain: int = 512) -> None:
        self.content = content
        self.size = len(content)
        self.reads = 0
        self._grain = grain

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        self.reads += 1
        buffer[:] = self.content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return merged(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        while offset < end:
            start = offset - offset % self._grain
            stop = min(end, start + self._grain)
            is_zero = not any(self.content[start : start + self._grain])
            yield Extent(offset, stop - offset, ExtentKind.ZERO if is_zero else ExtentKind.DATA)
            offset = stop

    def close(self) -> None:
        pass


def content(size: int, *, seed: int = 1, holes: int = 0) -> bytes:
    """Random bytes, with ``holes`` ranges of zeros."""
    rng = random.Random(seed)
    made = bytearray(rng.randbytes(size))
    for _ in range(holes):
        start = rng.randrange(size)
        length = min(size - start, size // 4)
        made[start : start + length] = bytes(length)
    return bytes(made)


def picture_rows(picture: str) -> list[list[str]]:
    return [line.split() for line in picture.split("/")]


def parity_members(layout: str, data: bytes, chunk: int) -> list[bytes]:
    """What the members hold when the array holds ``data``, a whole number of stripes."""
    rows = picture_rows(PICTURES[layout])
    width = sum(cell not in "PQ" for cell in rows[0])
    members: list[list[bytes]] = [[] for _ in rows[0]]
    for stripe in range(len(data) // chunk // width):
        row = rows[stripe % len(rows)]
        base = (stripe - stripe % len(rows)) * width
        cells = [None if cell in "PQ" else data[(base + int(cell)) * chunk : (base + int(cell) + 1) * chunk] for cell in row]
        present = [cell for cell in cells if cell is not None]
        for member, (cell, mark) in enumerate(zip(cells, row, strict=True)):
            if mark == "P":
                members[member].append(_sum(present))
            elif mark == "Q":
                members[member].append(_q(cells, member, is_ddf=layout.startswith("ddf")))
            else:
                members[member].append(cell or b"")
    return [b"".join(parts) for parts in members]


def raid10_members(picture: str, data: bytes, chunk: int) -> list[bytes]:
    """What the members hold; ``data`` is what the picture shows, once."""
    rows = picture_rows(picture)
    return [b"".join(data[int(row[member]) * chunk :][:chunk] for row in rows) for member in range(len(rows[0]))]


def _sum(columns: list[bytes]) -> bytes:
    total = bytearray(len(columns[0]))
    for column in columns:
        for index, byte in enumerate(column):
            total[index] ^= byte
    return bytes(total)


def _q(cells: list[bytes | None], q: int, *, is_ddf: bool) -> bytes:
    """Horner's rule from the last data disk to the first; DDF counts the parities as disks of zeros."""
    length = len(next(cell for cell in cells if cell is not None))
    order = cells if is_ddf else [cell for cell in cells[q + 1 :] + cells[:q] if cell is not None]
    total = bytearray(length)
    for cell in reversed(order):
        total = bytearray(_double(byte) for byte in total)
        if cell is not None:
            total = bytearray(_sum([bytes(total), cell]))
    return bytes(total)


def _double(byte: int) -> int:
    return (byte << 1) ^ (0x11D if byte & 0x80 else 0)
