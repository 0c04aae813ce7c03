"""VHD against qemu-img (fixed, dynamic), libvhdi (differencing), and samples from Hyper-V, Virtual PC and disk2vhd."""

from __future__ import annotations

import random
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import vhd_builder
from contract.blocks_contract import check_blocks, check_closed
from contract.vhd_support import (
    SHARED,
    disk_content,
    known_formats,
    needs_qemu,
    needs_vhdimount,
    opened,
    qemu_img,
    raw_of,
    sample,
    sorted_sectors,
    vhdimounted,
)
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images.blockmap import MAX_PAGES, PAGE
from mntapi.images.vhd.structures import parse_footer
from mntapi.types import ExtentKind

__all__ = ["known_formats"]

MIB, GIB = 1 << 20, 1 << 30
BLOCK = 64 << 10
SECTORS = BLOCK // 512
SIZE = 9 * BLOCK + BLOCK // 2
BASE_ID, MIDDLE_ID, CHILD_ID = (uuid.UUID(int=number) for number in (0xB, 0xA, 0xC))


@needs_qemu
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_what_qemu_writes(tmp_path: Path, kind: str) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.vhd"
    raw.write_bytes(disk_content(9 * MIB + 512, unit=256 << 10))
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={kind},force_size=on", raw, path)
    with opened(path) as image:
        assert image.format == "vhd"
        check_blocks(image.blocks, raw.read_bytes(), ranges=500)
        check_closed(image.blocks)


@needs_qemu
def test_a_size_that_goes_by_geometry(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    qemu_img("create", "-q", "-f", "vpc", path, "10M")
    with opened(path) as image:
        assert image.blocks.size == len(raw_of(path, "vpc")) > 10 * MIB


@needs_qemu
def test_a_large_disk_costs_what_a_small_one_costs(tmp_path: Path) -> None:
    path = tmp_path / "large.vhd"
    qemu_img("create", "-q", "-f", "vpc", "-o", "force_size=on", path, "2040G")
    far = 2039 * GIB + 4096
    subprocess.run(["qemu-io", "-f", "vpc", "-c", f"write -P 0x5a {far} 64k", str(path)], check=True, capture_output=True)
    with opened(path) as image:
        assert image.blocks.size == 2040 * GIB
        assert read(image.blocks, far - 16, 32) == bytes(16) + b"\x5a" * 16
        data = [extent for extent in image.blocks.extents(0, image.blocks.size) if extent.kind is ExtentKind.DATA]
        assert sum(extent.length for extent in data) <= 2 * MIB
        assert data[0].offset <= far < far + (64 << 10) <= data[-1].end


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hyperv2012r2-dynamic.vhd", 136365211648),
        ("virtualpc-dynamic.vhd", 136363130880),
        ("d2v-zerofilled.vhd", 263454720),
    ],
)
def test_sizes_of_samples(tmp_path: Path, name: str, size: int) -> None:
    # Sizes by qemu-img info; Virtual PC's is the one its geometry says.
    with opened(sample(name, tmp_path)) as image:
        assert image.blocks.size == size
        assert read(image.blocks, size - 512, 512) == bytes(512)


@needs_qemu
@pytest.mark.parametrize("name", ["dfvfs/test_data/ext2.vhd", "sleuthkit/test/data/image.vhd"])
def test_samples(tmp_path: Path, name: str) -> None:
    if not (SHARED / name).exists():
        pytest.skip("../shared/images is not there")
    path = tmp_path / "copy.vhd"
    shutil.copy(SHARED / name, path)
    with opened(path) as image:
        check_blocks(image.blocks, raw_of(path, "vpc"), ranges=500)


def test_a_sample_whose_parent_is_missing(tmp_path: Path) -> None:
    path = SHARED / "dfvfs" / "test_data" / "fat-differential.vhd"
    if not path.exists():
        pytest.skip("../shared/images is not there")
    with pytest.raises(NotFound, match=r"fat-parent\.vhd") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.reason == "parent-missing"


