"""Every format that is written, read back by qemu-img and libyal's tools."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.make_disk import need, run
from mntapi.blocks import Fault, Slice, check_range
from mntapi.errors import Invalid, ReadFailed, Unsupported
from mntapi.export import FORMATS, Converted, ConvertOptions, convert, qcow2
from mntapi.export.batches import BATCH, Batch, Piece, batches
from mntapi.export.newfile import NewFile, new_file
from mntapi.export.vmdk_stream import VmdkStreamWriter, descriptor
from mntapi.export.writer import Target
from mntapi.types import Extent, ExtentKind
from mntapi.units import GIB, KIB, MIB, SECTOR, TIB

NAMES = [format_.name for format_ in FORMATS]
DRIVERS = {"raw": "raw", "qcow2": "qcow2", "vmdk-stream": "vmdk", "vhdx": "vhdx"}
"""What QEMU calls them."""


class Sparse:
    """A disk with a few islands of data. It refuses to read a unit of 64 KiB in which there is none."""

    def __init__(self, size: int, islands: dict[int, bytes], sector_size: int = 512) -> None:
        self.size = size
        self.sector_size = sector_size
        self._starts = sorted(islands)
        self._islands = islands

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = bytes(len(buffer))
        first = offset // (64 * KIB) * 64 * KIB
        reached = 0
        for start in self._starts[max(0, bisect_right(self._starts, first) - 1) :]:
            content = self._islands[start]
            if start >= offset + len(buffer) + 64 * KIB:
                break
            begin, end = max(start, offset), min(start + len(content), offset + len(buffer))
            reached += start + len(content) > first
            if begin < end:
                buffer[begin - offset : end - offset] = content[begin - start : end - start]
        assert reached, f"a hole was read at {offset}"

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        position, end = offset, offset + length
        for start in self._starts:
            stop = min(end, start + len(self._islands[start]))
            if stop <= position:
                continue
            if start > position:
                yield Extent(position, min(start, end) - position, ExtentKind.ZERO)
            if start < end:
                yield Extent(max(start, position), stop - max(start, position), ExtentKind.DATA)
            position = stop
        if position < end:
            yield Extent(position, end - position, ExtentKind.ZERO)

    def close(self) -> None:
        """Nothing to release."""


def islands(size: int, seed: int = 1) -> dict[int, bytes]:
    """Data at both ends, around the borders of clusters, tables and blocks, and anywhere; much of it can be compressed."""
    rng = random.Random(seed)
    wanted = [0, size - 700, 64 * KIB - 300, 32 * MIB - 5000, 512 * MIB - 70_000, *(rng.randrange(size) for _ in range(30))]
    found: dict[int, bytes] = {}
    end = 0
    for start in sorted(start for start in wanted if 0 <= start < size):
        length = min(rng.choice((1, 512, 4096, 65536, 140_001)), size - start)
        if start >= end:
            found[start] = rng.randbytes(length // 2) + b"ab" * (length // 4) + b"z" * (length - length // 2 - length // 4 * 2)
            end = start + length
    return found


def write_raw(path: Path, data: dict[int, bytes], size: int) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
        for start, content in data.items():
            out.seek(start)
            out.write(content)
    return path


def check_by_qemu(path: Path, name: str, raw: Path) -> None:
    """qemu-img finds the file without fault and the same bytes in it."""
    run("qemu-img", "compare", "-f", "raw", "-F", DRIVERS[name], raw, path)
    if name != "raw":
        run("qemu-img", "check", "-f", DRIVERS[name], path)


def told_by_qemu(path: Path, name: str) -> dict:
    return json.loads(run("qemu-img", "info", "--output=json", "-f", DRIVERS[name], path))


SIZES = [SECTOR, 64 * KIB, 64 * KIB + SECTOR, 32 * MIB, 32 * MIB + 3 * SECTOR, 513 * MIB + 5 * SECTOR]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_reads_back(tmp_path: Path, name: str, size: int) -> None:
    need("qemu-img")
    data = islands(size)
    source = Sparse(size, data)
    raw = write_raw(tmp_path / "raw", data, size)
    told = convert(source, str(tmp_path / "out"), ConvertOptions(name, sha256=size < 40 * MIB))
    check_by_qemu(tmp_path / "out", name, raw)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest() if size < 40 * MIB else None
    assert told == Converted(str(tmp_path / "out"), name, size, told.bytes_written, digest)
    assert told_by_qemu(tmp_path / "out", name)["virtual-size"] == size
    assert sorted(os.listdir(tmp_path)) == ["out", "raw"]


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("size", SIZES)
def test_compressed_qcow2_reads_back(tmp_path: Path, compression: str, size: int) -> None:
    need("qemu-img")
    data = islands(size, seed=2)
    if size > MIB:  # this does not get shorter, and lies between some that do
        data[20 * MIB] = random.Random(3).randbytes(300_000)
        data = {start: data[start] for start in sorted(data) if not 20 * MIB < start < 21 * MIB}
    source = Sparse(size, data)
    raw = write_raw(tmp_path / "raw", data, size)
    convert(source, str(tmp_path / "out"), ConvertOptions("qcow2", compression=compression))
    check_by_qemu(tmp_path / "out", "qcow2", raw)
    assert told_by_qemu(tmp_path / "out", "qcow2")["format-specific"]["data"]["compression-type"] == compression


def test_many_compressed_clusters_share_a_host_cluster(tmp_path: Path) -> None:
    need("qemu-img")
    data = {0: b"".join(bytes([one]) * 64 * KIB for one in range(1, 200))}
    source = Sparse(16 * MIB, data)
    raw = write_raw(tmp_path / "raw", data, 16 * MIB)
    convert(source, str(tmp_path / "out"), ConvertOptions("qcow2", compression="zlib"))
    check_by_qemu(tmp_path / "out", "qcow2", raw)
    told = json.loads(run("qemu-img", "check", "--output=json", tmp_path / "out"))
    assert (told["compressed-clusters"], told["allocated-clusters"]) == (199, 199)
    assert (tmp_path / "out").stat().st_size < 600 * KIB


@pytest.mark.parametrize("name", NAMES)
def test_disks_without_data_take_no_room(tmp_path: Path, name: str) -> None:
    """Neither holes nor zeros that the source says are data are written."""
    need("qemu-img")
    size = 100 * MIB
    source = Sparse(size, {5 * MIB: bytes(10 * MIB), 50 * MIB + 77: bytes(3 * MIB + 123)})
    raw = write_raw(tmp_path / "raw", {}, size)
    convert(source, str(tmp_path / "out"), ConvertOptions(name))
    check_by_qemu(tmp_path / "out", name, raw)
    if name != "vhdx":  # of which qemu-img tells no map
        mapped = json.loads(run("qemu-img", "map", "--output=json", "-f", DRIVERS[name], tmp_path / "out"))
        assert [(one["start"], one["length"], one["data"]) for one in mapped] == [(0, size, False)]
    assert (tmp_path / "out").stat().st_blocks * 512 < 5 * MIB


@pytest.mark.parametrize("name", NAMES)
def test_zeros_among_data_become_holes(tmp_path: Path, name: str) -> None:
    need("qemu-img")
    data = {0: b"\1" * 64 * KIB + bytes(640 * KIB) + b"\0\1" * 32 * KIB}
    source = Sparse(MIB, data)
    raw = write_raw(tmp_path / "raw", data, MIB)
    told = convert(source, str(tmp_path / "out"), ConvertOptions(name))
    check_by_qemu(tmp_path / "out", name, raw)
    assert told.bytes_written < 768 * KIB
    if name == "raw":
        assert told.bytes_written == 128 * KIB


def test_a_disk_that_ends_within_a_sector(tmp_path: Path) -> None:
    """A raw file keeps its size; the others count in sectors and end with zeros."""
    need("qemu-img")
    source = Sparse(100_001, {99_000: b"x" * 1001})
    contents = bytes(99_000) + b"x" * 1001
    for name in NAMES:
        told = convert(source, str(tmp_path / name), ConvertOptions(name, sha256=True))
        padded = contents if name == "raw" else contents.ljust(196 * SECTOR, b"\0")
        assert (told.virtual_size, told.sha256) == (len(padded), hashlib.sha256(padded).hexdigest())
        (tmp_path / "raw-file").write_bytes(padded)
        check_by_qemu(tmp_path / name, name, tmp_path / "raw-file")
    assert (tmp_path / "raw").read_bytes() == contents


def test_4096_byte_sectors_are_kept_where_the_format_has_them(tmp_path: Path) -> None:
    need("qemu-img", "vhdiinfo")
    data = {0: b"first", 8 * MIB - 4096: b"last" * 1024}
    source = Sparse(8 * MIB, data, sector_size=4096)
    raw = write_raw(tmp_path / "raw file", data, 8 * MIB)
    for name in NAMES:
        convert(source, str(tmp_path / name), ConvertOptions(name))
        if name != "vhdx":  # QEMU opens none with such sectors; libvhdi does, below
            check_by_qemu(tmp_path / name, name, raw)
    assert "Bytes per sector\t: 4096 bytes" in run("vhdiinfo", tmp_path / "vhdx")
    told = convert(Sparse(5000, {0: b"1"}, 4096), str(tmp_path / "padded"), ConvertOptions("vhdx"))
    assert told.virtual_size == 8192


HUGE = {0: b"start" * 100, 40 * TIB + 12345: b"middle" * 50_000, 62 * TIB - 512: b"end" * 170 + b"!!"}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "raw"])
def test_62_tib(tmp_path: Path, name: str) -> None:
    need("qemu-img")
    out = tmp_path / "out"
    told = convert(Sparse(62 * TIB, HUGE), str(out), ConvertOptions(name))
    assert told.virtual_size == told_by_qemu(out, name)["virtual-size"] == 62 * TIB
    assert out.stat().st_blocks * 512 < 40 * MIB
    for start, content in HUGE.items():
        begin, end = start // SECTOR * SECTOR, -(-(start + len(content)) // SECTOR) * SECTOR
        window = f"driver=raw,offset={begin},size={end - begin},file.driver={DRIVERS[name]},file.file.filename={out}"
        run("qemu-img", "convert", "--image-opts", "-O", "raw", window, tmp_path / "window")
        assert (tmp_path / "window").read_bytes()[start - begin :][: len(content)] == content
    if name != "vmdk-stream":  # no check that takes less than a minute
        run("qemu-img", "check", "-f", DRIVERS[name], out)


@pytest.mark.parametrize(
    ("name", "size"), [("vhdx", 64 * TIB + SECTOR), ("vmdk-stream", 256 * TIB + SECTOR), ("qcow2", 2048 * TIB + SECTOR)]
)
def test_disks_larger_than_the_format_allows(tmp_path: Path, name: str, size: int) -> None:
    with pytest.raises(Unsupported, match="too large"):
        convert(Sparse(size, {}), str(tmp_path / "out"), ConvertOptions(name))
    assert os.listdir(tmp_path) == []


SHORT, LONG = bytearray(b"\1" * BATCH), bytearray(b"\2" * BATCH)
"""Data for ``Forgetful``; what is LONG does not get shorter."""


class Forgetful(NewFile):
    """A file that leaves holes where such data would go: its tables can be checked without writing gigabytes."""

    def write(self, offset: int, content: bytes | memoryview) -> None:
        if content[0] not in (1, 2):
            super().write(offset, content)


class Inline(Executor):
    """Does at once what is asked of it."""

    map = staticmethod(lambda function, values: map(function, values))  # type: ignore[assignment]


@contextmanager
def forgetful(path: Path, size: int, compression: str | None = None) -> Iterator[Target]:
    with path.open("xb", buffering=0) as file:
        yield Target(Forgetful(file.fileno(), str(path)), size, 512, compression, Inline())


def test_reference_counts_of_a_long_file(tmp_path: Path) -> None:
    """More clusters than one refcount block counts, three times over: the blocks before the last are written on the way."""
    need("qemu-img")
    size = 7 * GIB
    with forgetful(tmp_path / "out", size) as target:
        writer = qcow2.Qcow2Writer(target)
        for offset in range(0, size, BATCH):
            writer.write(Batch(LONG, (Piece(offset, 0, BATCH),)))
        writer.finish()
    told = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", tmp_path / "out"))
    assert (told["allocated-clusters"], told.get("fragmented-clusters", 0) < 20) == (size // qcow2.CLUSTER, True)


def test_reference_counts_of_a_long_compressed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host cluster of compressed ones is not used again once its count is written."""
    need("qemu-img")
    monkeypatch.setattr(qcow2, "_deflate", lambda content: bytes(content[: 9_000 if content[0] == 1 else None]))
    size = 2 * GIB + 600 * MIB
    shrinking = {0, 8 * MIB, 512 * MIB, size - 8 * MIB, size - 6 * MIB}
    with forgetful(tmp_path / "out", size, "zlib") as target:
        writer = qcow2.Qcow2Writer(target)
        for offset in range(0, size, BATCH):
            writer.write(Batch(SHORT if offset in shrinking else LONG, (Piece(offset, 0, BATCH),)))
        writer.finish()
    told = json.loads(run("qemu-img", "check", "--output=json", "-f", "qcow2", tmp_path / "out"))
    assert (told["allocated-clusters"], told["compressed-clusters"]) == (
        size // qcow2.CLUSTER,
        len(shrinking) * BATCH // qcow2.CLUSTER,
    )


