"""VDI, Parallels, QED, Bochs, cloop and DMG against qemu-img, which reads all six, and qemu's own samples."""

from __future__ import annotations

import bz2
import lzma
import plistlib
import random
import shutil
import struct
import subprocess
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.blocks_contract import check_blocks, check_closed
from contract.vhd_support import ROWS as VHD_ROWS
from contract.vhd_support import SHARED, disk_content, needs_qemu, opened, qemu_img, raw_of, sample
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images import chunks, formats, qed
from mntapi.images.opener import DirectOpener
from mntapi.types import DiskSpec, ExtentKind

KIB, MIB = 1 << 10, 1 << 20
ROWS = (
    formats.Format("vdi", "mntapi.images.vdi", ((0x40, bytes.fromhex("7f10dabe")),)),
    formats.Format("parallels", "mntapi.images.parallels", ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt"))),
    formats.Format("qed", "mntapi.images.qed", ((0, b"QED\0"),)),
    formats.Format("bochs", "mntapi.images.bochs", ((0, b"Bochs Virtual HD Image\0"),)),
    formats.Format("cloop", "mntapi.images.cloop", ((0, b"#!/bin/sh\n#V2.0 Format\n"),)),
    formats.Format("dmg", "mntapi.images.dmg", ((-512, b"koly"),)),
)


@pytest.fixture(autouse=True)
def known_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of formats with the rows of these in it."""
    names = {format_.name for format_ in formats.FORMATS}
    missing = tuple(row for row in (*ROWS, *VHD_ROWS) if row.name not in names)
    monkeypatch.setattr(formats, "FORMATS", (*missing, *formats.FORMATS))


def refused(path: Path, kind: type[MntapiError], message: str, **options: bool) -> MntapiError:
    with pytest.raises(kind, match=message) as caught, opened(path, **options):
        pytest.fail("opened")
    assert caught.value.path is not None
    return caught.value


def patch(path: Path, *changes: tuple[int, bytes]) -> None:
    with path.open("r+b") as file:
        for at, content in changes:
            file.seek(at)
            file.write(content)


def written(folder: Path, kind: str, options: str = "", *, size: int = 5 * MIB + 64 * KIB) -> tuple[Path, bytes]:
    """An image that qemu-img wrote, and what it holds."""
    raw, path = folder / "disk.raw", folder / f"disk.{kind}"
    raw.write_bytes(disk_content(size, unit=256 * KIB))
    qemu_img("convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), raw, path)
    return path, raw.read_bytes()


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vdi", ""),
        ("vdi", "static=on"),
        ("parallels", ""),
        ("parallels", "cluster_size=64k"),
        ("qed", ""),
        ("qed", "cluster_size=4k,table_size=2"),
    ],
)
def test_what_qemu_writes(tmp_path: Path, kind: str, options: str) -> None:
    path, content = written(tmp_path, kind, options)
    with opened(path) as image:
        assert image.format == kind
        check_blocks(image.blocks, content, ranges=500)
        check_closed(image.blocks)


@pytest.mark.parametrize("kind", [*(row.name for row in ROWS), "vhd", "vhdx"])
def test_a_file_of_another_format(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"?" * 4096)
    with pytest.raises(Corrupt) as caught:
        formats.open_image(DiskSpec(str(path), kind), DirectOpener())
    assert caught.value.offset is not None


@needs_qemu
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("parallels-v1", "parallels"),
        ("parallels-v2", "parallels"),
        ("empty.bochs", "bochs"),
        ("simple-pattern.cloop", "cloop"),
        ("simple-dmg.dmg", "dmg"),
    ],
)
def test_samples(tmp_path: Path, name: str, kind: str) -> None:
    path = sample(name, tmp_path)
    with opened(path) as image:
        assert image.format == kind
        check_blocks(image.blocks, raw_of(path, kind), ranges=500)
        check_closed(image.blocks)


@needs_qemu
def test_a_sample_of_os_x(tmp_path: Path) -> None:
    source = SHARED / "dfvfs" / "test_data" / "hfsplus_zlib.dmg"
    if not source.exists():
        pytest.skip("../shared/images is not there")
    path = tmp_path / "disk.dmg"
    shutil.copy(source, path)
    with opened(path) as image:
        check_blocks(image.blocks, raw_of(path, "dmg"), ranges=500)


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "options", "size"), [("vdi", "", "100T"), ("qed", "", "64T"), ("parallels", "cluster_size=1M", "4T")]
)
def test_a_large_disk_costs_what_a_small_one_costs(tmp_path: Path, kind: str, options: str, size: str) -> None:
    path = tmp_path / "large"
    qemu_img("create", "-q", "-f", kind, *(["-o", options] if options else []), path, size)
    far = (int(size[:-1]) << 40) - MIB
    subprocess.run(["qemu-io", "-f", kind, "-c", f"write -P 0x5a {far} 64k", str(path)], check=True, capture_output=True)
    with opened(path) as image:
        assert read(image.blocks, far - 16, 32) == bytes(16) + b"\x5a" * 16
        data = [extent for extent in image.blocks.extents(0, image.blocks.size) if extent.kind is ExtentKind.DATA]
        assert data[0].offset <= far < far + 64 * KIB <= data[-1].end
        assert sum(extent.length for extent in data) <= MIB


# VDI


def write_vdi_pair(folder: Path, *, parent_modified: uuid.UUID | None = None) -> tuple[Path, bytes]:
    """A differencing disk, made of two that qemu wrote, and what it holds: its zeros hide the parent, its holes do not."""
    base, content = written(folder, "vdi")
    raw = base.read_bytes()
    image_id, modified = uuid.UUID(bytes_le=raw[0x188:0x198]), uuid.UUID(bytes_le=raw[0x198:0x1A8])
    base.rename(folder / f"{{{image_id}}}.vdi")
    child = folder / "child.vdi"
    qemu_img("create", "-q", "-f", "vdi", child, len(content))
    subprocess.run(["qemu-io", "-f", "vdi", "-c", "write -P 7 1M 1M", str(child)], check=True, capture_output=True)
    table_at = int.from_bytes(child.read_bytes()[0x154:0x158], "little")
    link = image_id.bytes_le + (parent_modified or modified).bytes_le
    patch(child, (0x4C, b"\4"), (0x1A8, link), (table_at + 12, b"\xfe\xff\xff\xff"))
    expected = bytearray(content)
    expected[MIB : 2 * MIB] = b"\7" * MIB
    expected[3 * MIB : 4 * MIB] = bytes(MIB)
    return child, bytes(expected)


@needs_qemu
def test_a_differencing_vdi(tmp_path: Path) -> None:
    path, content = write_vdi_pair(tmp_path)
    with opened(path) as image:
        assert len(image.chain) == 2
        assert image.chain[0].parent_cid == image.chain[1].cid
        check_blocks(image.blocks, content)


@needs_qemu
def test_a_vdi_whose_parent_was_changed(tmp_path: Path) -> None:
    path, _ = write_vdi_pair(tmp_path, parent_modified=uuid.UUID(int=3))
    assert refused(path, Corrupt, "not the disk").reason == "parent-mismatch"
    with opened(path, ignore_cid=True) as image:
        assert len(image.chain) == 2


@needs_qemu
def test_a_vdi_without_its_parent(tmp_path: Path) -> None:
    path, _ = write_vdi_pair(tmp_path)
    next(tmp_path.glob("{*.vdi")).unlink()
    error = refused(path, NotFound, "its parent is missing: {.*}.vdi")
    assert "--parent" in str(error.hint) and ".vbox" in str(error.hint)


@needs_qemu
def test_a_vdi_of_a_machine_as_virtualbox_keeps_it(tmp_path: Path) -> None:
    """The first disk has the machine's name, its children are in the folder ``Snapshots``; or all is in one folder."""
    machine = tmp_path / "web01"
    snapshots = machine / "Snapshots"
    snapshots.mkdir(parents=True)
    path, content = write_vdi_pair(snapshots)
    next(snapshots.glob("{*.vdi")).rename(machine / "web01.vdi")
    error = refused(path, Denied, "the disk {[0-9a-f-]{36}}, is not beside it")
    assert error.reason == "outside" and all(word in str(error.hint) for word in (".vbox", "--parent", "--allow-outside"))
    with opened(path, allow_outside=True) as image:
        assert read(image.blocks, 0, len(content)) == content
        assert [link.file for link in image.chain] == [str(path), str(machine / "web01.vdi")]
    path.rename(machine / "child.vdi")
    with opened(machine / "child.vdi") as image:
        assert read(image.blocks, 0, len(content)) == content
    (machine / "web01.vdi").rename(machine / "other.vdi")
    (machine / "child.vdi").rename(machine / "web01.vdi")
    refused(machine / "web01.vdi", NotFound, "its parent is missing")  # and not itself


VDI_FAULTS: list[tuple[int, bytes, type[MntapiError], str]] = [
    (0x44, b"\1\0\0\0", Unsupported, "unknown version"),
    (0x4C, b"\7", Unsupported, "unknown version or kind"),
    (0x168, b"\0\0\1\0", Corrupt, "block size is impossible"),
    (0x178, bytes(4), Corrupt, "block size is impossible"),
    (0x17C, b"\1", Corrupt, "block size is impossible"),
    (0x180, bytes(4), Corrupt, "too short"),
    (0x154, b"\xff\xff\xff\xff", Corrupt, "block table is outside"),
]


@needs_qemu
@pytest.mark.parametrize(("at", "new", "kind", "message"), VDI_FAULTS)
def test_vdi_headers_that_cannot_be(tmp_path: Path, at: int, new: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.vdi"
    qemu_img("create", "-q", "-f", "vdi", path, "4M")
    patch(path, (at, new))
    refused(path, kind, message)


PARALLELS_FAULTS: list[tuple[int, bytes, type[MntapiError], str]] = [
    (16, b"\3", Unsupported, "version that is not 2"),
    (28, bytes(4), Corrupt, "block size is impossible"),
    (28, b"\xff\xff\xff\xff", Corrupt, "block size is impossible"),
    (36, b"\xff\xff\xff", Corrupt, "too short"),
    (32, b"\xff\xff\xff\xff", Corrupt, "block table is outside"),
]


@needs_qemu
@pytest.mark.parametrize(("at", "new", "kind", "message"), PARALLELS_FAULTS)
def test_parallels_headers_that_cannot_be(tmp_path: Path, at: int, new: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.hdd"
    qemu_img("create", "-q", "-f", "parallels", path, "4M")
    patch(path, (at, new))
    refused(path, kind, message)


@needs_qemu
@pytest.mark.parametrize(("kind", "table"), [("vdi", 0x154), ("parallels", 64), ("qed", 40)])
def test_one_bad_entry_costs_one_block(tmp_path: Path, kind: str, table: int) -> None:
    path, content = written(tmp_path, kind)
    raw = path.read_bytes()
    if kind == "vdi":
        table = int.from_bytes(raw[table : table + 4], "little")
    if kind == "qed":  # the second-level table
        table = int.from_bytes(raw[table : table + 8], "little")
        table = int.from_bytes(raw[table : table + 8], "little")
    patch(path, (table, b"\xf0\xff\xff\xef"))
    with opened(path) as image:
        assert read(image.blocks, MIB, len(content) - MIB) == content[MIB:]
        with pytest.raises(Corrupt, match="0 is outside the file") as caught:
            read(image.blocks, 0, 512)
        assert caught.value.offset == table


# QED


@needs_qemu
@pytest.mark.parametrize("backing", ["raw", "qcow2", "qed"])
def test_a_qed_with_a_backing_file(tmp_path: Path, backing: str) -> None:
    if backing not in {row.name for row in formats.FORMATS}:
        pytest.skip(f"{backing} is not in the table yet")
    base, content = written(tmp_path, backing) if backing != "raw" else (tmp_path / "base", disk_content(5 * MIB))
    if backing == "raw":
        base.write_bytes(content)
    path = tmp_path / "child.qed"
    qemu_img("create", "-q", "-f", "qed", "-b", base.name, "-F", backing, path, "6M")
    subprocess.run(
        ["qemu-io", "-f", "qed", "-c", "write -P 7 1M 100k", "-c", "write -z 2M 256k", str(path)],
        check=True,
        capture_output=True,
    )
    with opened(path) as image:
        assert [link.format for link in image.chain] == ["qed", backing]
        check_blocks(image.blocks, raw_of(path, "qed"), ranges=300)


@needs_qemu
def test_a_qed_without_its_backing_file(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(MIB))
    path = tmp_path / "child.qed"
    qemu_img("create", "-q", "-f", "qed", "-b", "base", "-F", "raw", path)
    (tmp_path / "base").write_bytes(b"")
    refused(path, Corrupt, "empty")
    (tmp_path / "base").unlink()
    refused(path, NotFound, "no such file")
    name_at = int.from_bytes(path.read_bytes()[56:60], "little")
    patch(path, (name_at, b"/etc"))
    refused(path, Denied, "outside")
    patch(path, (60, b"\xff\xff\xff"))
    refused(path, Corrupt, "name of the backing file")


@needs_qemu
def test_a_qed_that_is_its_own_backing_file(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(MIB))
    qemu_img("create", "-q", "-f", "qed", "-b", "base", "-F", "raw", tmp_path / "child")
    (tmp_path / "child").rename(tmp_path / "base")
    refused(tmp_path / "base", Corrupt, "loops")


QED_FAULTS: list[tuple[int, bytes, type[MntapiError], str]] = [
    (16, b"\x10", Unsupported, "unknown features"),
    (4, b"\1", Corrupt, "sizes of clusters"),
    (8, bytes(4), Corrupt, "sizes of clusters"),
    (48, b"\xff" * 8, Corrupt, "larger than its tables"),
    (40, b"\xff" * 8, Corrupt, "first table is outside"),
    (40, b"\1", Corrupt, "first table is outside"),
]


@needs_qemu
@pytest.mark.parametrize(("at", "new", "kind", "message"), QED_FAULTS)
def test_qed_headers_that_cannot_be(tmp_path: Path, at: int, new: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.qed"
    qemu_img("create", "-q", "-f", "qed", path, "4M")
    patch(path, (at, new))
    refused(path, kind, message)


@needs_qemu
def test_a_qed_whose_second_table_is_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qed, "MAX_TABLES", 0)
    path, content = written(tmp_path, "qed", "cluster_size=4k,table_size=2")
    with opened(path) as image:
        assert read(image.blocks, 0, len(content)) == content
    table = int.from_bytes(path.read_bytes()[40:48], "little")
    patch(path, (table, b"\0\xf0\xff\xff\xff"))
    with opened(path) as image, pytest.raises(Corrupt, match="table 0 is outside"):
        read(image.blocks, 0, 512)


# Bochs


def bochs(*, version: int = 0x20000, kind: bytes = b"Redolog", extent: int = 4096, bitmap: int = 512, count: int = 4) -> bytes:
    """Four extents, of which the first is absent, the third full, and the fourth has its sectors 0 and 5."""
    size = struct.pack("<IQ", 0, 3 * 4096 + 3072) if version == 0x20000 else struct.pack("<Q", 3 * 4096 + 3072)
    header = struct.pack("<32s16s16sIIIII", b"Bochs Virtual HD Image", kind, b"Growing", version, 512, count, bitmap, extent)
    catalog = struct.pack("<4I", 0xFFFFFFFF, 2, 0, 1)
    bodies = [(b"\xff", b"3"), (b"\x21", b"4"), (b"\0", b"2")]
    return (header + size).ljust(512, b"\0") + catalog + b"".join(bits.ljust(512, b"\0") + body * 4096 for bits, body in bodies)


BOCHS_CONTENT = bytes(8192) + b"3" * 4096 + b"4" * 512 + bytes(2048) + b"4" * 512


@needs_qemu
def test_a_growing_bochs_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk.bochs"
    path.write_bytes(bochs())
    assert raw_of(path, "bochs") == BOCHS_CONTENT
    with opened(path) as image:
        check_blocks(image.blocks, BOCHS_CONTENT)


def test_a_bochs_disk_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "disk.bochs"
    path.write_bytes(bochs(version=0x10000))
    with opened(path) as image:
        check_blocks(image.blocks, BOCHS_CONTENT)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (bochs(version=7), Unsupported, "not a growing one"),
        (bochs(kind=b"Other"), Unsupported, "not a growing one"),
        (bochs(extent=0), Corrupt, "sizes of extents"),
        (bochs(extent=1 << 31), Corrupt, "sizes of extents"),
        (bochs(bitmap=0), Corrupt, "sizes of extents"),
        (bochs(bitmap=2**32 - 1), Corrupt, "sizes of extents"),
        (bochs(count=3), Corrupt, "too short"),
        (bochs(count=2**32 - 1), Corrupt, "catalog is outside"),
        (bochs()[:100], Corrupt, "is not a Bochs disk"),
    ],
)
def test_bochs_disks_that_cannot_be(tmp_path: Path, content: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.bochs"
    path.write_bytes(content)
    refused(path, kind, message)


def test_a_bochs_extent_outside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.bochs"
    path.write_bytes(bochs()[:-8000])
    with opened(path) as image:
        assert read(image.blocks, 8192, 4096) == b"3" * 4096
        with pytest.raises(Corrupt, match="extent 1 is outside"):
            read(image.blocks, 4096, 1)


# cloop and DMG


def cloop(blocks: list[bytes], *, block_size: int = 4096, count: int | None = None, offsets: list[int] | None = None) -> bytes:
    at = 136 + 8 * (len(blocks) + 1)
    places = [at]
    for block in blocks:
        places.append(places[-1] + len(block))
    places = offsets or places
    sizes = struct.pack(">II", block_size, len(blocks) if count is None else count)
    table = struct.pack(f">{len(places)}Q", *places)
    return b"#!/bin/sh\n#V2.0 Format\n".ljust(128, b"\n") + sizes + table + b"".join(blocks)


def test_a_cloop_of_random_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CAPACITY", 10_000)
    content = [random.Random(number).randbytes(4096) for number in range(20)]
    path = tmp_path / "disk.cloop"
    path.write_bytes(cloop([zlib.compress(block) for block in content]))
    with opened(path) as image:
        check_blocks(image.blocks, b"".join(content))
        check_closed(image.blocks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cloop([b""])[:100], "is not a cloop image"),
        (cloop([b""], block_size=0), "block size is impossible"),
        (cloop([b""], block_size=513), "block size is impossible"),
        (cloop([b""], block_size=1 << 31), "block size is impossible"),
        (cloop([b""], count=0), "too many blocks, or none"),
        (cloop([b""], count=2**32 - 1), "too many blocks"),
        (cloop([b"", b""], offsets=[200, 100, 200]), "do not ascend"),
        (cloop([b"", b""], offsets=[200, 300, 2**60]), "chunk is outside the file"),
    ],
)
def test_cloops_that_cannot_be(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "disk.cloop"
    path.write_bytes(content)
    refused(path, Corrupt, message)


@pytest.mark.parametrize(
    "block", [zlib.compress(bytes(4095)), zlib.compress(bytes(50 * MIB)), b"", b"garbage", zlib.compress(bytes(4096))[:-9]]
)
def test_a_chunk_that_does_not_unpack(tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "disk.cloop"
    path.write_bytes(cloop([zlib.compress(b"a" * 4096), block, zlib.compress(b"c" * 4096)]))
    with opened(path) as image:
        assert read(image.blocks, 0, 4096) + read(image.blocks, 8192, 4096) == b"a" * 4096 + b"c" * 4096
        with pytest.raises(Corrupt, match="a chunk"):
            read(image.blocks, 5000, 1)


Piece = tuple[int, int, bytes]


def dmg(
    pieces: list[Piece],
    *,
    sectors: int | None = None,
    segments: int = 1,
    data_at: int = 0,
    edit: Callable[[bytes], object] = bytes,
) -> bytes:
    """An image of one table; a piece is its method, its sectors, and its packed bytes."""
    data, entries, at = b"", b"", 0
    for kind, count, packed in pieces:
        entries += struct.pack(">IIQQQQ", kind, 0, at, count, len(data), len(packed))
        data += packed
        at += count
    entries += struct.pack(">IIQQQQ", 0xFFFFFFFF, 0, at, 0, 0, 0)
    table = b"mish" + struct.pack(">IQQQII", 1, 0, at, 0, 0, 0) + bytes(160) + struct.pack(">I", len(pieces) + 1) + entries
    plist = plistlib.dumps({"resource-fork": {"blkx": [{"Data": edit(table)}]}})
    trailer = bytearray(512)
    struct.pack_into(">4sIIIQQQQQII", trailer, 0, b"koly", 4, 512, 1, 0, data_at, len(data), 0, 0, 1, segments)
    struct.pack_into(">QQ", trailer, 0xD8, len(data), len(plist))
    struct.pack_into(">Q", trailer, 0x1EC, at if sectors is None else sectors)
    return data + plist + trailer


def test_a_dmg_of_every_kind_of_chunk(tmp_path: Path) -> None:
    rng = random.Random(1)
    parts = [rng.randbytes(4096) for _ in range(4)]
    pieces = [
        (0x80000005, 8, zlib.compress(parts[0])),
        (0, 8, b""),
        (0x80000006, 8, bz2.compress(parts[1])),
        (1, 8, parts[2]),
        (0x7FFFFFFE, 0, b""),
        (2, 8, b""),
        (0x80000008, 8, lzma.compress(parts[3])),
    ]
    path = tmp_path / "disk.dmg"
    path.write_bytes(dmg(pieces))
    content = parts[0] + bytes(4096) + parts[1] + parts[2] + bytes(4096) + parts[3]
    with opened(path) as image:
        check_blocks(image.blocks, content)
        kinds = [(one.length, one.kind) for one in image.blocks.extents(0, len(content))]
        assert [length for length, kind in kinds if kind is ExtentKind.ZERO] == [4096, 4096]


@pytest.mark.parametrize(("kind", "name"), [(0x80000004, "adc"), (0x80000007, "lzfse"), (0x1234, "method-0x1234")])
def test_methods_without_a_reader_are_named(tmp_path: Path, kind: int, name: str) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(dmg([(1, 1, b"x" * 512), (kind, 1, b"?")]))
    with opened(path) as image:
        assert read(image.blocks, 0, 512) == b"x" * 512
        with pytest.raises(Unsupported, match=name) as caught:
            read(image.blocks, 512, 1)
        assert caught.value.reason == name


def test_a_dmg_with_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(dmg([(1, 1, b"x" * 512)], sectors=2))
    with opened(path) as image, pytest.raises(Corrupt, match="no chunk has byte 512"):
        read(image.blocks, 0, 1024)


GOOD: list[Piece] = [(1, 1, b"x" * 512)]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"koly", Corrupt, "no UDIF trailer"),
        (dmg(GOOD, segments=2), Unsupported, "several segments"),
        (dmg(GOOD)[:-512] + dmg(GOOD)[-512:].replace(dmg(GOOD)[-512:][0xE0:0xE8], bytes(8)), Unsupported, "resource fork"),
        (dmg(GOOD)[512:], Corrupt, "property list"),
        (dmg(GOOD)[:512] + b"?" * 300 + dmg(GOOD)[812:], Corrupt, "property list cannot be read"),
        (dmg(GOOD, edit=lambda table: table[:100]), Corrupt, "no chunk table"),
        (dmg(GOOD, edit=lambda table: table[:210]), Corrupt, "cut off"),
        (dmg([(1, 1, b"")]), Corrupt, "stored chunk has two lengths"),
        (dmg(GOOD, data_at=2**40), Corrupt, "chunk is outside the file"),
        (dmg(GOOD, edit=lambda _: "text"), Corrupt, "not data"),
        (dmg(GOOD, edit=lambda _: []), Corrupt, "not data"),
        (dmg(GOOD, sectors=0), Corrupt, "outside the disk"),
        (dmg([(0x80000005, 1 << 30, b"")]), Corrupt, "too long"),
    ],
)
def test_dmgs_that_cannot_be(tmp_path: Path, content: bytes, kind: type[MntapiError], message: str) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(content)
    if len(content) < 512:
        with pytest.raises(kind, match=message):
            formats.open_image(DiskSpec(str(path), "dmg"), DirectOpener())
        return
    refused(path, kind, message)