def write_base(folder: Path, rng: random.Random) -> bytes:
    """A dynamic disk; what it holds."""
    content = {index: rng.randbytes(BLOCK) for index in (0, 1, 3, 4, 8, 9)}
    every = set(range(SECTORS))
    vhd_builder.write_sparse(
        folder / "base.vhd", SIZE, {index: (every, block) for index, block in content.items()}, unique_id=BASE_ID
    )
    return b"".join(content.get(index, bytes(BLOCK)) for index in range(10))[:SIZE]


def write_child(
    path: Path, below: bytes, blocks: dict[int, tuple[set[int], bytes]], unique_id: uuid.UUID, parent_id: uuid.UUID, parent: str
) -> bytes:
    """A differencing disk over ``parent``, which holds ``below``; what the two hold."""
    names = [(b"W2ku", f"C:\\VMs\\{parent}".encode("utf-16-le")), (b"W2ru", f".\\{parent}".encode("utf-16-le"))]
    vhd_builder.write_sparse(
        path, SIZE, blocks, unique_id=unique_id, parent_id=parent_id, parent_name=f"C:\\VMs\\{parent}", locators=names
    )
    content = bytearray(below)
    for index, (stored, block) in blocks.items():
        for sector in stored:
            at = index * BLOCK + sector * 512
            if at < SIZE:
                content[at : at + 512] = block[sector * 512 : sector * 512 + 512]
    return bytes(content)


def write_chain(folder: Path) -> tuple[Path, bytes]:
    """Three links, and what the youngest holds."""
    rng = random.Random(3)

    def blocks(*indexes: int) -> dict[int, tuple[set[int], bytes]]:
        return {index: (sorted_sectors(SECTORS, rng), rng.randbytes(BLOCK)) for index in indexes}

    base = write_base(folder, rng)
    middle = write_child(folder / "middle.vhd", base, blocks(1, 2, 4, 6), MIDDLE_ID, BASE_ID, "base.vhd")
    whole = {0: (set(range(SECTORS)), rng.randbytes(BLOCK)), 7: (set(), rng.randbytes(BLOCK))}
    path = folder / "child.vhd"
    return path, write_child(path, middle, {**blocks(2, 4, 5, 9), **whole}, CHILD_ID, MIDDLE_ID, "middle.vhd")


def test_a_differencing_chain(tmp_path: Path) -> None:
    path, content = write_chain(tmp_path)
    with opened(path) as image:
        assert [Path(link.file).name for link in image.chain] == ["child.vhd", "middle.vhd", "base.vhd"]
        assert [link.cid for link in image.chain] == [str(CHILD_ID), str(MIDDLE_ID), str(BASE_ID)]
        assert [link.parent_cid for link in image.chain] == [str(MIDDLE_ID), str(BASE_ID), None]
        check_blocks(image.blocks, content, ranges=500)
        check_closed(image.blocks)


@needs_vhdimount
@pytest.mark.root
def test_a_differencing_chain_as_libvhdi_reads_it(tmp_path: Path) -> None:
    path, content = write_chain(tmp_path)
    with vhdimounted(path, tmp_path / "mounted") as files, opened(path) as image:
        assert files[-1].read_bytes() == content == read(image.blocks, 0, image.blocks.size)


def test_extents_of_a_chain_are_exact(tmp_path: Path) -> None:
    base = {0: ({0, 1}, b"b" * BLOCK)}
    vhd_builder.write_sparse(tmp_path / "base.vhd", SIZE, base, unique_id=BASE_ID)
    child = {0: ({4}, b"c" * BLOCK), 2: (set(range(SECTORS)), b"c" * BLOCK)}
    write_child(tmp_path / "child.vhd", bytes(SIZE), child, CHILD_ID, BASE_ID, "base.vhd")
    with opened(tmp_path / "child.vhd") as image:
        data = [(one.offset, one.length) for one in image.blocks.extents(0, SIZE) if one.kind is ExtentKind.DATA]
        assert data == [(0, 1024), (2048, 512), (2 * BLOCK, BLOCK)]
        assert read(image.blocks, 0, 2560) == b"b" * 1024 + bytes(1024) + b"c" * 512