def test_a_stream_that_gets_too_long(tmp_path: Path) -> None:
    """Sectors are numbered in 32 bits."""
    with forgetful(tmp_path / "out", TIB) as target, pytest.raises(Unsupported, match="2 TiB") as caught:
        writer = VmdkStreamWriter(target)
        writer._end = 2 * TIB  # nobody writes that much in a test
        writer.write(Batch(bytearray(b"\1" * 64 * KIB), (Piece(0, 0, 64 * KIB),)))
    assert caught.value.reason == "too-long"


def test_the_stream_is_as_other_readers_want_it(tmp_path: Path) -> None:
    need("qemu-img", "vmdkinfo")
    out = tmp_path / "we ird ü.vmdk"
    convert(Sparse(40 * MIB + SECTOR, {0: b"x"}), str(out), ConvertOptions("vmdk-stream"))
    told = told_by_qemu(out, "vmdk-stream")["format-specific"]["data"]
    assert (told["create-type"], told["parent-cid"]) == ("streamOptimized", 0xFFFFFFFF)
    assert told["extents"][0]["compressed"] is True and told["extents"][0]["virtual-size"] == 40 * MIB + SECTOR
    said = run("vmdkinfo", out)
    assert "Stream optimized" in said and f"({40 * MIB + SECTOR} bytes)" in said and f"0x{told['cid']:08x}" in said
    assert "Filename:\t\t\twe ird ü.vmdk" in said


