"""The checksums of btrfs against their specifications, XXH64 with and without the C library of this host."""

from __future__ import annotations

import random

import pytest

from mntapi import crc32c
from mntapi.filesystems.btrfs import checksums
from mntapi.filesystems.btrfs.checksums import ALGORITHMS, has_libxxhash, plain_xxh64, xxh64_by
from mntapi.filesystems.btrfs.xxh64 import xxh64

NOISE = random.Random(1).randbytes(20_000)


def test_crc32c_of_the_rfc() -> None:
    """RFC 3720, appendix B.4."""
    for content, value in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)):
        assert ALGORITHMS[0].of(content) == value.to_bytes(4, "little")


def test_xxh64_of_its_specification() -> None:
    """As libxxhash 0.8.1 computes them; the first is in the specification too."""
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc") == 0x44BC2CF5AD770999


def test_the_library_agrees_with_our_own() -> None:
    for length in (0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 100, 255, 4096, 4096 - 32, 16384 - 32, 20_000):
        content = NOISE[:length]
        assert ALGORITHMS[1].of(content) == plain_xxh64(content)
    assert xxh64_by("libnone.so") is plain_xxh64
    assert xxh64_by("libc.so.6") is plain_xxh64  # a library without the function


def test_whether_there_is_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for digest, found in ((plain_xxh64, False), (lambda data: data, True)):
        monkeypatch.setattr(checksums, "_XXH64", digest)
        assert has_libxxhash() is found


def test_crc32c_of_many_sectors_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the definition: sectors are verified together."""
    monkeypatch.setattr(crc32c, "library", lambda: None)
    monkeypatch.setattr(crc32c, "crc32c_raw", None)  # of one sector alone, which is slow
    pieces = b"123456789".ljust(128, b"a"), bytes(128), b"\xff" * 128
    expected = b"".join(one.to_bytes(4, "little") for one in map(bit_by_bit, pieces))
    assert ALGORITHMS[0].each(memoryview(b"".join(pieces)), 128) == expected


def bit_by_bit(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_many_sectors_at_once(kind: int) -> None:
    algorithm = ALGORITHMS[kind]
    sectors = NOISE[:16384]
    assert algorithm.each(memoryview(bytearray(sectors)), 4096) == b"".join(
        algorithm.of(sectors[at : at + 4096]) for at in range(0, 16384, 4096)
    )
    assert len(algorithm.of(b"")) == algorithm.size
