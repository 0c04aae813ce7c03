"""QCOW2 images of every kind against the contract. Oracle: what qemu-img convert makes of the same file."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.blocks import read
from mntapi.errors import MntapiError
from mntapi.images import formats
from mntapi.images.formats import Chain, Format
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2 import list_snapshots, open_image
from mntapi.types import ExtentKind, Image, OpenOptions

SHARED = Path(__file__).parents[2].parent / "shared/images/dfvfs/test_data"


def has_qemu() -> bool:
    return not subprocess.run(
        ["sh", "-c", "command -v qemu-img && command -v qemu-io"], capture_output=True, check=False
    ).returncode


pytestmark = pytest.mark.skipif(not has_qemu(), reason="needs qemu-img and qemu-io (qemu-utils)")


@pytest.fixture(autouse=True)
def qcow2_row(monkeypatch: pytest.MonkeyPatch) -> None:
    if "qcow2" not in {format_.name for format_ in formats.FORMATS}:
        row = Format("qcow2", "mntapi.images.qcow2", ((0, b"QFI\xfb"),))
        monkeypatch.setattr(formats, "FORMATS", (row, *formats.FORMATS))


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return done.stdout


def create(path: Path, size: int | str, *options: str, backing: tuple[Path, str] | None = None) -> Path:
    words = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if options:
        words += ["-o", ",".join(options)]
    if backing:
        words += ["-b", backing[0].name, "-F", backing[1]]
    run(*words, path, size)
    return path


def io(path: Path, *commands: str, image: str = "") -> None:
    words = ["qemu-io", "--image-opts", image] if image else ["qemu-io", "-f", "qcow2", path]
    for command in commands:
        words[-1:-1] = ["-c", command]
    run(*words)


def raw_of(path: Path, *options: object, source: object = None) -> bytes:
    """The disk as qemu-img reads it."""
    out = path.with_suffix(".oracle")
    run("qemu-img", "convert", "-O", "raw", *options, path if source is None else source, out)
    return out.read_bytes()


def open_path(path: Path, **options: object) -> Image:
    opener = DirectOpener()
    file = opener.open(str(path))
    try:
        return open_image(file, Chain(opener, OpenOptions()), **options)  # type: ignore[arg-type]
    except BaseException:
        file.close()
        raise


def scribble(path: Path, size: int, seed: int, *, writes: int = 12, zeros: int = 4, image: str = "") -> None:
    """Random patterns and zeros at random places, with qemu-io."""
    rng = random.Random(seed)
    commands = []
    for number in range(writes + zeros):
        length = min(size, rng.choice((512, 4096, 65536, 70_656, 200_704)))
        offset = rng.randrange((size - length) // 512 + 1) * 512
        commands.append(f"write -P {number + 1} {offset} {length}" if number < writes else f"write -z {offset} {length}")
    rng.shuffle(commands)
    io(path, *commands, image=image)


def check_image(path: Path, *, ranges: int = 500, size: int | None = None, **options: object) -> None:
    want = raw_of(path)
    image = open_path(path, **options)
    assert image.format == "qcow2" and image.chain[0].file == str(path)
    check_blocks(image.blocks, want, ranges=ranges)
    check_map(path, image)
    check_closed(image.blocks)


def check_map(path: Path, image: Image, *, holes: bool = False) -> None:
    """What is ZERO to us is so to qemu-img map, to the byte; with ``holes`` ours may be more: the host file's holes."""
    zeros = [
        (entry["start"], entry["start"] + entry["length"])
        for entry in json.loads(run("qemu-img", "map", "--output", "json", path))
        if entry["zero"]
    ]
    ours = [
        (extent.offset, extent.end) for extent in image.blocks.extents(0, image.blocks.size) if extent.kind is ExtentKind.ZERO
    ]
    if holes:
        assert joined(sorted([*ours, *zeros])) == joined(ours)
    else:
        assert joined(ours) == joined(zeros)


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in ranges:
        if out and out[-1][1] >= start:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


SIZE = 5_000_192