def test_a_name_cannot_break_the_descriptor() -> None:
    text = descriptor('a"\nCID=1\n.vmdk', 2048).decode()
    assert 'RW 2048 SPARSE "a__CID=1_.vmdk"\n' in text
    assert text.count("\n") == 20 and len(descriptor("é" * 127, 1 << 40)) <= 20 * SECTOR


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK), reason="needs root and /dev/fuse")
@pytest.mark.parametrize(
    ("name", "sector_size", "program", "file"),
    [("vmdk-stream", 512, "vmdkmount", "vmdk1"), ("vhdx", 512, "vhdimount", "vhdi1"), ("vhdx", 4096, "vhdimount", "vhdi1")],
)
def test_against_a_second_reader(tmp_path: Path, name: str, sector_size: int, program: str, file: str) -> None:
    """libvmdk and libvhdi read the same bytes."""
    need(program, "fusermount")
    size = 70 * MIB + 7 * sector_size
    data = islands(size, seed=4)
    raw = write_raw(tmp_path / "raw", data, size)
    out, target = tmp_path / "out.disk", tmp_path / "mnt"
    convert(Sparse(size, data, sector_size), str(out), ConvertOptions(name))
    target.mkdir()
    run(program, out, target)
    try:
        assert (target / file).read_bytes() == raw.read_bytes()
    finally:
        run("fusermount", "-u", target)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path: Path, name: str) -> None:
    data = {start * MIB: b"data" * 1000 for start in range(50)}
    source = Fault(Sparse(50 * MIB, data), bad=[(30 * MIB + 512, 512)])
    with pytest.raises(ReadFailed, match="injected"):
        convert(source, str(tmp_path / "out"), ConvertOptions(name, sha256=True))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_leaves_nothing(tmp_path: Path, name: str) -> None:
    source = Sparse(50 * MIB, {start * MIB: b"data" * 100_000 for start in range(50)})

    def interrupted(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, str(tmp_path / "out"), ConvertOptions(name, sha256=True), progress=interrupted)
    assert os.listdir(tmp_path) == []


