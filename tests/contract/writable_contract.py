"""The contract every ``WritableBlocks`` keeps, as one function: random writes and reads beside a plain ``bytearray``."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mntapi.blocks import read
from mntapi.blocks.memory_overlay import MemoryOverlay
from mntapi.blocks.writable import zero_out
from mntapi.errors import Invalid, Unsupported
from mntapi.types import Blocks, ExtentKind, WritableBlocks

LENGTHS = (1, 7, 15, 16, 511, 512, 513, 4096, 4097, 20_000, 70_000)


def over(contents: Sequence[Blocks]) -> list[MemoryOverlay]:
    """A place to write over each."""
    return [MemoryOverlay(one) for one in contents]


def check_writable(blocks: WritableBlocks, shown: Blocks, *, writes: int = 120, seed: int = 1) -> bytes:
    """Random writes, zeros, the ends, and threads. ``shown`` is what only reads them. Returns what they hold afterwards."""
    assert isinstance(blocks, WritableBlocks) and not isinstance(shown, WritableBlocks)
    assert (blocks.size, blocks.sector_size) == (shown.size, shown.sector_size)
    want = bytearray(read(shown, 0, shown.size))
    rng = random.Random(seed)
    for _ in range(writes):
        offset, content = _pick(blocks.size, rng)
        blocks.write(offset, memoryview(content))
        want[offset : offset + len(content)] = content
        near = max(0, offset - 600)
        assert read(blocks, near, min(70_000, blocks.size - near)) == want[near : near + 70_000]
    assert read(shown, 0, shown.size) == want
    _check_zeros(blocks, want, rng)
    _check_ends(blocks)
    _check_threads(blocks, want)
    blocks.flush()
    assert read(blocks, 0, blocks.size) == read(shown, 0, shown.size) == want
    return bytes(want)


def _pick(size: int, rng: random.Random) -> tuple[int, bytes]:
    length = min(size, rng.choice(LENGTHS))
    return rng.randrange(size - length + 1), rng.randbytes(length)


def _check_zeros(blocks: WritableBlocks, want: bytearray, rng: random.Random) -> None:
    """Discarding leaves zeros or what was there, and ``zero_out`` zeros; or both are refused and change nothing."""
    for _ in range(10):
        offset, content = _pick(blocks.size, rng)
        try:
            blocks.discard(offset, len(content))
        except Unsupported as error:
            assert error.reason == "discard"
            assert read(blocks, 0, blocks.size) == want
            return
        got = read(blocks, offset, len(content))
        assert all(one in (0, two) for one, two in zip(got, want[offset : offset + len(content)], strict=True))
        zero_out(blocks, offset, len(content))
        want[offset : offset + len(content)] = bytes(len(content))
        assert read(blocks, 0, blocks.size) == want
        for extent in blocks.extents(0, blocks.size):
            if extent.kind is ExtentKind.ZERO:
                assert not any(want[extent.offset : extent.end])


def _check_ends(blocks: WritableBlocks) -> None:
    blocks.write(blocks.size, memoryview(b""))
    for offset, content in ((-1, b"x"), (blocks.size, b"x"), (blocks.size - 1, b"xy")):
        with pytest.raises(Invalid):
            blocks.write(offset, memoryview(content))
        with pytest.raises(Invalid):
            blocks.discard(offset, len(content))


def _check_threads(blocks: WritableBlocks, want: bytearray) -> None:
    """Eight threads, each with every eighth of neighbouring small pieces: none undoes the write of another, none reads what was
    never there."""
    piece, count = 100, min(400, blocks.size // 100)
    start = threading.Barrier(8)

    def work(number: int) -> None:
        rng = random.Random(number)
        start.wait(20)
        for index in range(number, count, 8):
            offset = index * piece
            for _ in range(2):
                content = rng.randbytes(piece)
                blocks.write(offset, memoryview(content))
                assert read(blocks, offset, piece) == content
            want[offset : offset + piece] = content

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, number) for number in range(8)]:
            done.result()
    assert read(blocks, 0, blocks.size) == want