@pytest.mark.parametrize(
    "options",
    [
        ("compat=0.10",),
        ("compat=1.1",),
        ("cluster_size=512",),
        ("cluster_size=4k", "compat=0.10"),
        ("cluster_size=2M",),
        ("extended_l2=on", "cluster_size=16k"),
        ("extended_l2=on", "cluster_size=128k"),
        ("extended_l2=on", "cluster_size=2M"),
        ("preallocation=metadata",),
        ("preallocation=falloc", "cluster_size=32k"),
        ("refcount_bits=1", "lazy_refcounts=on"),
    ],
    ids=",".join,
)
def test_kinds(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = create(tmp_path / "a.qcow2", SIZE, *options)
    scribble(path, SIZE, seed=len(str(options)))
    want = raw_of(path)
    image = open_path(path)
    check_blocks(image.blocks, want, ranges=500)
    check_map(path, image, holes="preallocation" in str(options))
    check_closed(image.blocks)


def test_a_disk_whose_writer_died_and_one_that_is_marked_corrupt(tmp_path: Path) -> None:
    """With lazy refcounts, qemu leaves the dirty bit behind; a reader needs no refcounts. Both are told."""
    path = create(tmp_path / "a.qcow2", SIZE, "lazy_refcounts=on")
    run("qemu-img", "bitmap", "--add", path, "nightly")
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 300k", "-c", "flush", "-c", "abort", str(path)]
    assert subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).returncode < 0  # there the core goes
    features = bytearray(path.read_bytes()[72:80])
    assert features[-1] & 1, "qemu did not leave it dirty"
    assert "not closed" in open_and_check(path)["notes"]
    features[-1] |= 2
    with path.open("r+b") as file:
        file.seek(72)
        file.write(features)
    assert "marked as corrupt" in open_and_check(path)["notes"]


