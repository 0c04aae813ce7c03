"""VHDX against qemu-img (fixed, dynamic, dirty logs), libvhdi (differencing), and samples from Hyper-V and disk2vhd."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import vhdx_builder as vhdx
from contract.blocks_contract import check_blocks, check_closed
from contract.vhd_support import (
    SHARED,
    disk_content,
    known_formats,
    needs_qemu,
    needs_vhdimount,
    opened,
    qemu_img,
    sample,
    sorted_sectors,
    vhdimounted,
)
from contract.vhdx_builder import KIB, MIB, Disk
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.images.vhdx import read_structure
from mntapi.types import ExtentKind

__all__ = ["known_formats"]

TIB = 1 << 40


@needs_qemu
@pytest.mark.parametrize(
    "options", ["subformat=dynamic,block_size=1M", "subformat=dynamic,block_state_zero=off", "subformat=fixed,block_size=2M"]
)
def test_what_qemu_writes(tmp_path: Path, options: str) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    raw.write_bytes(disk_content(11 * MIB + 512, unit=256 << 10))
    qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", options, raw, path)
    with opened(path) as image:
        assert image.format == "vhdx"
        check_blocks(image.blocks, raw.read_bytes().ljust(image.blocks.size, b"\0"), ranges=500)
        check_closed(image.blocks)


@needs_qemu
def test_a_large_disk_costs_what_a_small_one_costs(tmp_path: Path) -> None:
    path = tmp_path / "large.vhdx"
    qemu_img("create", "-q", "-f", "vhdx", "-o", "block_size=32M", path, "64T")
    far = 63 * TIB + 4096
    subprocess.run(["qemu-io", "-f", "vhdx", "-c", f"write -P 0x5a {far} 64k", str(path)], check=True, capture_output=True)
    with opened(path) as image:
        assert image.blocks.size == 64 * TIB
        assert read(image.blocks, far - 16, 32) == bytes(16) + b"\x5a" * 16
        data = [extent for extent in image.blocks.extents(0, image.blocks.size) if extent.kind is ExtentKind.DATA]
        assert sum(extent.length for extent in data) <= 32 * MIB
        assert data[0].offset <= far < far + (64 << 10) <= data[-1].end


def test_dirty_log_sample(tmp_path: Path) -> None:
    path = sample("iotest-dirtylog-10G-4M.vhdx", tmp_path)
    before = hashlib.sha256(path.read_bytes()).digest()
    with opened(path) as image:
        assert read(image.blocks, 0, 18 * MIB) == b"\xa5" * (18 * MIB)  # qemu-iotests 135
        assert read(image.blocks, 18 * MIB, MIB) == bytes(MIB)
        file = HostFile.open(str(path))
        assert len(read_structure(file)[1].log) >= 1
        file.close()
    assert hashlib.sha256(path.read_bytes()).digest() == before


@needs_qemu
def test_dirty_log_sample_as_qemu_repairs_it(tmp_path: Path) -> None:
    path = sample("iotest-dirtylog-10G-4M.vhdx", tmp_path)
    repaired = repaired_by_qemu(path)
    with opened(path) as image, opened(repaired) as other:
        assert list(image.blocks.extents(0, image.blocks.size)) == list(other.blocks.extents(0, other.blocks.size))
        subprocess.run(
            ["qemu-io", "-r", "-f", "vhdx", "-c", "read -P 0xa5 0 18M", str(repaired)], check=True, capture_output=True
        )


def repaired_by_qemu(path: Path) -> Path:
    """A copy whose log qemu has written to where it belongs."""
    copy = path.with_name("repaired.vhdx")
    shutil.copy(path, copy)
    qemu_img("check", "-q", "-r", "all", "-f", "vhdx", copy)
    return copy


@needs_qemu
@pytest.mark.parametrize("name", ["iotest-dynamic-1G.vhdx", "test-disk2vhd.vhdx"])
def test_samples(tmp_path: Path, name: str) -> None:
    path = sample(name, tmp_path)
    raw = tmp_path / "raw"
    qemu_img("convert", "-f", "vhdx", "-O", "raw", path, raw)
    oracle = HostFile.open(str(raw))
    with opened(path) as image:
        assert image.blocks.size == oracle.size
        check_blocks(image.blocks, lambda offset, length: read(oracle, offset, length), ranges=500)
    oracle.close()


@needs_qemu
def test_a_sample_of_hyper_v(tmp_path: Path) -> None:
    packed = SHARED / "LTRData-DiscUtils" / "Tests" / "LibraryTests" / "Xfs" / "Data" / "xfs.vhdx.gz"
    if not packed.exists():
        pytest.skip("../shared/images is not there")
    path = tmp_path / "xfs.vhdx"
    with gzip.open(packed) as source, path.open("wb") as out:
        shutil.copyfileobj(source, out, MIB)
    raw = tmp_path / "raw"
    qemu_img("convert", "-f", "vhdx", "-O", "raw", path, raw)
    oracle = HostFile.open(str(raw))
    with opened(path) as image:
        assert image.blocks.size == oracle.size
        check_blocks(image.blocks, lambda offset, length: read(oracle, offset, length), ranges=500)
    oracle.close()


SIZE = 9 * MIB + 512 * KIB


def a_disk(rng: random.Random, blocks: tuple[int, ...], **fields: object) -> Disk:
    return Disk(
        SIZE,
        states=dict.fromkeys(blocks, vhdx.FULL),
        contents={index: rng.randbytes(MIB) for index in blocks},
        **fields,  # type: ignore[arg-type]
    )


def overlaid(below: bytes, disk: Disk) -> bytes:
    """What a differencing disk holds over ``below``."""
    content = bytearray(below.ljust(10 * MIB, b"\0"))
    for index, state in disk.states.items():
        at = index * MIB
        if state == vhdx.PARTIAL:
            for sector in disk.stored[index]:
                first = sector * disk.sector_size
                content[at + first : at + first + disk.sector_size] = disk.contents[index][first : first + disk.sector_size]
        elif state != vhdx.NOT_PRESENT:
            content[at : at + MIB] = disk.contents.get(index, bytes(MIB))
    return bytes(content[: disk.size])


def write_chain(folder: Path, *, sector_size: int = 512, with_zeros: bool = True) -> tuple[Path, bytes]:
    """Three links, and what the youngest holds."""
    rng = random.Random(7)
    base = a_disk(rng, (0, 1, 3, 4, 8, 9), sector_size=sector_size)
    base.write(folder / "base.vhdx")
    content, parent = overlaid(bytes(SIZE), base), base
    for number in (1, 2):
        partial = (2, 4, 9) if number == 1 else (1, 2, 5)
        disk = a_disk(rng, (*partial, 6 + number), sector_size=sector_size)
        disk.parent = {
            "parent_linkage": f"{{{parent.data_write}}}",
            "relative_path": ".\\base.vhdx" if number == 1 else ".\\1.vhdx",
            "absolute_win32_path": "C:\\VMs\\base.vhdx" if number == 1 else "C:\\VMs\\1.vhdx",
        }
        for index in partial:
            disk.states[index] = vhdx.PARTIAL
            disk.stored[index] = sorted_sectors(MIB // sector_size, rng)
        if number == 2 and with_zeros:
            disk.states |= {0: vhdx.ZERO, 3: vhdx.UNMAPPED, 8: vhdx.NOT_PRESENT, 6: vhdx.UNDEFINED}
        disk.write(folder / f"{number}.vhdx")
        content, parent = overlaid(content, disk), disk
    return folder / "2.vhdx", content


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_differencing_chain(tmp_path: Path, sector_size: int) -> None:
    path, content = write_chain(tmp_path, sector_size=sector_size)
    with opened(path) as image:
        assert [Path(link.file).name for link in image.chain] == ["2.vhdx", "1.vhdx", "base.vhdx"]
        assert [link.parent_cid for link in image.chain] == [*(link.cid for link in image.chain[1:]), None]
        assert image.blocks.sector_size == sector_size
        check_blocks(image.blocks, content, ranges=500)
        check_closed(image.blocks)


@needs_vhdimount
@pytest.mark.root
def test_a_differencing_chain_as_libvhdi_reads_it(tmp_path: Path) -> None:
    # Without blocks of state ZERO: libvhdi 20210425 reads those from the parent, which [MS-VHDX] 2.5.1.1 rules out.
    path, content = write_chain(tmp_path, with_zeros=False)
    with vhdimounted(path, tmp_path / "mounted") as files, opened(path) as image:
        assert files[-1].read_bytes() == content == read(image.blocks, 0, image.blocks.size)


def test_extents_of_a_chain_are_exact(tmp_path: Path) -> None:
    base = Disk(SIZE, states={0: vhdx.FULL, 1: vhdx.FULL}, contents={0: b"b" * MIB, 1: b"b" * MIB})
    base.write(tmp_path / "base.vhdx")
    child = Disk(SIZE, parent={"parent_linkage": f"{{{base.data_write}}}", "relative_path": "base.vhdx"})
    child.states = {1: vhdx.ZERO, 2: vhdx.PARTIAL}
    child.contents, child.stored = {2: b"c" * MIB}, {2: {8, 9}}
    child.write(tmp_path / "child.vhdx")
    with opened(tmp_path / "child.vhdx") as image:
        data = [(one.offset, one.length) for one in image.blocks.extents(0, SIZE) if one.kind is ExtentKind.DATA]
        assert data == [(0, MIB), (2 * MIB + 4096, 1024)]


def test_many_chunks(tmp_path: Path) -> None:
    # Blocks of 256 MiB and sectors of 512 bytes: 16 blocks to a chunk, so that every 17th entry is a bitmap's.
    block = 256 * MIB
    parent = Disk(40 * block, block_size=block)
    parent.write(tmp_path / "base.vhdx")
    child = Disk(40 * block, block_size=block)
    child.parent = {"parent_linkage": f"{{{parent.data_write}}}", "relative_path": "base.vhdx"}
    child.states = {15: vhdx.PARTIAL, 16: vhdx.PARTIAL, 33: vhdx.PARTIAL}
    child.contents = {index: bytes([index]) * 4096 for index in child.states}
    child.stored = {15: {0}, 16: {1}, 33: {0, 7}}
    child.write(tmp_path / "child.vhdx")
    with opened(tmp_path / "child.vhdx") as image:
        found = [(one.offset, one.length) for one in image.blocks.extents(0, 40 * block) if one.kind is ExtentKind.DATA]
        assert found == [(15 * block, 512), (16 * block + 512, 512), (33 * block, 512), (33 * block + 3584, 512)]
        assert read(image.blocks, 15 * block, 1024) == bytes([15]) * 512 + bytes(512)
        assert read(image.blocks, 16 * block, 1024) == bytes(512) + bytes([16]) * 512


def write_pair(folder: Path, **names: str) -> Path:
    base = Disk(SIZE, data_write=uuid.UUID(int=0xB))
    base.write(folder / "base.vhdx")
    Disk(SIZE, parent={"parent_linkage": f"{{{uuid.UUID(int=0xB)}}}", **names}).write(folder / "child.vhdx")
    return folder / "child.vhdx"


@pytest.mark.parametrize(
    "names",
    [
        {"relative_path": ".\\base.vhdx"},
        {"absolute_win32_path": "C:\\VMs\\base.vhdx"},
        {"volume_path": "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\VMs\\base.vhdx"},
        {"relative_path": "..\\gone\\base.vhdx", "absolute_win32_path": "C:\\gone\\other.vhdx"},
        {"parent_linkage": "{00000000-0000-0000-0000-000000000001}", "relative_path": "base.vhdx",
         "parent_linkage2": "{0000000000000000-0000-0000-0000000B}"},
    ],
)  # fmt: skip
def test_every_way_to_name_the_parent(tmp_path: Path, names: dict[str, str]) -> None:
    if "parent_linkage2" in names:
        names = {**names, "parent_linkage2": f"{{{uuid.UUID(int=0xB)}}}"}
    with opened(write_pair(tmp_path, **names)) as image:
        assert Path(image.chain[1].file).name == "base.vhdx"


def test_another_parent_is_refused_with_both_identifiers(tmp_path: Path) -> None:
    path = write_pair(tmp_path, relative_path="base.vhdx")
    Disk(SIZE, data_write=uuid.UUID(int=0xE)).write(tmp_path / "base.vhdx")
    with pytest.raises(Corrupt, match="not the disk") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.reason == "parent-mismatch"
    assert (caught.value.expected, caught.value.found) == (str(uuid.UUID(int=0xB)), str(uuid.UUID(int=0xE)))
    with opened(path, ignore_cid=True) as image:
        assert len(image.chain) == 2


def test_a_parent_with_other_sectors(tmp_path: Path) -> None:
    path = write_pair(tmp_path, relative_path="base.vhdx")
    Disk(SIZE, data_write=uuid.UUID(int=0xB), sector_size=4096).write(tmp_path / "base.vhdx")
    with pytest.raises(Corrupt, match="sectors of another size"), opened(path):
        pytest.fail("opened")


def test_a_missing_parent(tmp_path: Path) -> None:
    path = write_pair(tmp_path, relative_path=".\\gone.vhdx", absolute_win32_path="C:\\VMs\\gone.vhdx")
    with pytest.raises(NotFound, match=r"its parent is missing: gone\.vhdx") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.reason == "parent-missing"


def test_a_parent_without_identity(tmp_path: Path) -> None:
    path = tmp_path / "child.vhdx"
    Disk(SIZE, parent={"relative_path": "base.vhdx"}).write(path)
    with pytest.raises(Corrupt, match="no parent_linkage"), opened(path):
        pytest.fail("opened")


def plain(folder: Path) -> Path:
    path = folder / "disk.vhdx"
    a_disk(random.Random(2), (0, 2)).write(path)
    return path


def patch(path: Path, *changes: tuple[int, bytes]) -> None:
    with path.open("r+b") as file:
        for at, content in changes:
            file.seek(at)
            file.write(content)


@pytest.mark.parametrize("at", [64 * KIB, 128 * KIB + 100, 192 * KIB, 256 * KIB + 100])
def test_each_copy_of_a_structure_will_do(tmp_path: Path, at: int) -> None:
    path = plain(tmp_path)
    with opened(path) as image:
        content = read(image.blocks, 0, SIZE)
    patch(path, (at, b"?"))
    with opened(path) as image:
        assert read(image.blocks, 0, SIZE) == content


def test_the_newer_header_counts(tmp_path: Path) -> None:
    path = plain(tmp_path)
    newer = uuid.uuid4()
    patch(path, (64 * KIB, vhdx.header(8, newer)))
    with opened(path) as image:
        assert image.chain[0].cid == str(newer)


REQUIRED = [(uuid.UUID(int=1), 8 * MIB, MIB, 1)]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ([(0, b"vhdy")], Corrupt, "not a VHDX"),
        ([(64 * KIB, b"?"), (128 * KIB, b"?")], Corrupt, "both headers"),
        ([(64 * KIB, vhdx.header(9, uuid.uuid4(), version=2))], Unsupported, "unknown version"),
        ([(64 * KIB, vhdx.header(9, uuid.uuid4(), log_version=1))], Unsupported, "unknown version"),
        ([(192 * KIB, b"?"), (256 * KIB, b"?")], Corrupt, "both region tables"),
        ([(192 * KIB, vhdx.region_table(vhdx.REGIONS, count=2048))], Corrupt, "too many regions"),
        ([(192 * KIB, vhdx.region_table(vhdx.REGIONS * 2))], Corrupt, "region is there twice"),
        ([(192 * KIB, vhdx.region_table(vhdx.REGIONS + REQUIRED))], Unsupported, "region of an unknown kind"),
        ([(192 * KIB, vhdx.region_table(vhdx.REGIONS[:1]))], Corrupt, "no metadata region"),
        ([(192 * KIB, vhdx.region_table(vhdx.REGIONS[1:]))], Corrupt, "no block table region"),
        ([(192 * KIB, vhdx.region_table([(vhdx.BAT, 2**60, MIB, 1), vhdx.REGIONS[1]]))], Corrupt, "region is outside"),
        ([(192 * KIB, vhdx.region_table([(vhdx.BAT, 0, MIB, 1), vhdx.REGIONS[1]]))], Corrupt, "region is outside"),
        ([(192 * KIB, vhdx.region_table([(vhdx.BAT, 3 * MIB, 64, 1), vhdx.REGIONS[1]]))], Corrupt, "table is too short"),
        (
            [(192 * KIB, vhdx.region_table([vhdx.REGIONS[0], (vhdx.METADATA, 2 * MIB, 4096, 1)]))],
            Corrupt,
            "metadata region is too short",
        ),
        ([(2 * MIB, b"?")], Corrupt, "no metadata table"),
        ([(2 * MIB + 10, b"\xff\xff")], Corrupt, "too many metadata items"),
    ],
)
def test_structures_that_cannot_be(
    tmp_path: Path, changes: list[tuple[int, bytes]], kind: type[MntapiError], message: str
) -> None:
    path = plain(tmp_path)
    patch(path, *changes)
    if path.read_bytes()[:4] != b"vhdx":
        with pytest.raises(kind, match=message):
            read_structure(HostFile.open(str(path)))
        return
    with pytest.raises(kind, match=message) as caught, opened(path):
        pytest.fail("opened")
    assert (caught.value.path, caught.value.offset is not None) == (str(path), True)
    assert caught.value.errno is not None


def test_an_optional_region_is_ignored(tmp_path: Path) -> None:
    path = plain(tmp_path)
    patch(path, (192 * KIB, vhdx.region_table([*vhdx.REGIONS, (uuid.UUID(int=1), 8 * MIB, MIB, 0)])))
    with opened(path) as image:
        assert image.blocks.size == SIZE


ITEM = struct.Struct("<16sIIII")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((vhdx.FILE_PARAMETERS, struct.pack("<II", 3 * MIB, 0)), "block size is impossible"),
        ((vhdx.FILE_PARAMETERS, struct.pack("<II", 512 * MIB, 0)), "block size is impossible"),
        ((vhdx.FILE_PARAMETERS, struct.pack("<II", 0, 0)), "block size is impossible"),
        ((vhdx.FILE_PARAMETERS, struct.pack("<II", MIB, 2)), "without a parent locator"),
        ((vhdx.FILE_PARAMETERS, b"1234"), "missing or too short"),
        ((vhdx.DISK_SIZE, struct.pack("<Q", 65 * TIB)), "disk size is impossible"),
        ((vhdx.DISK_SIZE, struct.pack("<Q", 513)), "disk size is impossible"),
        ((vhdx.LOGICAL, struct.pack("<I", 2048)), "logical sector size is impossible"),
        ((vhdx.LOGICAL, struct.pack("<I", 0)), "logical sector size is impossible"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, item: tuple[uuid.UUID, bytes], message: str) -> None:
    path = tmp_path / "disk.vhdx"
    disk = Disk(SIZE)
    disk.write(path)
    items = [(guid, item[1] if guid == item[0] else value, flags) for guid, value, flags in disk.items()]
    patch(path, (2 * MIB, vhdx.metadata(items)))
    with pytest.raises(Corrupt, match=message), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("extra", "kind", "message"),
    [
        ((uuid.UUID(int=9), b"x", 4), Unsupported, "metadata of an unknown kind"),
        ((vhdx.DISK_SIZE, b"x", 5), Unsupported, "metadata of an unknown kind"),
        ((vhdx.DISK_SIZE, b"x", 4), Corrupt, "there twice"),
        ((uuid.UUID(int=9), b"x", 0), None, ""),
        ((vhdx.DISK_SIZE, b"x", 1), None, ""),
    ],
)
def test_extra_metadata(
    tmp_path: Path, extra: tuple[uuid.UUID, bytes, int], kind: type[MntapiError] | None, message: str
) -> None:
    path = tmp_path / "disk.vhdx"
    Disk(SIZE, extra_items=[extra]).write(path)
    if kind is None:
        with opened(path) as image:
            assert image.blocks.size == SIZE
        return
    with pytest.raises(kind, match=message), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("region_length", "offset", "length", "message"),
    [
        (MIB, 0, 8, "outside its region"),
        (MIB, MIB - 4, 8, "outside its region"),
        (MIB, 64 * KIB, 2**32 - 1, "outside its region"),
        (2 * MIB, 64 * KIB, MIB + 1, "too long"),
    ],
)
def test_items_in_wrong_places(tmp_path: Path, region_length: int, offset: int, length: int, message: str) -> None:
    path = plain(tmp_path)
    regions = [vhdx.REGIONS[0], (vhdx.METADATA, 2 * MIB, region_length, 1)]
    item = ITEM.pack(vhdx.DISK_SIZE.bytes_le, offset, length, 6, 0)
    patch(path, (192 * KIB, vhdx.region_table(regions)), (2 * MIB + 32 + 32, item))
    with pytest.raises(Corrupt, match=message), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("locator", "kind", "message"),
    [
        (vhdx.parent_locator({"parent_linkage": "x"}, uuid.UUID(int=3)), Unsupported, "not a VHDX"),
        (vhdx.VHDX_PARENT.bytes_le + struct.pack("<HH", 0, 65) + bytes(65 * 12), Corrupt, "too many keys"),
        (vhdx.VHDX_PARENT.bytes_le + struct.pack("<HH", 0, 9), Corrupt, "too many keys"),
        (vhdx.VHDX_PARENT.bytes_le + struct.pack("<HHIIHH", 0, 1, 20, 9, 2, 65535), Corrupt, "outside it"),
    ],
)
def test_parent_locators_that_cannot_be(tmp_path: Path, locator: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.vhdx"
    disk = Disk(SIZE, parent={"parent_linkage": "x"})
    disk.write(path)
    items = [(guid, locator if guid == vhdx.PARENT_LOCATOR else value, flags) for guid, value, flags in disk.items()]
    patch(path, (2 * MIB, vhdx.metadata(items)))
    with pytest.raises(kind, match=message), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (4, "state it cannot have"),
        (5, "state it cannot have"),
        (4 * MIB | vhdx.PARTIAL, "state it cannot have"),
        (vhdx.FULL, "block is outside"),
        (2**63 | vhdx.FULL, "block is outside"),
    ],
)
def test_one_bad_entry_costs_one_block(tmp_path: Path, entry: int, message: str) -> None:
    path = plain(tmp_path)
    with opened(path) as image:
        content = read(image.blocks, 2 * MIB, MIB)
    patch(path, (3 * MIB + 8, struct.pack("<Q", entry)))
    with opened(path) as image:
        assert read(image.blocks, 2 * MIB, MIB) == content
        with pytest.raises(Corrupt, match=message) as caught:
            read(image.blocks, MIB, 512)
        assert (caught.value.offset, caught.value.path) == (3 * MIB + 8, str(path))


@pytest.mark.parametrize(("entry", "message"), [(0, "no sector bitmap"), (2**50 | vhdx.FULL, "block is outside")])
def test_a_bad_sector_bitmap_entry(tmp_path: Path, entry: int, message: str) -> None:
    path, _ = write_chain(tmp_path)
    patch(path, (3 * MIB + 8 * 4096, struct.pack("<Q", entry)))
    with opened(path) as image, pytest.raises(Corrupt, match=message):
        read(image.blocks, 2 * MIB, 512)


def touch_everything(path: Path) -> None:
    """Open and read, taking no for an answer."""
    try:
        with opened(path) as image:
            size = min(image.blocks.size, SIZE)
            for at in range(0, size, MIB // 2):
                try:
                    read(image.blocks, at, min(4096, size - at))
                except MntapiError as error:
                    assert error.path, error
            sum(1 for _ in zip(image.blocks.extents(0, size), range(1000), strict=False))
    except MntapiError as error:
        assert error.path, error


def test_truncated_anywhere(tmp_path: Path) -> None:
    path, _ = write_chain(tmp_path)
    for length in range(path.stat().st_size - 1, 0, -333_333):
        with path.open("r+b") as file:
            file.truncate(length)
        touch_everything(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "mutated"
    if not folder.exists():
        folder.mkdir()
        write_chain(folder)
    path = folder / "2.vhdx"
    place = st.one_of(
        st.integers(2 * MIB, 2 * MIB + 256),
        st.integers(2 * MIB + 64 * KIB, 2 * MIB + 64 * KIB + 400),
        st.integers(3 * MIB, 3 * MIB + 80),
        st.integers(3 * MIB + 8 * 4096, 3 * MIB + 8 * 4097),
    )
    changes = data.draw(st.lists(st.tuples(place, st.sampled_from((b"\0", b"\1", b"\6", b"\7", b"\x7f", b"\xff"))), max_size=6))
    with path.open("rb") as file:
        before = []
        for at, _ in changes:
            file.seek(at)
            before.append((at, file.read(1)))
    patch(path, *changes)
    try:
        touch_everything(path)
    finally:
        patch(path, *reversed(before))
