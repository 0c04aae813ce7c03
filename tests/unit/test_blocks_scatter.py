"""One range into several buffers: a host file and slices of one by ``preadv``, all else by ``readinto``. Oracle: the bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.raid_model import Memory
from mntapi.blocks import Fault, HostFile, Slice
from mntapi.blocks.scatter import readv
from mntapi.errors import Corrupt, Invalid, MntapiError, ReadFailed
from mntapi.types import Blocks

CONTENT = random.Random(5).randbytes(300_000)
SIZES = {
    "one": [1000],
    "small": [512, 4096, 1, 300, 0, 8192],
    "large": [40_000, 32_768, 65_536],
    "more than preadv takes": [7] * 2500,
}
START = 1234


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "disk"
    file.write_bytes(CONTENT)
    return file


def made(kind: str, path: Path) -> Blocks:
    file = HostFile.open(str(path))
    return {
        "file": file,
        "slice": Slice(Slice(file, 100, 299_900), 0, 299_000),
        "memory": Memory(CONTENT),
        "slice of memory": Slice(Memory(CONTENT), 100, 299_000),
    }[kind]


def places(sizes: list[int]) -> tuple[bytearray, list[memoryview]]:
    """Buffers in reverse order, a byte apart: nothing between them may be written."""
    room = bytearray(b"." * (sum(sizes) + len(sizes)))
    views, end = [], len(room)
    for size in sizes:
        views.append(memoryview(room)[end - size : end])
        end -= size + 1
    return room, views


@pytest.mark.parametrize("kind", ["file", "slice", "memory", "slice of memory"])
@pytest.mark.parametrize("name", SIZES)
def test_every_buffer_gets_its_bytes(kind: str, name: str, path: Path) -> None:
    blocks, sizes = made(kind, path), SIZES[name]
    room, views = places(sizes)
    readv(blocks, START, sum(sizes), views)
    base = START + (100 if "slice" in kind else 0)
    assert b"".join(views) == CONTENT[base : base + sum(sizes)]
    assert sum(map(len, views)) + len(sizes) == len(room)
    assert all(room[at] == ord(".") for at in between(sizes, len(room)))
    blocks.close()


def between(sizes: list[int], end: int) -> list[int]:
    found = []
    for size in sizes:
        end -= size + 1
        found.append(end)
    return found


@pytest.mark.parametrize("kind", ["file", "slice", "memory", "slice of memory"])
def test_outside_is_refused(kind: str, path: Path) -> None:
    blocks = made(kind, path)
    for offset in (-1, blocks.size - 1999, blocks.size + 1):
        with pytest.raises(Invalid):
            readv(blocks, offset, 2000, places([1000, 1000])[1])
    blocks.close()


def test_a_slice_does_not_look_over_its_edge(path: Path) -> None:
    """The file goes on behind it."""
    with pytest.raises(Invalid):
        readv(Slice(HostFile.open(str(path)), 1000, 1000), 0, 1001, places([1000, 1])[1])


def test_a_file_that_shrinks_is_an_error_with_its_place(path: Path) -> None:
    file = HostFile.open(str(path))
    os.truncate(path, 150_000)
    with pytest.raises(Corrupt, match=r"shorter.*150000"):
        readv(file, 100_000, 200_000, places([30_000, 30_000, 140_000])[1])
    file.close()
    with pytest.raises(MntapiError):
        readv(file, 0, 2, places([1, 1])[1])


def test_a_short_answer_is_asked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give fewer bytes than were asked for at any time."""
    preadv: Callable[..., int] = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][: (len(buffers[0]) + 1) // 2]], offset)
    )
    _, views = places([5000, 3, 9000])
    readv(HostFile.open(str(path)), START, 14_003, views)
    assert b"".join(views) == CONTENT[START : START + 14_003]


@pytest.mark.parametrize("name", ["small", "large"])
def test_errors_of_what_is_below(name: str) -> None:
    bad = Fault(Memory(CONTENT), bad=[(START + 1000, 1)])
    with pytest.raises(ReadFailed, match="injected"):
        readv(bad, START, sum(SIZES[name]), places(SIZES[name])[1])