def test_progress_counts_the_whole_disk(tmp_path: Path) -> None:
    size = 90 * MIB
    steps: list[int] = []
    source = Sparse(size, {MIB: b"1" * 5 * MIB, 80 * MIB: b"2"})
    convert(source, str(tmp_path / "out"), ConvertOptions("raw"), progress=steps.append)
    assert sum(steps) == size and len(steps) == 4 and min(steps) >= 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (ConvertOptions("qed"), "no format"),
        (ConvertOptions("raw", compression="zlib"), "cannot be compressed"),
        (ConvertOptions("qcow2", compression="lzo"), "cannot be compressed with lzo"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, options: ConvertOptions, what: str) -> None:
    with pytest.raises(Invalid, match=what) as caught:
        convert(Sparse(MIB, {}), str(tmp_path / "out"), options)
    assert options.format == "raw" or "zstd" in str(caught.value.hint) or "vhdx" in str(caught.value.hint)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_disk_of_no_bytes(format_: str, tmp_path: Path) -> None:
    """Oracle: qemu-img, which writes the same."""
    need("qemu-img")
    convert(Slice(Sparse(MIB, {}), 0, 0), str(tmp_path / "out"), ConvertOptions(format_, sha256=True))
    run("qemu-img", "create", "-f", format_, tmp_path / "theirs", 0)
    run("qemu-img", "compare", "-f", format_, "-F", format_, tmp_path / "out", tmp_path / "theirs")


