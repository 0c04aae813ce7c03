"""The simple blocks against the contract. Oracles: bytes made here, and what the host's own file holds."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.blocks import Cache, Concat, Fault, HostFile, Missing, Slice, Zero, read, read_clipped
from mntapi.errors import Busy, Corrupt, Denied, Invalid, NotFound, ReadFailed, Unsupported
from mntapi.types import Extent, ExtentKind

CONTENT = random.Random(7).randbytes(300_000) + bytes(200_000) + random.Random(8).randbytes(12_345)


@pytest.fixture
def host_path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as out:
        out.write(CONTENT[:300_000])
        out.seek(500_000)
        out.write(CONTENT[500_000:])
    return path


@pytest.fixture
def host_file(host_path: Path):
    blocks = HostFile.open(str(host_path))
    yield blocks
    blocks.close()


def test_host_file(host_file: HostFile) -> None:
    check_blocks(host_file, CONTENT)
    check_closed(host_file)


def test_host_file_finds_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.truncate(1 << 30)
        out.seek(1 << 29)
        out.write(b"x")
    blocks = HostFile.open(str(path))
    kinds = [extent.kind for extent in blocks.extents(0, 1 << 30)]
    assert kinds == [ExtentKind.ZERO, ExtentKind.DATA, ExtentKind.ZERO]
    assert list(blocks.extents(4096, 4096)) == [Extent(4096, 4096, ExtentKind.ZERO)]
    blocks.close()


def test_host_file_reads_leave_times_alone(host_path: Path) -> None:
    os.utime(host_path, ns=(1_000_000_000, 2_000_000_000))
    blocks = HostFile.open(str(host_path))
    read(blocks, 0, 4096)
    blocks.close()
    assert (host_path.stat().st_atime_ns, host_path.stat().st_mtime_ns) == (1_000_000_000, 2_000_000_000)


def test_host_file_that_shrinks_is_an_error_not_zeros(host_path: Path, host_file: HostFile) -> None:
    os.truncate(host_path, 1000)
    with pytest.raises(Corrupt) as caught:
        read(host_file, 500, 1000)
    assert caught.value.offset == 1000 and caught.value.path == str(host_path)


def test_what_cannot_be_a_disk(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        HostFile.open(str(tmp_path / "absent"))
    with pytest.raises(Unsupported):
        HostFile.open(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unsupported):
        HostFile.open(str(tmp_path / "pipe"))
    with pytest.raises(Unsupported):
        HostFile.open("/dev/null")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EACCES, Denied), (errno.EPERM, Denied), (errno.EMFILE, Busy), (errno.EIO, ReadFailed)]
)
def test_what_the_system_answers_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind) as caught:
        HostFile.open(str(tmp_path / "disk"))
    assert caught.value.path == str(tmp_path / "disk")


def test_slice(host_file: HostFile) -> None:
    check_blocks(Slice(host_file, 12_345, 400_000), CONTENT[12_345:412_345])
    check_blocks(Slice(Slice(host_file, 100_000, 300_000), 5, 290_000), CONTENT[100_005:390_005])
    check_blocks(Slice(host_file, 10, 0), b"")
    with pytest.raises(Invalid):
        Slice(host_file, 1, len(CONTENT))


def test_concat(host_file: HostFile) -> None:
    parts = [Slice(host_file, 0, 70_000), Zero(100_000), Slice(host_file, 5, 0), Slice(host_file, 70_000, 40_000)]
    check_blocks(Concat(parts), CONTENT[:70_000] + bytes(100_000) + CONTENT[70_000:110_000])
    with pytest.raises(Invalid):
        Concat([])


def test_zero() -> None:
    check_blocks(Zero(300_001), bytes(300_001))


def test_missing_bytes_are_an_error_and_never_zeros() -> None:
    blocks = Missing(300_001, "physical volume 7Zk9 is on a disk that was not given", hint="add it with -d")
    for offset, length in ((0, 1), (300_000, 1), (0, 300_001)):
        with pytest.raises(ReadFailed, match="7Zk9") as caught:
            blocks.readinto(offset, memoryview(bytearray(length)))
        assert caught.value.hint == "add it with -d"
    assert list(blocks.extents(5, 10)) == [Extent(5, 10, ExtentKind.DATA)]
    with pytest.raises(Invalid):
        blocks.readinto(300_001, memoryview(bytearray(1)))


def test_cache(host_file: HostFile) -> None:
    check_blocks(Cache(host_file, block_size=4096, capacity=64 * 1024, bypass=100_000), CONTENT)


def test_cache_keeps_what_it_read(host_path: Path, host_file: HostFile) -> None:
    cache = Cache(host_file)
    before = read(cache, 1000, 100)
    os.truncate(host_path, 0)
    assert read(cache, 1000, 100) == before


def test_one_bad_sector_costs_that_sector_only(host_file: HostFile) -> None:
    cache = Cache(Fault(host_file, bad=[(8192, 512)]), block_size=32 * 1024)
    assert read(cache, 8192 - 512, 512) == CONTENT[8192 - 512 : 8192]
    assert read(cache, 8704, 4096) == CONTENT[8704 : 8704 + 4096]
    with pytest.raises(ReadFailed) as caught:
        read(cache, 8000, 1000)
    assert caught.value.offset == 8192


def test_fault(host_file: HostFile) -> None:
    check_blocks(Fault(host_file), CONTENT)


def test_read_clipped(host_file: HostFile) -> None:
    assert read_clipped(host_file, len(CONTENT) - 10, 100) == CONTENT[-10:]
    assert read_clipped(host_file, len(CONTENT) + 10, 100) == b""
