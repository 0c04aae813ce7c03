"""Containers keep the contract of ``Blocks``: each is made by the program everybody uses, and holds what went in."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from contract.container_support import IMAGES, cache_folder, content, make_content, open_with, table
from contract.make_disk import need, run
from mntapi.images.compressed import gz, store
from mntapi.types import Image
from mntapi.units import KIB, MIB

__all__ = ["cache_folder", "table"]
SIZE = 3 * MIB
CONTENT = make_content(SIZE)


def pack(source: Path, target: Path, *command: str) -> Path:
    """``command < source > target``."""
    need(command[0])
    with source.open("rb") as reader, target.open("wb") as writer:
        subprocess.run(command, stdin=reader, stdout=writer, check=True)
    return target


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("containers") / "disk.raw"
    path.write_bytes(CONTENT)
    return path


PACKERS = {
    "gzip": ("gz", ("gzip", "-1")),
    "gzip-best": ("gz", ("gzip", "-9")),
    "pigz": ("gz", ("pigz", "-1")),
    "xz": ("xz", ("xz", "-0")),
    "xz-blocks": ("xz", ("xz", "-0", "--block-size=200KiB")),
    "xz-threads": ("xz", ("xz", "-0", "-T2", "--block-size=1MiB")),
    "xz-crc32": ("xz", ("xz", "-0", "--check=crc32", "--block-size=512KiB")),
    "xz-sha256-x86": ("xz", ("xz", "--check=sha256", "--x86", "--lzma2=preset=0", "--block-size=512KiB")),
    "xz-no-check": ("xz", ("xz", "-0", "--check=none", "--block-size=512KiB")),
    "zstd": ("zst", ("zstd", "-q", "--no-progress")),
    "zstd-ultra": ("zst", ("zstd", "-q", "-19", "--no-check")),
    "zstd-long": ("zst", ("zstd", "-q", "--long=27")),
    "pzstd": ("zst", ("pzstd", "-q", "-p", "2")),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_packed(packer: str, raw: Path, tmp_path: Path, cache_folder: Path) -> None:
    module, command = PACKERS[packer]
    image = open_with(f"compressed.{module}", pack(raw, tmp_path / f"disk.raw.{module}", *command))
    check_blocks(image.blocks, CONTENT, ranges=100)
    assert [link.format for link in image.chain][1:] == ["raw"]
    assert image.path == str(tmp_path / f"disk.raw.{module}") and image.format == image.chain[0].format
    check_closed(image.blocks)


def _joined(raw: Path, tmp_path: Path, *command: str) -> Path:
    parts = []
    for number, (start, end) in enumerate(((0, MIB), (MIB, MIB), (MIB, SIZE - 5), (SIZE - 5, SIZE))):
        (tmp_path / f"part{number}").write_bytes(CONTENT[start:end])
        parts.append(pack(tmp_path / f"part{number}", tmp_path / f"packed{number}", *command).read_bytes())
    path = tmp_path / "joined"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("gz", ("gzip", "-1")),
        ("xz", ("xz", "-0", "--block-size=300KiB")),
        ("zst", ("zstd", "-q")),
        ("zst", ("zstd", "-q", "-1")),
    ],
)
def test_streams_after_one_another(
    module: str, command: tuple[str, ...], raw: Path, tmp_path: Path, cache_folder: Path
) -> None:
    image = open_with(f"compressed.{module}", _joined(raw, tmp_path, *command))
    check_blocks(image.blocks, CONTENT, ranges=60)
    image.blocks.close()


@pytest.mark.parametrize("command", [("gzip", "-1"), ("pigz", "-1")])
def test_gzip_by_points(
    command: tuple[str, ...], raw: Path, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("indexed_gzip")
    monkeypatch.setattr(gz, "SMALL", 0)
    monkeypatch.setattr(gz, "SPAN", 256 * KIB)
    monkeypatch.setattr(gz, "MIN_SPACING", 256 * KIB)
    path = pack(raw, tmp_path / "disk.gz", *command)
    for image in (open_with("compressed.gz", path), open_with("compressed.gz", path)):
        check_blocks(image.blocks, CONTENT, ranges=60)
        image.blocks.close()
    assert [kept.suffix for kept in cache_folder.iterdir()] == [".points"]


def test_gzip_members_by_points(raw: Path, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("indexed_gzip")
    monkeypatch.setattr(gz, "SMALL", 0)
    image = open_with("compressed.gz", _joined(raw, tmp_path, "gzip", "-1"))
    check_blocks(image.blocks, CONTENT, ranges=30)
    image.blocks.close()


@pytest.mark.parametrize("module", ["xz", "zst"])
def test_one_large_block_goes_through_a_store(
    module: str, raw: Path, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"mntapi.images.compressed.{module}.MAX_SPAN", MIB)
    monkeypatch.setattr(store, "PIECE", 64 * KIB)
    path = pack(raw, tmp_path / "disk", *(("xz", "-0") if module == "xz" else ("zstd", "-q")))
    for image in (open_with(f"compressed.{module}", path), open_with(f"compressed.{module}", path)):
        check_blocks(image.blocks, CONTENT, ranges=60)
        image.blocks.close()
    assert [kept.suffix for kept in cache_folder.iterdir()] == [".pieces"]


def test_zstd_that_does_not_tell_its_size(raw: Path, tmp_path: Path, cache_folder: Path) -> None:
    need("zstd")
    path = tmp_path / "disk.zst"
    with path.open("wb") as writer:
        subprocess.run(["zstd", "-q"], input=CONTENT, stdout=writer, check=True)
    image = open_with("compressed.zst", path)
    check_blocks(image.blocks, CONTENT, ranges=60)
    image.blocks.close()


def test_zeros_in_a_store_are_known_to_be_zeros(raw: Path, tmp_path: Path, cache_folder: Path) -> None:
    image = open_with("compressed.gz", pack(raw, tmp_path / "disk.gz", "gzip", "-1"))
    kinds = [extent.kind.value for extent in image.blocks.extents(0, SIZE)]
    assert "zero" in kinds and "data" in kinds
    image.blocks.close()


def test_real_packed_disks(cache_folder: Path) -> None:
    found = [
        *((IMAGES / "ext4-view-rs" / "test_data").glob("*.zst")),
        *((IMAGES / "syzkaller").glob("*.gz")),
        *((IMAGES / "util-linux" / "tests" / "ts" / "blkid" / "images-fs").glob("[b-n]*.xz")),
    ]
    if not found:
        pytest.skip("../shared/images is absent")
    programs = {".zst": ("zst", "zstd"), ".gz": ("gz", "gzip"), ".xz": ("xz", "xz")}
    for path in sorted(found)[::6]:
        module, program = programs[path.suffix]
        need(program)
        plain = subprocess.run([program, "-dc", path], capture_output=True, check=True).stdout
        assert hashlib.sha256(content(open_with(f"compressed.{module}", path))).digest() == hashlib.sha256(plain).digest(), path


# --- split ---


@pytest.mark.parametrize("arguments", [("-d", "-a3", "--numeric-suffixes=1"), ("-d", "-a3"), ("-d", "-a2"), ("-a2",), ("-a3",)])
def test_split(arguments: tuple[str, ...], raw: Path, tmp_path: Path) -> None:
    need("split")
    run("split", "-b", "299999", *arguments, raw, tmp_path / "disk.")
    image = open_with("split", sorted(tmp_path.iterdir())[0])
    assert [link.format for link in image.chain] == ["split", "raw"]
    check_blocks(image.blocks, CONTENT, ranges=100)
    check_closed(image.blocks)


@pytest.mark.parametrize("arguments", [("-d",), ()])
def test_split_into_so_many_that_names_grow(arguments: tuple[str, ...], tmp_path: Path) -> None:
    need("split")
    (tmp_path / "disk").write_bytes(CONTENT[: 680 * 100])
    run("split", "-b", "100", *arguments, tmp_path / "disk", tmp_path / "disk.")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert any(len(name) == len("disk.9000") for name in names)
    assert content(open_with("split", tmp_path / names[1])) == CONTENT[: 680 * 100]


def test_split_of_dfvfs() -> None:
    path = IMAGES / "dfvfs" / "test_data" / "ext2.splitraw.000"
    if not path.exists():
        pytest.skip("../shared/images is absent")
    image = open_with("split", path)
    assert hashlib.md5(content(image)).hexdigest() == "196066add11fb71c4c49cf1bb50d6d24"  # what the E01 of the same says


# --- one inside another ---


def test_a_disk_of_another_format_inside(raw: Path, tmp_path: Path, table: None, cache_folder: Path) -> None:
    need("qemu-img", "xz", "gzip", "split")
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, tmp_path / "disk.vmdk")
    run("qemu-img", "convert", "-O", "qcow2", raw, tmp_path / "disk.qcow2")
    pack(tmp_path / "disk.vmdk", tmp_path / "disk.vmdk.gz", "gzip")
    pack(tmp_path / "disk.qcow2", tmp_path / "disk.qcow2.xz", "xz", "-0")
    run("split", "-b", "500000", "-d", "-a3", tmp_path / "disk.vmdk.gz", tmp_path / "disk.vmdk.gz.")
    for module, name, expected in (
        ("compressed.gz", "disk.vmdk.gz", ["gzip", "vmdk"]),
        ("compressed.xz", "disk.qcow2.xz", ["xz", "qcow2"]),
        ("split", "disk.vmdk.gz.000", ["split", "gzip", "vmdk"]),
    ):
        image = open_with(module, tmp_path / name)
        assert [link.format for link in image.chain] == expected
        check_blocks(image.blocks, CONTENT, ranges=30)
        check_closed(image.blocks)


def test_neighbours_are_found_beside_the_container(raw: Path, tmp_path: Path, table: None, cache_folder: Path) -> None:
    need("qemu-img", "gzip")
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, tmp_path / "disk.vmdk")
    image = open_with("compressed.gz", pack(tmp_path / "disk.vmdk", tmp_path / "disk.vmdk.gz", "gzip"))
    assert content(image) == CONTENT


# --- OVA ---


def _ova(folder: Path, *members: str, form: str = "ustar") -> Path:
    run("tar", "-C", folder, f"--format={form}", "-cf", folder / "web.ova", *members)
    return folder / "web.ova"


@pytest.mark.parametrize("form", ["ustar", "pax", "gnu", "posix"])
@pytest.mark.parametrize("kind", ["streamOptimized", "monolithicSparse"])
def test_ova(form: str, kind: str, raw: Path, tmp_path: Path, table: None) -> None:
    need("qemu-img", "tar")
    name = "a-" + "long-" * 25 + "name.vmdk" if form != "ustar" else "disk1.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={kind}", raw, tmp_path / name)
    (tmp_path / "web.ovf").write_text("<Envelope/>")
    (tmp_path / "web.mf").write_text("SHA256(web.ovf)= 00\n")
    image = open_with("ova", _ova(tmp_path, "web.ovf", "web.mf", name, form=form))
    assert [(link.file, link.format) for link in image.chain] == [
        (str(tmp_path / "web.ova"), "ova"),
        (f"{tmp_path}/web.ova:{name}", "vmdk"),
    ]
    check_blocks(image.blocks, CONTENT, ranges=60)
    check_closed(image.blocks)


def test_ova_with_extents_and_a_folder(raw: Path, tmp_path: Path, table: None) -> None:
    need("qemu-img", "tar")
    (tmp_path / "vm").mkdir()
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, tmp_path / "vm" / "disk.vmdk")
    assert content(open_with("ova", _ova(tmp_path, "./vm"))) == CONTENT


def test_ova_with_a_plain_disk(raw: Path, tmp_path: Path, table: None) -> None:
    need("tar")
    shutil.copy(raw, tmp_path / "disk.img")
    (tmp_path / "web.ovf").write_text("<Envelope/>")
    image = open_with("ova", _ova(tmp_path, "web.ovf", "disk.img"))
    check_blocks(image.blocks, CONTENT, ranges=60)
    image.blocks.close()


# --- EWF ---

EWF_KINDS = ("smart", "ftk", "encase1", "encase2", "encase5", "encase6", "linen6", "ewfx")


def acquire(raw: Path, target: Path, *options: str) -> Path:
    need("ewfacquire")
    run("ewfacquire", "-u", "-q", *options, "-t", target, raw)
    return next(path for path in sorted(target.parent.glob(f"{target.name}.*01")))


def check_ewf(image: Image, raw: Path) -> None:
    want = raw.read_bytes()
    assert image.blocks.hashes == {"md5": hashlib.md5(want).hexdigest()}
    check_blocks(image.blocks, want, ranges=60)
    check_closed(image.blocks)


@pytest.mark.parametrize("kind", EWF_KINDS)
def test_ewf_of_every_kind(kind: str, raw: Path, tmp_path: Path) -> None:
    image = open_with("ewf", acquire(raw, tmp_path / "disk", "-f", kind, "-S", str(MIB)))
    check_ewf(image, raw)


@pytest.mark.parametrize("options", [("-c", "none"), ("-c", "best", "-b", "16"), ("-c", "empty-block", "-S", "1048576")])
def test_ewf_with_other_options(options: tuple[str, ...], raw: Path, tmp_path: Path) -> None:
    check_ewf(open_with("ewf", acquire(raw, tmp_path / "disk", *options)), raw)


def test_ewf_of_a_disk_that_ends_inside_a_chunk(tmp_path: Path) -> None:
    raw = tmp_path / "odd.raw"
    raw.write_bytes(CONTENT[: MIB + 512])
    for options in (("-c", "none"), ("-c", "fast"), ("-f", "smart")):
        (tmp_path / options[1]).mkdir()
        check_ewf(open_with("ewf", acquire(raw, tmp_path / options[1] / "disk", *options)), raw)


@pytest.mark.parametrize(
    ("name", "digest", "segments"),
    [
        ("dfvfs/test_data/ext2.E01", "196066add11fb71c4c49cf1bb50d6d24", 1),
        ("dfvfs/test_data/ext2.split.E01", "196066add11fb71c4c49cf1bb50d6d24", 2),
        ("sleuthkit/test/data/image.E01", "3ebb0b7dcd6b5fcd59a0020625d70994", 1),
        ("sleuthkit/test/data/imageformat_mmls_1.E01", "8ec671e301095c258224aad701740503", 1),
    ],
)
def test_real_ewf(name: str, digest: str, segments: int) -> None:
    """The digests are the manifest's, and what ewfinfo shows."""
    if not (IMAGES / name).exists():
        pytest.skip("../shared/images is absent")
    image = open_with("ewf", IMAGES / name)
    assert len(image.chain) == segments
    assert image.blocks.hashes["md5"] == digest
    assert hashlib.md5(content(image)).hexdigest() == digest