def test_a_long_chain(tmp_path: Path) -> None:
    content, last = write_base(tmp_path, random.Random(5)), "base.vhd"
    for number in range(1, 33):
        block = {number % 10: (set(range(0, SECTORS, 2)), bytes([number]) * BLOCK)}
        parent_id = BASE_ID if number == 1 else uuid.UUID(int=1000 + number - 1)
        name = f"{number}.vhd"
        content = write_child(tmp_path / name, content, block, uuid.UUID(int=1000 + number), parent_id, last)
        last = name
    with opened(tmp_path / last) as image:
        assert len(image.chain) == 33
        check_blocks(image.blocks, content, ranges=100)


def test_a_parent_of_other_block_size_and_smaller(tmp_path: Path) -> None:
    small = 3 * 4096
    vhd_builder.write_sparse(
        tmp_path / "base.vhd",
        small,
        {index: (set(range(8)), bytes([65 + index]) * 4096) for index in range(3)},
        unique_id=BASE_ID,
        block_size=4096,
    )
    content = write_child(tmp_path / "child.vhd", bytes(SIZE), {1: ({0}, b"c" * BLOCK)}, CHILD_ID, BASE_ID, "base.vhd")
    content = b"A" * 4096 + b"B" * 4096 + b"C" * 4096 + content[small:]
    with opened(tmp_path / "child.vhd") as image:
        check_blocks(image.blocks, content)