@pytest.mark.parametrize("format_", ["vmdk-stream", "vhdx"])
def test_formats_that_hold_no_disk_of_no_bytes(format_: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="0 bytes"):
        convert(Slice(Sparse(MIB, {}), 0, 0), str(tmp_path / "out"), ConvertOptions(format_))
    assert os.listdir(tmp_path) == []


class Slow(Sparse):
    """Answers a read when three are waiting: who asks one after the other would never get one."""

    def __init__(self, size: int, data: dict[int, bytes]) -> None:
        super().__init__(size, data)
        self.together = threading.Barrier(3, timeout=60)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self.together.wait()
        super().readinto(offset, buffer)


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_server_is_asked_for_several_pieces_at_a_time(format_: str, tmp_path: Path) -> None:
    size = 12 * BATCH
    data = {0: random.Random(5).randbytes(size)}
    convert(Slow(size, data), str(tmp_path / "slow"), ConvertOptions(format_, readers=3))
    convert(Sparse(size, data), str(tmp_path / "plain"), ConvertOptions(format_))
    assert (tmp_path / "slow").read_bytes() == (tmp_path / "plain").read_bytes()


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Unsupported, match="zstandard"):
        convert(Sparse(MIB, {}), str(tmp_path / "out"), ConvertOptions("qcow2", compression="zstd"))
    assert os.listdir(tmp_path) == []


def test_batches_are_whole_units_and_never_more_than_asked() -> None:
    size = 30 * MIB + 100
    data = islands(size, seed=7) | {10 * MIB: b"\1" * 7 * MIB}
    data = {start: data[start] for start in sorted(data) if start <= 10 * MIB or start >= 17 * MIB}
    end = 0
    for batch in batches(Sparse(size, data), 64 * KIB):
        assert sum(piece.length for piece in batch.pieces) <= BATCH
        for piece in batch.pieces:
            assert piece.offset >= end and piece.offset % (64 * KIB) == 0
            end = piece.offset + piece.length
            assert end % (64 * KIB) == 0 or end == size
        assert batch.end == end
    assert end == size


def _joined(runs: Iterable[Piece]) -> list[tuple[int, int]]:
    return [(run_.offset, run_.length) for run_ in runs]


def test_runs_leave_out_units_of_zeros() -> None:
    content = bytearray(b"\1" * 4096 + bytes(8192) + b"\0" * 4095 + b"\1" + b"\1" * 4096 + bytes(100))
    batch = Batch(content, (Piece(1 << 40, 0, len(content)),))
    assert _joined(batch.runs(4096)) == [(1 << 40, 4096), ((1 << 40) + 12288, 8192)]
    assert _joined(batch.units(4096)) == [((1 << 40) + at, 4096) for at in (0, 12288, 16384)]
    assert _joined(Batch(bytearray(8192), (Piece(0, 0, 8192),)).runs(4096)) == []
    assert _joined(Batch(bytearray(b"\1" * 5000), (Piece(0, 0, 5000),)).units(4096)) == [(0, 4096), (4096, 904)]


def test_only_the_writer_that_is_used_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from mntapi.blocks import Zero; from mntapi.export import convert, ConvertOptions\n"
        "convert(Zero(1 << 20), sys.argv[1], ConvertOptions('raw'))\n"
        "print(*(name for name in sys.modules if name.startswith(('mntapi.images', 'mntapi.export.vhdx'))))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """The largest resident size of a process that writes 64 TiB of holes as VHDX, the format with the largest table."""
    code = (
        "import sys; from mntapi.blocks import Zero; from mntapi.export import convert, ConvertOptions\n"
        "convert(Zero(64 << 40), sys.argv[1], ConvertOptions('vhdx'))\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 160 * KIB  # the number is in KiB


def test_new_file_counts_what_is_written(tmp_path: Path) -> None:
    with new_file(str(tmp_path / "out")) as file:
        file.write(20 * MIB, b"x" * 1000)
        file.write(0, memoryview(b"y" * 10))
        assert file.written == 1010
    assert (tmp_path / "out").stat().st_size == 20 * MIB + 1000
