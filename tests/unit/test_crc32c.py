"""CRC-32C, with ISA-L and without it: the vectors of RFC 3720, and longer data against the definition."""

from __future__ import annotations

import random

import pytest

from mntapi import crc32c as module
from mntapi import isal
from mntapi.crc32c import crc32c, crc32c_each


@pytest.fixture(params=["ISA-L", "Python"], autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Python":
        monkeypatch.setattr(module, "library", lambda: None)
    elif isal.library() is None:
        pytest.skip("libisal2 is not installed")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_vectors(data: bytes, expected: int) -> None:
    # RFC 3720 B.4, which writes them lowest byte first.
    assert crc32c(data) == expected


def one_bit_at_a_time(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("length", [255, 256, 511, 512, 513, 4096, 10_007])
def test_long_data(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == one_bit_at_a_time(data)


@pytest.mark.parametrize(("size", "count"), [(1, 5), (100, 3), (128, 2), (256, 1), (512, 9), (4096, 3), (512, 0)])
def test_many_pieces(size: int, count: int) -> None:
    data = random.Random(size).randbytes(size * count)
    expected = tuple(one_bit_at_a_time(data[at : at + size]) for at in range(0, len(data), size))
    assert crc32c_each(data, size) == expected


def test_many_pieces_are_looked_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library: one pass over the columns of all, not one for each piece."""
    passes = []
    columns = module._columns
    crc32c_each(bytes(4096), 4096)  # makes the tables
    monkeypatch.setattr(module, "_columns", lambda *arguments: passes.append(1) or columns(*arguments))
    crc32c_each(bytes(64 * 4096), 4096)
    assert len(passes) <= 1
