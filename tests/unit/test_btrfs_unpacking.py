"""Unpacking extents: LZO1X against lzop, zlib and zstd against what packs them, and packed bytes that lie."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.mounting import need
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.filesystems.btrfs import lzo
from mntapi.filesystems.btrfs.compression import unpacked

SECTOR = 4096
ZLIB, LZO, ZSTD = 1, 2, 3


def words(size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    known = [rng.randbytes(rng.randrange(1, 40)) for _ in range(60)]
    result = b""
    while len(result) < size:
        result += rng.choice(known) * rng.choice((1, 1, 1, 2, 90))
        result += rng.randbytes(rng.choice((0, 0, 1, 2, 3, 5, 300)))
    return result[:size]


SAMPLES = {
    "words": words(250_000, 1),
    "zeros": bytes(200_000),
    "noise": random.Random(2).randbytes(60_000),
    "far": words(20_000, 3) + random.Random(4).randbytes(30_000) + words(20_000, 3),
    "short": b"abcabcabcabcabcabcabcabcabc" * 3,
    "sector": words(SECTOR, 5),
}


def lzop_blocks(content: bytes, level: int) -> list[tuple[int, bytes]]:
    """What lzop packs, by block: (bytes it unpacks to, stream). Source: lzop 1.04, ``src/lzop.c`` for the container."""
    done = subprocess.run(["lzop", f"-{level}", "-F", "-c"], input=content, capture_output=True, check=True)
    packed = done.stdout
    name_at = 9 + 6 + 2 + 4 + 12
    at = name_at + 1 + packed[name_at] + 4
    skipped = 4 * (packed[name_at - 13] & 1)  # -9 has the content's Adler-32, although -F says not to
    blocks = []
    while True:
        (size,) = struct.unpack_from(">I", packed, at)
        if not size:
            return blocks
        (length,) = struct.unpack_from(">I", packed, at + 4)
        at += 8 + skipped
        blocks.append((size, packed[at : at + length]))
        at += length


@pytest.mark.parametrize("level", [1, 3, 9])
@pytest.mark.parametrize("name", SAMPLES)
def test_lzo_against_lzop(name: str, level: int) -> None:
    need("lzop")
    content, at = SAMPLES[name], 0
    for size, packed in lzop_blocks(content, level):
        if len(packed) < size:  # else it is stored as it is
            assert lzo.unpack(packed, size) == content[at : at + size]
            with pytest.raises(Corrupt, match="unpacks to more"):
                lzo.unpack(packed, size - 1)
        at += size
    assert at == len(content)


END = b"\x11\0\0"


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"", "ends too early"),
        (b"\x15abcd", "ends too early"),
        (b"\x15abcd" + END[:2], "ends too early"),
        (b"\xff", "ends too early"),
        (b"\0\0\0\0", "ends too early"),
        (b"\x15abcd" + END + b"x", "goes on behind its end"),
        (b"\x15abcd\x40\xff" + END, "back before its start"),
        (b"\x15abcd\x20" + bytes(300) + b"\xff\0\0" + END, "unpacks to more"),
    ],
)
def test_lzo_streams_that_lie(packed: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        lzo.unpack(packed, SECTOR)


def test_lzo_by_hand() -> None:
    """After Linux Documentation/staging/lzo.rst, one instruction of each form."""
    assert lzo.unpack(b"\x15abcd" + END, 4) == b"abcd"
    assert lzo.unpack(b"\x13ab" + END, 100) == b"ab"
    assert lzo.unpack(b"\x15abcd\x6c\0" + END, 100) == b"abcd" + b"abcd"  # 01 L=1 D=3 S=0, H=0: 4 bytes from 4 back
    assert lzo.unpack(b"\x15abcd\x61\0x" + END, 100) == b"abcd" + b"dddd" + b"x"  # the same from 1 back, and a literal
    assert lzo.unpack(b"\x15abcd\xec\0" + END, 100) == b"abcd" + b"abcdabcd"  # 1 LL=3 DDD=3 S=0: 8 bytes from 4 back
    assert lzo.unpack(b"\x15abcd\x24\x0c\0" + END, 100) == b"abcd" + b"abcdab"  # 001 L=4, D=3 S=0: 6 bytes from 4 back
    assert lzo.unpack(b"\x13ab\x04\0" + END, 100) == b"ab" + b"ab"  # 0000 D=1 S=0 after 2 literals: 2 bytes from 2 back
    far = bytes(range(1, 251)) * 9  # 2250 bytes: a run of 18 + 8 * 255 + 192
    assert lzo.unpack(b"\0" + bytes(8) + b"\xc0" + far + b"\0\0" + END, 3000) == far + far[201:204]  # 3 bytes from 2049 back


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_lzo_of_anything_ends(packed: bytes) -> None:
    try:
        assert len(lzo.unpack(packed, SECTOR)) <= SECTOR
    except Corrupt:
        assert True


def segments(*streams: bytes, total: int | None = None) -> bytes:
    """As btrfs has them: a length before each, none of which crosses the border of a sector."""
    result = bytearray(4)
    for stream in streams:
        if SECTOR - len(result) % SECTOR < 4:
            result += bytes(SECTOR - len(result) % SECTOR)
        result += struct.pack("<I", len(stream)) + stream
    result[:4] = struct.pack("<I", len(result) if total is None else total)
    return bytes(result)


def literal(content: bytes) -> bytes:
    """A stream of one run."""
    length = len(content) - 18
    return b"\0" + bytes(length // 255) + bytes([length % 255]) + content + END


def repeating(length: int) -> tuple[bytes, bytes]:
    """A stream of this length, and the sector that it unpacks to: a run, and its last byte again and again."""
    head = literal(bytes(range(256)) * 16)[:-3]
    count = length - 3 - (len(head) - SECTOR) - 4
    run = literal((bytes(range(256)) * 16)[:count])[:-3]
    return run + b"\x20" + bytes([SECTOR - count - 33]) + b"\0\0" + END, (bytes(range(256)) * 16)[:count] + bytes(
        [(count - 1) % 256]
    ) * (SECTOR - count)


def test_lzo_segments() -> None:
    noise = random.Random(7).randbytes(3 * SECTOR - 1000)
    streams = [literal(noise[at : at + SECTOR]) for at in range(0, len(noise), SECTOR)]
    packed = segments(*streams)
    assert unpacked(LZO, packed + bytes(100), 3 * SECTOR, SECTOR) == noise + bytes(1000)
    for length in range(4076, 4087):  # the second length comes to the end of a sector, and over it
        first, content = repeating(length)
        packed = segments(first, literal(noise[:SECTOR]))
        assert unpacked(LZO, packed, 2 * SECTOR, SECTOR) == content + noise[:SECTOR]


@pytest.mark.parametrize(
    ("packed", "size", "message"),
    [
        (b"\0", SECTOR, "cut off"),
        (segments(literal(bytes(100)), total=4), SECTOR, "bytes of LZO segments"),
        (segments(literal(bytes(100)), total=1 << 20), SECTOR, "bytes of LZO segments"),
        (segments(b""), SECTOR, "segment of 0 bytes"),
        (struct.pack("<2I", 100, 1000) + bytes(200), SECTOR, "segment of 1000 bytes"),
        (segments(literal(bytes(100)), literal(bytes(100))), 2 * SECTOR, "in the middle"),
        (segments(literal(bytes(SECTOR))), 2 * SECTOR, "to too little"),
        (struct.pack("<I", 5) + b"\0", SECTOR, "cut off"),
    ],
)
def test_lzo_segments_that_lie(packed: bytes, size: int, message: str) -> None:
    with pytest.raises(Corrupt, match=message):
        unpacked(LZO, packed, size, SECTOR)


@pytest.mark.parametrize("size", [100, SECTOR, 100_000, 128 * 1024])
def test_zlib_and_zstd(size: int) -> None:
    content = words(size, size)
    for kind, packed in (
        (ZLIB, zlib.compress(content)),
        (ZSTD, zstandard.ZstdCompressor(level=3).compress(content)),
        (ZSTD, zstandard.ZstdCompressor(level=3, write_content_size=False).compress(content)),
    ):
        assert unpacked(kind, packed, size, SECTOR) == content
        assert unpacked(kind, packed + bytes(5000), size, SECTOR) == content
        assert unpacked(kind, packed, size + SECTOR - 1, SECTOR) == content + bytes(SECTOR - 1)
        with pytest.raises(Corrupt):
            unpacked(kind, packed, size + SECTOR, SECTOR)
        with pytest.raises(Corrupt):
            unpacked(kind, packed[: len(packed) // 2], size, SECTOR)
        with pytest.raises(Corrupt):
            unpacked(kind, b"\xff" * 100, size, SECTOR)


def test_bombs() -> None:
    """64 MiB in a few kilobytes; a frame that says it is 16 EiB, and one that asks for a window of 8 MiB."""
    content = bytes(64 << 20)
    assert unpacked(ZLIB, zlib.compress(content), SECTOR, SECTOR) == bytes(SECTOR)
    for packed in (
        zstandard.ZstdCompressor().compress(content),
        zstandard.ZstdCompressor(write_content_size=False).compress(content),
        zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\xc0\x00" + b"\xfe" * 8 + bytes(100),
    ):
        with pytest.raises(Corrupt) as raised:
            unpacked(ZSTD, packed, SECTOR, SECTOR)
        assert raised.value.reason == "compression"


def test_unknown_compression() -> None:
    with pytest.raises(Unsupported, match="kind 4") as raised:
        unpacked(4, b"x", 1, SECTOR)
    assert raised.value.reason == "compression"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([ZLIB, LZO, ZSTD]), st.binary(max_size=300))
def test_anything_unpacks_or_is_an_error(kind: int, packed: bytes) -> None:
    try:
        assert len(unpacked(kind, packed, 2 * SECTOR, SECTOR)) == 2 * SECTOR
    except MntapiError as error:
        assert isinstance(error, Corrupt)
