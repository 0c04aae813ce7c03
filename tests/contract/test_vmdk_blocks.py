"""Every kind of VMDK against the contract of ``Blocks``. Oracles: the raw bytes it was made from, and qemu-img's reading."""

from __future__ import annotations

import bz2
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from contract.vmdk_builder import (
    GRAIN,
    SECTOR,
    SHARED_IMAGES,
    build_cowd,
    build_sesparse,
    build_stream,
    content,
    convert,
    hosted_header,
    needs_qemu,
    needs_samples,
    open_vmdk,
    raw_of,
    run,
    write_descriptor,
)
from mntapi.blocks import read
from mntapi.errors import NotFound
from mntapi.types import Blocks, ExtentKind, Image

SIZE = 3 * 1024 * 1024 + 7 * SECTOR
DATA = content(SIZE)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DATA)
    return path


def data_ranges(blocks: Blocks) -> list[tuple[int, int]]:
    return [(extent.offset, extent.end) for extent in blocks.extents(0, blocks.size) if extent.kind is ExtentKind.DATA]


def mapped_by_qemu(path: Path) -> list[tuple[int, int]]:
    """Where ``qemu-img map`` sees data, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for entry in json.loads(run("qemu-img", "map", "--output=json", "-f", "vmdk", path)):
        if entry["data"] and not entry["zero"]:
            start, end = entry["start"], entry["start"] + entry["length"]
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, end))
    return ranges


def check_image(image: Image, oracle: bytes) -> None:
    assert image.format == "vmdk"
    check_blocks(image.blocks, oracle, ranges=100)
    check_closed(image.blocks)


SUBFORMATS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized")


@needs_qemu
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_every_kind_that_qemu_writes(subformat: str, tmp_path: Path, raw: Path) -> None:
    path = convert(raw, tmp_path / "disk.vmdk", subformat)
    image = open_vmdk(path)
    assert image.chain[0].file == str(path) and len(image.chain) == 1
    assert f"CID={int(image.chain[0].cid or '', 16):x}" in path.read_bytes()[:2048].decode("ascii", "replace")
    assert data_ranges(image.blocks) == mapped_by_qemu(path)
    check_image(image, DATA)


@needs_qemu
@pytest.mark.parametrize(
    "options", [("zeroed_grain=on",), ("compat6=on",), ("adapter_type=lsilogic", "hwversion=8"), ("adapter_type=legacyESX",)]
)
def test_variants_that_qemu_writes(options: tuple[str, ...], tmp_path: Path, raw: Path) -> None:
    path = convert(raw, tmp_path / "disk.vmdk", "monolithicSparse", *options)
    check_image(open_vmdk(path), DATA)


@needs_qemu
def test_split_disk_of_several_extents(tmp_path: Path) -> None:
    """2 GiB and a bit: qemu cuts it into two extents; the range over the border is what matters."""
    size, border = (2 << 30) + (1 << 20), 2 << 30
    raw = tmp_path / "disk.raw"
    mark = content(4 * GRAIN, stored=1)
    with raw.open("wb") as out:
        out.truncate(size)
        out.seek(border - 2 * GRAIN)
        out.write(mark)
    for subformat in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        path = convert(raw, tmp_path / f"{subformat}.vmdk", subformat)
        image = open_vmdk(path)
        assert image.blocks.size == size
        assert read(image.blocks, border - 3 * GRAIN, 6 * GRAIN) == bytes(GRAIN) + mark + bytes(GRAIN)
        assert data_ranges(image.blocks) == mapped_by_qemu(path)
        image.blocks.close()


def _delta(parent: Path, child: Path, rng: random.Random, *, options: str = "") -> Path:
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", parent.name, "-F", "vmdk", *(("-o", options) if options else ()), child)
    writes = []
    for _ in range(6):
        offset, length = rng.randrange(SIZE // SECTOR - 300) * SECTOR, rng.randrange(1, 300) * SECTOR
        writes += ["-c", f"write -P {rng.randrange(1, 256)} {offset} {length}"]
    if options:
        writes += ["-c", f"write -z {4 * GRAIN} {GRAIN * 3}"]
    run("qemu-io", "-f", "vmdk", *writes, child)
    return child


@needs_qemu
@pytest.mark.parametrize("base", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"])
def test_delta_chain(base: str, tmp_path: Path, raw: Path) -> None:
    rng = random.Random(3)
    paths = [convert(raw, tmp_path / "base.vmdk", base)]
    for number, options in enumerate(("", "zeroed_grain=on", "subformat=twoGbMaxExtentSparse", "", "zeroed_grain=on")):
        paths.append(_delta(paths[-1], tmp_path / f"delta{number}.vmdk", rng, options=options))
        oracle = raw_of(paths[-1], tmp_path / "oracle.raw")
        image = open_vmdk(paths[-1])
        assert [link.file for link in image.chain] == [str(path) for path in reversed(paths)]
        assert [link.parent_cid for link in image.chain[:-1]] == [link.cid for link in image.chain[1:]]
        assert image.chain[-1].parent_cid is None
        assert data_ranges(image.blocks) == mapped_by_qemu(paths[-1])
        check_image(image, oracle)


@needs_qemu
def test_chain_of_64_links_reads_like_one(tmp_path: Path, raw: Path) -> None:
    base = convert(raw, tmp_path / "disk0.vmdk", "monolithicSparse")
    one = base.read_bytes()
    cid = next(line for line in one[512:2048].split(b"\n") if line.startswith(b"CID="))[4:].decode()
    for number in range(1, 64):
        write_descriptor(
            tmp_path / f"disk{number}.vmdk",
            [f'RW {SIZE // SECTOR} SPARSE "delta.vmdk"'],
            cid=cid,
            parent_cid=cid,
            more=[f'parentFileNameHint="disk{number - 1}.vmdk"'],
        )
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", tmp_path / "empty.vmdk", str(SIZE))
    os.rename(tmp_path / "empty-s001.vmdk", tmp_path / "delta.vmdk")
    image = open_vmdk(tmp_path / "disk63.vmdk")
    assert len(image.chain) == 64
    check_image(image, DATA)


@pytest.mark.parametrize("grain_sectors", [1, 8, 128])
@needs_qemu
def test_snapshot_on_esx(grain_sectors: int, tmp_path: Path) -> None:
    """A COWD delta over a ``vmfs`` base; qemu-img, which reads both, agrees."""
    (tmp_path / "vm-flat.vmdk").write_bytes(DATA)
    sectors = SIZE // SECTOR
    write_descriptor(tmp_path / "vm.vmdk", [f'RW {sectors} VMFS "vm-flat.vmdk"'], create_type="vmfs", cid="aaaa0001")
    change = bytearray(SIZE)
    change[70_000:90_000] = random.Random(2).randbytes(20_000)
    change[-1000:] = b"z" * 1000
    erased = SIZE // SECTOR // 2 // grain_sectors
    build_cowd(tmp_path / "vm-000001-delta.vmdk", bytes(change), grain_sectors=grain_sectors, keep=[erased])
    path = write_descriptor(
        tmp_path / "vm-000001.vmdk",
        [f'RW {sectors} VMFSSPARSE "vm-000001-delta.vmdk"'],
        create_type="vmfsSparse",
        cid="aaaa0002",
        parent_cid="aaaa0001",
        more=['parentFileNameHint="vm.vmdk"'],
    )
    oracle = raw_of(path, tmp_path / "oracle.raw")
    image = open_vmdk(path)
    assert [(link.cid, link.parent_cid) for link in image.chain] == [("aaaa0002", "aaaa0001"), ("aaaa0001", None)]
    assert oracle[erased * grain_sectors * SECTOR :][:SECTOR] == bytes(SECTOR)
    check_image(image, oracle)


@needs_qemu
def test_sesparse_snapshot(tmp_path: Path) -> None:
    size = 20 * 1024 * 1024  # two tables of 16 MiB
    (tmp_path / "vm-flat.vmdk").write_bytes(content(size, seed=5, stored=0.9))
    write_descriptor(tmp_path / "vm.vmdk", [f'RW {size // SECTOR} VMFS "vm-flat.vmdk"'], create_type="vmfs", cid="1")
    change = bytearray(size)
    change[100_000:200_000] = random.Random(2).randbytes(100_000)
    change[17 << 20 : (17 << 20) + 30_000] = b"s" * 30_000
    build_sesparse(tmp_path / "vm-sesparse.vmdk", bytes(change), zeroed=range(300, 320), unmapped=range(330, 340))
    path = write_descriptor(
        tmp_path / "vm-000001.vmdk",
        [f'RW {size // SECTOR} SESPARSE "vm-sesparse.vmdk"'],
        create_type="seSparse",
        parent_cid="1",
        more=['parentFileNameHint="vm.vmdk"'],
    )
    check_image(open_vmdk(path), raw_of(path, tmp_path / "oracle.raw"))


@needs_qemu
@pytest.mark.parametrize("grain", [4096, GRAIN, 1 << 20])
def test_stream_as_vmware_writes_it(grain: int, tmp_path: Path) -> None:
    path = build_stream(tmp_path / "stream.vmdk", DATA, grain=grain)
    assert raw_of(path, tmp_path / "oracle.raw") == DATA
    check_image(open_vmdk(path), DATA)


@needs_qemu
def test_stream_without_markers(tmp_path: Path) -> None:
    path = build_stream(tmp_path / "stream.vmdk", DATA, markers=False)
    check_image(open_vmdk(path), DATA)


def _without_footer(path: Path) -> Path:
    os.truncate(path, path.stat().st_size - 2 * SECTOR)
    return path


def test_stream_without_its_footer_is_walked(tmp_path: Path) -> None:
    path = _without_footer(build_stream(tmp_path / "stream.vmdk", DATA))
    check_image(open_vmdk(path), DATA)


def test_stream_of_nothing_without_its_footer(tmp_path: Path) -> None:
    path = _without_footer(build_stream(tmp_path / "stream.vmdk", bytes(SIZE)))
    image = open_vmdk(path)
    assert data_ranges(image.blocks) == []
    check_image(image, bytes(SIZE))


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[tuple[Path, bytes]]:
    """Extents of every kind in one descriptor, some with a length that is no multiple of a grain."""
    pieces = [content(size, seed=size, stored=0.8) for size in (200 * SECTOR, 300 * SECTOR, 1001 * SECTOR, 333 * SECTOR)]
    (tmp_path / "a-flat.vmdk").write_bytes(b"#" * (63 * SECTOR) + pieces[0] + b"#" * 5000 + bytes(-5000 % SECTOR))
    (tmp_path / "b-flat.vmdk").write_bytes(pieces[1])
    build_cowd(tmp_path / "c-delta.vmdk", pieces[2])
    build_sesparse(tmp_path / "d-sesparse.vmdk", pieces[3])
    path = write_descriptor(
        tmp_path / "mixed.vmdk",
        [
            'RW 200 FLAT "a-flat.vmdk" 63',
            "RW 77 ZERO",
            'RDONLY 300 VMFS "b-flat.vmdk"',
            'RW 1001 VMFSSPARSE "c-delta.vmdk"',
            'RW 0 FLAT "b-flat.vmdk" 0',
            'RW 333 SESPARSE "d-sesparse.vmdk"',
            'RW 10 FLAT "a-flat.vmdk" 70',
        ],
    )
    yield path, pieces[0] + bytes(77 * SECTOR) + b"".join(pieces[1:]) + pieces[0][7 * SECTOR : 17 * SECTOR]


def test_extents_of_different_kinds(mixed: tuple[Path, bytes]) -> None:
    path, oracle = mixed
    check_image(open_vmdk(path), oracle)


def test_each_file_is_opened_once(mixed: tuple[Path, bytes]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    image = open_vmdk(mixed[0])
    assert len(os.listdir("/proc/self/fd")) - before == 5
    image.blocks.close()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_qemu
def test_extents_of_different_kinds_as_qemu_reads_them(mixed: tuple[Path, bytes], tmp_path: Path) -> None:
    """The same files without what qemu-img has no word for: ZERO, RDONLY, an extent of no length.

    The extent whose last grain is partial comes last: qemu-img takes the whole grain, and reads over the next one's start.
    """
    lines = ['RW 200 FLAT "a-flat.vmdk" 63', 'RW 300 VMFS "b-flat.vmdk"', 'RW 1001 VMFSSPARSE "c-delta.vmdk"']
    lines += ['RW 10 FLAT "a-flat.vmdk" 70', 'RW 333 SESPARSE "d-sesparse.vmdk"']
    path = write_descriptor(tmp_path / "qemu.vmdk", lines, create_type="twoGbMaxExtentFlat")
    check_image(open_vmdk(path), raw_of(path, tmp_path / "oracle.raw"))


@pytest.mark.root
@pytest.mark.skipif(shutil.which("vmdkmount") is None or not os.path.exists("/dev/fuse"), reason="needs vmdkmount and FUSE")
def test_hand_made_images_against_a_second_reader(tmp_path: Path) -> None:
    """libvmdk reads these as well. It has no code for ZERO extents, and reads flat extents with a start from elsewhere."""
    build_cowd(tmp_path / "a-delta.vmdk", content(999 * SECTOR, seed=9, stored=0.8))
    build_cowd(tmp_path / "b-delta.vmdk", content(999 * SECTOR, seed=9, stored=0.8), grain_sectors=8)
    first = write_descriptor(tmp_path / "a.vmdk", ['RW 999 VMFSSPARSE "a-delta.vmdk"'], create_type="vmfsSparse")
    second = write_descriptor(tmp_path / "b.vmdk", ['RW 999 VMFSSPARSE "b-delta.vmdk"'], create_type="vmfsSparse")
    for path in (first, second, build_stream(tmp_path / "stream.vmdk", DATA)):
        image = open_vmdk(path)
        assert read(image.blocks, 0, image.blocks.size) == _read_by_libvmdk(path, tmp_path / "mnt")
        image.blocks.close()


@pytest.mark.skipif(shutil.which("vmdkinfo") is None, reason="needs vmdkinfo")
def test_kinds_and_sizes_of_extents_are_what_libvmdk_says(tmp_path: Path) -> None:
    (tmp_path / "a-flat.vmdk").write_bytes(content(400 * SECTOR))
    lines = ['RW 200 FLAT "a-flat.vmdk" 63', "RW 77 ZERO", 'RDONLY 300 VMFS "a-flat.vmdk"']
    path = write_descriptor(tmp_path / "disk.vmdk", lines)
    said = [line.split(":")[1].strip() for line in run("vmdkinfo", path).splitlines() if "Type:" in line or "Start" in line]
    assert said == ["Flat", "63", "Zero", "0", "VMFS flat", "0"]
    image = open_vmdk(path)
    assert f"({image.blocks.size} bytes)" in run("vmdkinfo", path)
    check_image(
        image, content(400 * SECTOR)[63 * SECTOR : 263 * SECTOR] + bytes(77 * SECTOR) + content(400 * SECTOR)[: 300 * SECTOR]
    )


def _read_by_libvmdk(path: Path, mount_point: Path) -> bytes:
    mount_point.mkdir(exist_ok=True)
    started = subprocess.run(["vmdkmount", path, mount_point], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"vmdkmount cannot mount here: {started.stderr.strip()[-200:]}")
    try:
        return (mount_point / "vmdk1").read_bytes()
    finally:
        subprocess.run(["fusermount", "-u", mount_point], check=True)


SAMPLES = {
    "vmdk-rs/data/monolithicSparse.vmdk": "a3bcf05f07a1c06a3380eeca8571f0efb2b85afafa1e21662b8cad436d1f7727",
    "dfvfs/test_data/ext2.vmdk": "a6c2f0e39afe6c6ab432ca5465349fcefe8dc944398e97b2d957d3f89dbb5d80",
}
"""SHA-256 of the raw bytes, as the sets' own projects publish them (MANIFEST.md)."""


