"""Images that qemu wrote have no faults, whatever the subformat; neither have those of other writers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from contract.check_support import KIB, MIB, check, qemu_verdict, texts, verdict
from contract.make_disk import create_encrypted
from contract.vhd_support import SHARED, disk_content, needs_qemu, qemu_img, sample
from contract.vhdx_builder import Disk
from contract.vmdk_builder import build_cowd, build_sesparse, build_stream, write_descriptor
from contract.vmdk_builder import content as vmdk_content

SUBFORMATS = [
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"),
    ("vpc", "subformat=fixed"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=dynamic,force_size=on"),
    ("vhdx", "subformat=dynamic,block_size=1M"),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "log_size=2M"),
    ("qcow2", "compat=1.1"),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "extended_l2=on"),
    ("qcow2", "refcount_bits=1"),
    ("qcow2", "refcount_bits=2"),
    ("qcow2", "refcount_bits=8"),
    ("qcow2", "refcount_bits=32"),
    ("qcow2", "refcount_bits=64"),
    ("qcow2", "lazy_refcounts=on"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=full"),
    ("qcow2", "data_file=outside.data,data_file_raw=on"),
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("qed", "cluster_size=64k"),
    ("qed", "cluster_size=4k,table_size=2"),
    ("parallels", "cluster_size=1M"),
    ("parallels", "cluster_size=64k"),
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(disk_content(3 * MIB + 64 * KIB, unit=32 * KIB))
    return path


@needs_qemu
@pytest.mark.parametrize(("kind", "options"), SUBFORMATS)
def test_every_subformat_of_qemu(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str) -> None:
    monkeypatch.chdir(tmp_path)  # a data file is named relative to where qemu-img runs
    path = tmp_path / f"disk.{'vhd' if kind == 'vpc' else kind}"
    qemu_img("convert", "-f", "raw", "-O", kind, "-o", options, raw, path)
    assert texts(path, data=True) == []


@needs_qemu
@pytest.mark.parametrize("options", ["compression_type=zlib", "compression_type=zstd", "cluster_size=4k"])
def test_compressed_clusters(tmp_path: Path, raw: Path, options: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    assert texts(path, data=True) == []


def qemu_io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", path.suffix[1:], *arguments, str(path)], check=True, capture_output=True)


@needs_qemu
@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"])
def test_internal_snapshots_and_bitmaps(tmp_path: Path, raw: Path, options: str) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    qemu_img("bitmap", "--add", path, "nightly")
    for name in ("one", "two"):
        qemu_img("snapshot", "-c", name, path)
        qemu_io(path, "write -P 7 1M 300k", "write -z 2M 256k", "discard 512k 128k")
    qemu_img("bitmap", "--add", "-g", "64k", path, "weekly")
    assert not any(qemu_verdict(path, "qcow2"))
    assert texts(path, data=True) == []


@needs_qemu
def test_an_encrypted_disk_is_checked_without_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    create_encrypted("-q", "--object", "secret,id=s,data=pw", "-f", "qcow2", "-o", luks, path, "8M")
    assert texts(path) == [f"{path}: note: is encrypted (LUKS) (at byte 32)"]


@needs_qemu
@pytest.mark.parametrize("kind", ["qcow2", "vmdk"])
def test_a_chain(tmp_path: Path, raw: Path, kind: str) -> None:
    base, child = tmp_path / f"base.{kind}", tmp_path / f"child.{kind}"
    qemu_img("convert", "-f", "raw", "-O", kind, raw, base)
    qemu_img("create", "-q", "-f", kind, "-b", base, "-F", kind, child)
    qemu_io(child, "write -P 7 1M 300k")
    assert texts(child, data=True) == []


@needs_qemu
@pytest.mark.parametrize(
    ("kind", "size"), [("qcow2", "60T"), ("vhdx", "60T"), ("vpc", "1.9T"), ("vmdk", "128G"), ("qed", "1T")]
)
def test_disks_that_are_large_and_empty(tmp_path: Path, kind: str, size: str) -> None:
    path = tmp_path / f"disk.{kind}"
    qemu_img("create", "-q", "-f", kind, path, size)
    assert texts(path) == []


SAMPLES = ["hyperv2012r2-dynamic.vhd", "virtualpc-dynamic.vhd", "iotest-dynamic-1G.vhdx", "iotest-version3.vmdk"]
SAMPLES += ["parallels-v1", "parallels-v2", "empty.bochs", "simple-dmg.dmg", "simple-pattern.cloop"]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_other_writers(tmp_path: Path, name: str) -> None:
    assert texts(sample(name, tmp_path)) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/images is not there")
@pytest.mark.parametrize("name", ["dfvfs/test_data/ext2.qcow2", "dfvfs/test_data/ext2.vmdk", "dfvfs/test_data/ext2.vhd"])
def test_samples_that_are_not_packed(name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    assert texts(path) == []


def test_a_log_is_a_note(tmp_path: Path) -> None:
    path = sample("iotest-dirtylog-10G-4M.vhdx", tmp_path)
    (fault,) = check(path)
    assert "its log has 1 entries" in fault.what and not any(verdict([fault]))


def test_extents_that_qemu_does_not_write(tmp_path: Path) -> None:
    data = vmdk_content(3 * MIB)
    for build, kind in ((build_cowd, "VMFSSPARSE"), (build_sesparse, "SESPARSE")):
        extent = build(tmp_path / f"{kind}-delta.vmdk", data)
        path = write_descriptor(tmp_path / f"{kind}.vmdk", [f'RW {len(data) // 512} {kind} "{extent.name}"'])
        assert texts(path, data=True) == []
    assert texts(build_stream(tmp_path / "stream.vmdk", data), data=True) == []
    assert texts(build_stream(tmp_path / "bare.vmdk", data, markers=False), data=True) == []


def test_a_differencing_vhdx(tmp_path: Path) -> None:
    base = Disk(4 * MIB, states={0: 6}, contents={0: bytes(MIB)})
    base.write(tmp_path / "base.vhdx")
    keys = {"parent_linkage": f"{{{base.data_write}}}", "relative_path": ".\\base.vhdx"}
    child = Disk(4 * MIB, parent=keys, states={0: 7, 1: 6}, contents={0: bytes(MIB), 1: bytes(MIB)}, stored={0: {3}})
    child.write(tmp_path / "child.vhdx")
    assert texts(tmp_path / "child.vhdx", data=True) == []


def test_a_raw_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 4096)
    assert texts(path, data=True) == []
    shutil.copy(path, tmp_path / "disk-flat.vmdk")
    assert texts(tmp_path / "disk-flat.vmdk") == []