def touch_everything(path: Path) -> None:
    try:
        with opened(path) as image:
            size = min(image.blocks.size, 8 * MIB)
            for at in range(0, size, 256 * KIB):
                try:
                    read(image.blocks, at, min(4096, size - at))
                except MntapiError as error:
                    assert error.path, error
            try:
                sum(1 for _ in zip(image.blocks.extents(0, size), range(1000), strict=False))
            except MntapiError as error:
                assert error.path, error
    except MntapiError as error:
        assert error.path, error


@needs_qemu
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "mutated"
    if not folder.exists():
        folder.mkdir()
        for kind in ("vdi", "parallels", "qed"):
            written(folder, kind, size=2 * MIB)
        (folder / "disk.raw").unlink()
        (folder / "disk.bochs").write_bytes(bochs())
        (folder / "disk.cloop").write_bytes(cloop([zlib.compress(bytes(4096))] * 3))
        (folder / "disk.dmg").write_bytes(dmg([*GOOD, (0x80000005, 8, zlib.compress(bytes(4096)))]))
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    size = path.stat().st_size
    place = st.integers(0, min(size, 600) - 1) if path.suffix != ".dmg" else st.integers(0, size - 1)
    at = data.draw(st.lists(place, min_size=1, max_size=4, unique=True))
    content = path.read_bytes()
    cut = data.draw(st.one_of(st.none(), st.integers(0, size)))
    try:
        patch(path, *((one, data.draw(st.sampled_from((b"\0", b"\1", b"\x7f", b"\xff")))) for one in at))
        if cut is not None:
            with path.open("r+b") as file:
                file.truncate(cut)
        touch_everything(path)
    finally:
        path.write_bytes(content)