@needs_samples
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_other_projects(name: str) -> None:
    image = open_vmdk(SHARED_IMAGES / name)
    assert hashlib.sha256(read(image.blocks, 0, image.blocks.size)).hexdigest() == SAMPLES[name]
    image.blocks.close()


@needs_samples
@needs_qemu
def test_sample_of_sleuthkit(tmp_path: Path) -> None:
    path = tmp_path / "image.vmdk"
    shutil.copyfile(SHARED_IMAGES / "sleuthkit/test/data/image.vmdk", path)
    check_image(open_vmdk(path), raw_of(path, tmp_path / "oracle.raw"))


@needs_samples
@pytest.mark.parametrize("name", ["monolithicFlat.vmdk", "vmfs_thick-000001.vmdk"])
def test_sample_descriptors_without_their_data(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        open_vmdk(SHARED_IMAGES / "vmdk-rs/data" / name)
    assert caught.value.reason == "extent-missing" and name.removesuffix(".vmdk") in str(caught.value)


@needs_samples
@needs_qemu
def test_sample_stream_of_version_3(tmp_path: Path) -> None:
    """Written by VMware, 16 GiB, footer at the end; the oracle is qemu-img."""
    packed = SHARED_IMAGES / "qemu-iotests/tests/qemu-iotests/sample_images/iotest-version3.vmdk.bz2"
    path = tmp_path / "v3.vmdk"
    path.write_bytes(bz2.decompress(packed.read_bytes()))
    run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, tmp_path / "v3.raw")
    image = open_vmdk(path)
    assert image.blocks.size == 16 << 30
    ranges = data_ranges(image.blocks)
    assert ranges == mapped_by_qemu(path)
    with (tmp_path / "v3.raw").open("rb") as oracle:
        for start, end in ranges:
            oracle.seek(start)
            assert read(image.blocks, start, end - start) == oracle.read(end - start)
    os.truncate(path, path.stat().st_size - 1024)
    walked = open_vmdk(path)
    assert data_ranges(walked.blocks) == ranges
    start, end = ranges[0]
    assert read(walked.blocks, start, end - start) == read(image.blocks, start, end - start)
    image.blocks.close()
    walked.blocks.close()