def test_sectors_that_were_never_written_are_zero(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    vhd_builder.write_sparse(path, SIZE, {1: ({0, 5}, b"x" * BLOCK)}, unique_id=BASE_ID)
    with opened(path) as image:
        assert read(image.blocks, BLOCK, 6 * 512) == b"x" * 512 + bytes(4 * 512) + b"x" * 512


def write_pair(folder: Path, *, parent_id: uuid.UUID = BASE_ID, parent: str = "base.vhd") -> Path:
    write_base(folder, random.Random(1))
    write_child(folder / "child.vhd", bytes(SIZE), {}, CHILD_ID, parent_id, parent)
    return folder / "child.vhd"


def test_another_parent_is_refused_with_both_identifiers(tmp_path: Path) -> None:
    path = write_pair(tmp_path, parent_id=MIDDLE_ID)
    with pytest.raises(Corrupt, match="not the disk") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.reason == "parent-mismatch"
    assert (caught.value.expected, caught.value.found) == (str(MIDDLE_ID), str(BASE_ID))
    with opened(path, ignore_cid=True) as image:
        assert image.chain[1].cid == str(BASE_ID)


def test_a_missing_grandparent_is_the_one_that_is_named(tmp_path: Path) -> None:
    path, _ = write_chain(tmp_path)
    (tmp_path / "base.vhd").unlink()
    with pytest.raises(NotFound, match=r"middle\.vhd: its parent is missing: base\.vhd"), opened(path):
        pytest.fail("opened")


def test_a_disk_that_is_its_own_parent(tmp_path: Path) -> None:
    path = write_pair(tmp_path, parent="child.vhd")
    with pytest.raises(Corrupt, match="loops"), opened(path):
        pytest.fail("opened")


def test_a_parent_of_another_format(tmp_path: Path) -> None:
    path = write_pair(tmp_path, parent="base.raw")
    (tmp_path / "base.raw").write_bytes(bytes(SIZE))
    with pytest.raises(Unsupported, match="cannot be the parent"), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize(
    "locator",
    [
        (b"W2ru", ".\\base.vhd".encode("utf-16-le")),
        (b"W2ru", "base.vhd".encode("utf-16-be")),
        (b"W2ku", "D:\\old\\base.vhd".encode("utf-16-le")),
        (b"Wi2r", b".\\base.vhd\0"),
        (b"Wi2k", b"C:\\base.vhd"),
        (b"MacX", b"file://./base%2Evhd"),
        (b"W2ru", "..\\elsewhere\\base.vhd".encode("utf-16-le")),
    ],
)
def test_every_way_to_write_the_parents_name(tmp_path: Path, locator: tuple[bytes, bytes]) -> None:
    write_base(tmp_path, random.Random(1))
    path = tmp_path / "child.vhd"
    alias = (b"Mac ", b"\1" * 5000)  # can only be followed on a Macintosh
    vhd_builder.write_sparse(path, SIZE, {}, unique_id=CHILD_ID, parent_id=BASE_ID, locators=[alias, locator])
    with opened(path) as image:
        assert Path(image.chain[1].file).name == "base.vhd"


def test_a_parent_named_by_the_header_only(tmp_path: Path) -> None:
    write_base(tmp_path, random.Random(1))
    path = tmp_path / "child.vhd"
    vhd_builder.write_sparse(path, SIZE, {}, unique_id=CHILD_ID, parent_id=BASE_ID, parent_name="C:\\x\\base.vhd")
    with opened(path) as image:
        assert len(image.chain) == 2


def test_a_parent_outside_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write_base(tmp_path, random.Random(1))
    path = inner / "child.vhd"
    locators = [(b"W2ru", "..\\base.vhd".encode("utf-16-le"))]
    vhd_builder.write_sparse(path, SIZE, {}, unique_id=CHILD_ID, parent_id=BASE_ID, locators=locators)
    with pytest.raises(Denied, match="outside"), opened(path):
        pytest.fail("opened")
    with opened(path, allow_outside=True) as image:
        assert len(image.chain) == 2


def test_a_grandparent_outside_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write_base(tmp_path, random.Random(1))
    locators = [(b"W2ru", "..\\base.vhd".encode("utf-16-le"))]
    vhd_builder.write_sparse(inner / "middle.vhd", SIZE, {}, unique_id=MIDDLE_ID, parent_id=BASE_ID, locators=locators)
    write_child(inner / "child.vhd", bytes(SIZE), {}, CHILD_ID, MIDDLE_ID, "middle.vhd")
    with pytest.raises(Denied, match=r"middle\.vhd: names the file"), opened(inner / "child.vhd"):
        pytest.fail("opened")


def test_a_parent_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "child.vhd"
    vhd_builder.write_sparse(path, SIZE, {}, unique_id=CHILD_ID, parent_id=BASE_ID)
    with pytest.raises(NotFound, match="no name is given"), opened(path):
        pytest.fail("opened")


def test_a_name_too_long_to_believe(tmp_path: Path) -> None:
    path = tmp_path / "child.vhd"
    locators = [(b"W2ru", b"x\0" * 3000)]
    vhd_builder.write_sparse(path, SIZE, {}, unique_id=CHILD_ID, parent_id=BASE_ID, locators=locators)
    with pytest.raises(Corrupt, match="parent locator"), opened(path):
        pytest.fail("opened")


def fixed_disk(content: bytes, *, creator: bytes = b"win ", size: int | None = None) -> bytes:
    unique = uuid.UUID(int=5)
    size = len(content) if size is None else size
    return content + vhd_builder.footer(vhd_builder.FIXED, size, unique, creator=creator, header_at=2**64 - 1)


def test_a_footer_of_511_bytes(tmp_path: Path) -> None:
    path = tmp_path / "old.vhd"
    content = random.Random(1).randbytes(10_240)
    path.write_bytes(fixed_disk(content)[:-1])
    with opened(path) as image:
        check_blocks(image.blocks, content)


@pytest.mark.parametrize("damaged", ["start", "end", "cut"])
def test_a_dynamic_disk_damaged_at_one_end(tmp_path: Path, damaged: str) -> None:
    content = write_base(tmp_path, random.Random(1))
    path = tmp_path / "base.vhd"
    image_bytes = bytearray(path.read_bytes())
    if damaged == "start":
        image_bytes[20:40] = bytes(20)
    elif damaged == "end":
        image_bytes[-300] ^= 1
    else:
        del image_bytes[-512:]
    path.write_bytes(image_bytes)
    with opened(path) as image:
        check_blocks(image.blocks, content, ranges=20)


def test_a_dynamic_disk_damaged_at_both_ends(tmp_path: Path) -> None:
    write_base(tmp_path, random.Random(1))
    path = tmp_path / "base.vhd"
    image_bytes = bytearray(path.read_bytes())
    image_bytes[100] ^= 1
    image_bytes[-300] ^= 1
    path.write_bytes(image_bytes)
    with pytest.raises(Corrupt, match="checksum of the footer") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.offset == 64


def test_a_fixed_disk_with_a_damaged_footer(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    image_bytes = bytearray(fixed_disk(bytes(4096)))
    image_bytes[-300] ^= 1
    path.write_bytes(image_bytes)
    with pytest.raises(Corrupt, match="checksum of the footer") as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.offset == 4096 + 64


def test_a_fixed_disk_that_holds_a_fixed_footer_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    guest = fixed_disk(b"")  # a guest may well keep such bytes in its first sector
    image_bytes = bytearray(fixed_disk(guest + bytes(4096)))
    path.write_bytes(image_bytes)
    with opened(path) as image:
        check_blocks(image.blocks, guest + bytes(4096), ranges=20)
    image_bytes[-300] ^= 1
    path.write_bytes(image_bytes)
    with pytest.raises(Corrupt, match="checksum of the footer"), opened(path):
        pytest.fail("opened")


def test_something_appended_to_a_fixed_disk(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    path.write_bytes(fixed_disk(fixed_disk(b"") + bytes(4096)) + bytes(1024))
    with pytest.raises(Corrupt, match="no VHD footer at its end"), opened(path):
        pytest.fail("opened")


def test_a_fixed_disk_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    path.write_bytes(fixed_disk(bytes(4096), size=MIB))
    with pytest.raises(Corrupt, match="shorter than its disk"), opened(path):
        pytest.fail("opened")


def test_a_kind_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "odd.vhd"
    path.write_bytes(bytes(4096) + vhd_builder.footer(6, 4096, BASE_ID))
    with pytest.raises(Unsupported, match="unknown kind"), opened(path):
        pytest.fail("opened")


def test_a_footer_without_its_cookie() -> None:
    with pytest.raises(Corrupt, match="no VHD footer"):
        parse_footer(bytes(512), path="x", offset=0)


def test_a_version_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "odd.vhd"
    path.write_bytes(bytes(4096) + vhd_builder.footer(2, 4096, BASE_ID, version=0x20000))
    with pytest.raises(Unsupported, match="version that is not 1"), opened(path):
        pytest.fail("opened")


def with_header(content: bytes, *, header_at: int = 512, size: int = SIZE) -> bytes:
    last = vhd_builder.footer(vhd_builder.DYNAMIC, size, BASE_ID, header_at=header_at)
    return last + content.ljust(4096, b"\xff") + last


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_header(b""), "no dynamic disk header"),
        (with_header(b"", header_at=2**63), "header is outside"),
        (with_header(vhd_builder.header(1536, 10, BLOCK)[:-1] + b"\1"), "checksum of the dynamic disk header"),
        (with_header(vhd_builder.header(1536, 10, BLOCK + 1)), "block size is impossible"),
        (with_header(vhd_builder.header(1536, 10, 1 << 31)), "block size is impossible"),
        (with_header(vhd_builder.header(1536, 10, 0)), "block size is impossible"),
        (with_header(vhd_builder.header(1536, 9, BLOCK)), "block table is too short"),
        # qemu's afl5.img: a count that would be 4 GiB of table
        (with_header(vhd_builder.header(1536, 1073741825, BLOCK)), "block table is outside"),
        (with_header(vhd_builder.header(2**63, 10, BLOCK)), "block table is outside"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.vhd"
    path.write_bytes(content)
    with pytest.raises(Corrupt, match=message) as caught, opened(path):
        pytest.fail("opened")
    assert caught.value.path == str(path)
    assert caught.value.offset is not None


def test_a_header_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "odd.vhd"
    path.write_bytes(with_header(vhd_builder.header(1536, 10, BLOCK, version=0x20000)))
    with pytest.raises(Unsupported, match="version that is not 1"), opened(path):
        pytest.fail("opened")


@pytest.mark.parametrize("entry", [0, 0x7FFFFFFF])
def test_one_bad_entry_costs_one_block(tmp_path: Path, entry: int) -> None:
    content = write_base(tmp_path, random.Random(1))
    path = tmp_path / "base.vhd"
    image_bytes = bytearray(path.read_bytes())
    image_bytes[1536 + 4 * 3 : 1536 + 4 * 4] = entry.to_bytes(4, "big")
    path.write_bytes(image_bytes)
    with opened(path) as image:
        assert read(image.blocks, 0, 3 * BLOCK) == content[: 3 * BLOCK]
        assert read(image.blocks, 4 * BLOCK, SIZE - 4 * BLOCK) == content[4 * BLOCK :]
        with pytest.raises(Corrupt, match="block 3 is outside") as caught:
            read(image.blocks, 3 * BLOCK, 512)
        assert caught.value.offset == 1536 + 12


def test_caches_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mntapi.images.blockmap.MAX_RESOLVED", 2)
    monkeypatch.setattr("mntapi.images.blockmap.MAX_PARTIAL", 0)
    monkeypatch.setattr("mntapi.images.blockmap.PAGE", 2)
    monkeypatch.setattr("mntapi.images.blockmap.MAX_PAGES", 1)
    assert PAGE * MAX_PAGES * 8 <= 16 * MIB
    path, content = write_chain(tmp_path)
    with opened(path) as image:
        check_blocks(image.blocks, content, ranges=100)


def touch_everything(path: Path) -> None:
    """Open and read, taking no for an answer."""
    try:
        with opened(path) as image:
            size = min(image.blocks.size, 64 * BLOCK)
            for at in range(0, size, BLOCK // 2):
                try:
                    read(image.blocks, at, min(BLOCK, size - at))
                except MntapiError as error:
                    assert error.path, error
            sum(1 for _ in zip(image.blocks.extents(0, size), range(1000), strict=False))
    except MntapiError as error:
        assert error.path, error


def test_truncated_anywhere(tmp_path: Path) -> None:
    path, _ = write_chain(tmp_path)
    whole = path.read_bytes()
    for length in [*range(0, 4096, 256), *range(4096, len(whole), 16381), len(whole) - 1]:
        path.write_bytes(whole[:length])
        touch_everything(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "mutated"
    if not folder.exists():
        folder.mkdir()
        write_chain(folder)
        shutil.copy(folder / "child.vhd", folder / "pristine")
    content = bytearray((folder / "pristine").read_bytes())
    table = st.integers(512, 1536 + 1024 + 40)
    for at in data.draw(st.lists(table, min_size=1, max_size=6)):
        value = data.draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))
        content[at] = value
    if data.draw(st.booleans()):  # checksums made right again, so that what is behind them is reached
        content[512:1536] = vhd_builder.seal(content[512:1536], 36)
    (folder / "child.vhd").write_bytes(content)
    touch_everything(folder / "child.vhd")