def open_and_check(path: Path) -> Mapping[str, str]:
    """The details of the disk, which holds what qemu-img reads."""
    image = open_path(path)
    check_blocks(image.blocks, raw_of(path), ranges=50)
    return image.details


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", ["512", "64k", "2M"])
def test_compressed(tmp_path: Path, kind: str, cluster_size: str) -> None:
    rng = random.Random(3)
    source = tmp_path / "source.raw"
    text = b"".join(rng.choice((b"ab" * 600, rng.randbytes(700), bytes(9000))) for _ in range(700))
    source.write_bytes(text[: len(text) // 512 * 512])
    path = tmp_path / "a.qcow2"
    options = f"compression_type={kind},cluster_size={cluster_size}"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, source, path)
    check_image(path)
    scribble(path, source.stat().st_size, seed=4)
    check_image(path)


def test_compressed_extended(tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    source.write_bytes(b"all the same " * 512 * 40)
    path = tmp_path / "a.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "extended_l2=on,cluster_size=32k", source, path)
    scribble(path, source.stat().st_size, seed=4)
    check_image(path)


@pytest.mark.parametrize("raw", ["on", "off"])
@pytest.mark.parametrize("extended", ["on", "off"])
def test_external_data_file(tmp_path: Path, raw: str, extended: str) -> None:
    data = tmp_path / "data.bin"
    path = create(tmp_path / "a.qcow2", SIZE, f"data_file={data},data_file_raw={raw},extended_l2={extended}")
    scribble(path, SIZE, seed=9)
    want = raw_of(path)
    image = open_path(path)
    check_blocks(image.blocks, want, ranges=500)
    check_closed(image.blocks)


@pytest.mark.parametrize("link_options", [(), ("cluster_size=512",), ("cluster_size=2M",), ("extended_l2=on",)], ids=str)
def test_chain_on_raw(tmp_path: Path, link_options: tuple[str, ...]) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(random.Random(1).randbytes(3_000_000))
    top = create(tmp_path / "1.qcow2", SIZE, *link_options, backing=(base, "raw"))
    scribble(top, SIZE, seed=5)
    check_image(top)


def test_chain_of_many_kinds(tmp_path: Path) -> None:
    below = create(tmp_path / "0.qcow2", 2_000_384, "compat=0.10", "cluster_size=512")
    scribble(below, 2_000_384, seed=20)
    kinds = [
        ("cluster_size=2M",),
        ("extended_l2=on",),
        ("compat=0.10",),
        ("cluster_size=4k",),
        ("extended_l2=on", "cluster_size=16k"),
    ]
    for number, options in enumerate(kinds, 1):
        size = SIZE if number % 2 else 3_000_320
        top = create(tmp_path / f"{number}.qcow2", size, *options, backing=(below, "qcow2"))
        scribble(top, size, seed=30 + number, writes=3, zeros=2)
        below = top
        check_image(top, ranges=100)
    assert [Path(link.file).name for link in open_path(top).chain] == [f"{number}.qcow2" for number in (5, 4, 3, 2, 1, 0)]


def test_backing_format_not_named(tmp_path: Path) -> None:
    base = create(tmp_path / "base.qcow2", SIZE)
    scribble(base, SIZE, seed=5)
    raw = tmp_path / "base.raw"
    raw.write_bytes(random.Random(1).randbytes(1_000_000))
    for name in (base, raw):
        top = create(tmp_path / f"over-{name.suffix}.qcow2", SIZE, backing=(name, name.suffix[1:]))
        content = top.read_bytes()
        assert content.count(b"\xe2\x79\x2a\xca") == 1
        top.write_bytes(content.replace(b"\xe2\x79\x2a\xca", b"none"))
        scribble(top, SIZE, seed=6, writes=3)
        check_image(top, ranges=50)


def test_raw_backing_is_not_looked_into(tmp_path: Path) -> None:
    base = create(tmp_path / "base", SIZE)
    top = create(tmp_path / "top.qcow2", SIZE, backing=(base, "raw"))
    check_image(top, ranges=20)


def test_snapshots(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", SIZE)
    for number in range(3):
        scribble(path, SIZE, seed=40 + number)
        run("qemu-img", "snapshot", "-c", f"state {number}", path)
    run("qemu-img", "resize", "-q", path, SIZE + 1_000_000 // 512 * 512)
    scribble(path, SIZE, seed=50)
    file = DirectOpener().open(str(path))
    snapshots = list_snapshots(file)
    file.close()
    assert [(snapshot.id, snapshot.name, snapshot.size) for snapshot in snapshots] == [
        (str(number + 1), f"state {number}", SIZE) for number in range(3)
    ]
    assert all(snapshot.time_ns > 10**18 for snapshot in snapshots)
    for number, wanted in enumerate(("1", "state 1", "state 2")):
        image = open_path(path, snapshot=wanted)
        check_blocks(image.blocks, raw_of(path, "-l", f"snapshot.name=state {number}")[:SIZE], ranges=50)
        image.blocks.close()
    check_image(path, ranges=50)


def sparse_oracle(writes: list[tuple[int, int, int]]) -> Callable[[int, int], bytes]:
    def content(offset: int, length: int) -> bytes:
        out = bytearray(length)
        for at, count, byte in writes:
            start, end = max(offset, at), min(offset + length, at + count)
            if start < end:
                out[start - offset : end - offset] = bytes([byte]) * (end - start)
        return bytes(out)

    return content


@pytest.mark.parametrize("options", [(), ("cluster_size=2M",), ("extended_l2=on",)], ids=str)
def test_62_tib(tmp_path: Path, options: tuple[str, ...]) -> None:
    size = 62 << 40
    rng = random.Random(2)
    path = create(tmp_path / "a.qcow2", size, *options)
    places = sorted({0, size - 65536, *(rng.randrange(size // 65536) * 65536 for _ in range(20))})
    writes = [(offset, 65536, number + 1) for number, offset in enumerate(places)]
    io(path, *(f"write -P {byte} {offset} {length}" for offset, length, byte in writes))
    image = open_path(path)
    want = sparse_oracle(writes)
    check_blocks(image.blocks, want, ranges=500)
    for offset, length, _ in writes:
        start = max(0, offset - 1000)
        count = min(length + 2000, size - start)
        assert read(image.blocks, start, count) == want(start, count)
    check_map(path, image, holes=True)
    image.blocks.close()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared sample images")
@pytest.mark.parametrize("name", ["ext2.qcow2", "windows_volume.qcow2"])
def test_samples(tmp_path: Path, name: str) -> None:
    want = raw_of(tmp_path / "a", source=SHARED / name)
    image = open_path(SHARED / name)
    check_blocks(image.blocks, want, ranges=500)
    check_closed(image.blocks)


def test_a_bad_cluster_costs_that_cluster_only(tmp_path: Path) -> None:
    path = create(tmp_path / "a.qcow2", SIZE)
    io(path, f"write -P 7 0 {SIZE}")
    with path.open("r+b") as out:
        head = out.read(48)
        out.seek(int.from_bytes(head[40:48], "big"))
        table = int.from_bytes(out.read(8), "big") & 0x00FF_FFFF_FFFF_FE00
        out.seek(table + 8 * 3)
        out.write((1 << 63 | 0x1_0000_0000_0000).to_bytes(8, "big"))
    image = open_path(path)
    assert read(image.blocks, 0, 3 * 65536) == b"\7" * 3 * 65536
    assert read(image.blocks, 4 * 65536, 65536) == b"\7" * 65536
    with pytest.raises(MntapiError) as caught:
        read(image.blocks, 3 * 65536 + 5, 100)
    assert caught.value.path == str(path) and caught.value.offset is not None
    assert [extent.kind for extent in image.blocks.extents(0, SIZE)] == [ExtentKind.DATA]
    image.blocks.close()