@needs_qemu
def test_disk_of_62_tib(tmp_path: Path) -> None:
    """As large as VMware allows: sparse in the host's file system, its tables are never read whole."""
    path, size = tmp_path / "huge.vmdk", 62 << 40
    run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentSparse,zeroed_grain=on",
        tmp_path / "one.vmdk",
        "1M",
    )
    piece = content(GRAIN, stored=1)
    _huge_sparse(path, size, {0: piece, size // 2: piece, size - GRAIN: piece})
    image = open_vmdk(path)
    assert image.blocks.size == size
    for offset in (0, size // 2, size - GRAIN):
        assert read(image.blocks, offset, GRAIN) == piece
    assert read(image.blocks, size // 3, GRAIN) == bytes(GRAIN)
    assert data_ranges(image.blocks) == [(offset, offset + GRAIN) for offset in (0, size // 2, size - GRAIN)]
    qemu = run("qemu-io", "-r", "-f", "vmdk", "-c", f"read -v {size - GRAIN} 16", path)
    assert piece[:16].hex(" ") in qemu
    image.blocks.close()


def _huge_sparse(path: Path, size: int, grains: dict[int, bytes]) -> None:
    """A monolithic sparse disk with tables for those grains only."""
    tables = -(-size // (512 * GRAIN))
    directory = 21
    position = -(-(directory * SECTOR + tables * 4) // GRAIN) * GRAIN // SECTOR
    text = (
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'
        f'RW {size // SECTOR} SPARSE "{path.name}"\nddb.adapterType = "ide"\n'
    )
    with path.open("wb") as out:
        out.write(hosted_header(size, flags=1, descriptor=1, descriptor_size=20, directory=directory, overhead=position))
        out.write(text.encode())
        for offset, data in grains.items():
            index = offset // GRAIN
            out.seek(directory * SECTOR + index // 512 * 4)
            out.write(position.to_bytes(4, "little"))
            out.seek(position * SECTOR + index % 512 * 4)
            out.write((position + 128).to_bytes(4, "little"))
            out.seek((position + 128) * SECTOR)
            out.write(data)
            position += 256
