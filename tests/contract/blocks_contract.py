"""The contract every ``Blocks`` keeps, as one function: call it with an open instance and the bytes an oracle says it holds.

check_blocks(blocks, oracle)                 # oracle: bytes, or a function (offset, length) -> bytes for huge disks
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mntapi.blocks import read
from mntapi.errors import Invalid, MntapiError
from mntapi.types import Blocks, ExtentKind

Oracle = bytes | Callable[[int, int], bytes]


def check_blocks(blocks: Blocks, oracle: Oracle, *, ranges: int = 200, seed: int = 1) -> None:
    """Random ranges, the ends, extents, and 8 threads at once, against the oracle."""
    want = (lambda offset, length: oracle[offset : offset + length]) if isinstance(oracle, bytes) else oracle
    if isinstance(oracle, bytes):
        assert blocks.size == len(oracle)
        assert b"".join(read(blocks, at, min(1 << 20, blocks.size - at)) for at in range(0, blocks.size, 1 << 20)) == oracle
    picks = list(_ranges(blocks.size, ranges, random.Random(seed)))
    for offset, length in picks:
        assert read(blocks, offset, length) == want(offset, length), (offset, length)
    _check_ends(blocks, want)
    _check_extents(blocks, picks)
    with ThreadPoolExecutor(8) as pool:
        for (offset, length), got in zip(picks, pool.map(lambda pick: read(blocks, *pick), picks), strict=True):
            assert got == want(offset, length), ("threads", offset, length)


def _ranges(size: int, count: int, rng: random.Random):
    for _ in range(count if size else 0):
        length = min(size, rng.choice((1, 7, 511, 512, 513, 4096, 4097, 65536, 65537, 200_000)))
        yield rng.randrange(size - length + 1), length


def _check_ends(blocks: Blocks, want: Callable[[int, int], bytes]) -> None:
    size = blocks.size
    if size:
        assert read(blocks, size - 1, 1) == want(size - 1, 1)
        assert read(blocks, 0, 1) == want(0, 1)
    assert read(blocks, size, 0) == b""
    for offset, length in ((size, 1), (max(0, size - 1), 2), (-1, 1), (size + 4096, 1)):
        with pytest.raises(Invalid):
            blocks.readinto(offset, memoryview(bytearray(length)))
    with pytest.raises(Invalid):
        list(blocks.extents(0, size + 1))


def _check_extents(blocks: Blocks, picks: list[tuple[int, int]]) -> None:
    assert list(blocks.extents(0, 0)) == []
    for offset, length in [*picks[:50], *([(0, blocks.size)] if blocks.size <= 1 << 30 else [])]:
        at = offset
        for extent in blocks.extents(offset, length):
            assert extent.offset == at and extent.length > 0
            at = extent.end
            if extent.kind is ExtentKind.ZERO:
                sample = min(extent.length, 1 << 20)
                assert read(blocks, extent.offset, sample).count(0) == sample, "a ZERO extent that holds data"
        assert at == offset + length


def check_closed(blocks: Blocks) -> None:
    """Closing twice is fine, reading afterwards raises. For blocks that own what they read."""
    blocks.close()
    blocks.close()
    with pytest.raises(MntapiError):
        blocks.readinto(0, memoryview(bytearray(1)))
