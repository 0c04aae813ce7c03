"""Files with the name of a format and without its signature: an error, and never a raw disk. Oracle: what qemu-img wrote."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path

import pytest

from contract.make_disk import need, run
from contract.memory_filesystem import Memory
from mntapi import DiskSpec, open_disks, read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.images.names import PROMISED, UNREAD, check_name, promised
from mntapi.units import MIB

DISK = b"\x55\xaa" * (MIB // 2)
QEMU = {"vpc": "vhd", "vmdk": "vmdk", "vhdx": "vhdx", "qcow2": "qcow2", "vdi": "vdi", "qed": "qed"}


def written(folder: Path, name: str, *options: str) -> Path:
    need("qemu-img")
    (folder / "disk.raw").write_bytes(DISK)
    path = folder / f"disk.{QEMU[name]}"
    run("qemu-img", "convert", "-f", "raw", "-O", name, *options, folder / "disk.raw", path)
    return path


def refused(path: Path, kind: type[MntapiError] = Corrupt) -> MntapiError:
    with pytest.raises(kind) as caught:
        open_disks(str(path)).close()
    assert caught.value.path is not None and caught.value.path.startswith(str(path))
    return caught.value


def wiped(path: Path) -> Path:
    """The file without its first sector, and without its last, where a VHD has its footer."""
    content = bytearray(path.read_bytes())
    content[:512] = content[-512:] = bytes(512)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", QEMU)
def test_a_container_that_lost_its_signature(name: str, tmp_path: Path) -> None:
    path = wiped(written(tmp_path, name))
    error = refused(path)
    assert error.reason == "signature-missing" and QEMU[name] in error.what and "--format raw" in str(error.hint)
    with open_disks(DiskSpec(str(path), format="raw")) as disk_set:
        assert read(disk_set.disks[0].blocks, 0, path.stat().st_size) == path.read_bytes()


def test_a_fixed_vhd_has_its_signature_at_the_end_only(tmp_path: Path) -> None:
    path = written(tmp_path, "vpc", "-o", "subformat=fixed,force_size=on")
    with open_disks(str(path)) as disk_set:
        assert disk_set.disks[0].format == "vhd" and read(disk_set.disks[0].blocks, 0, MIB) == DISK
    path.write_bytes(path.read_bytes()[:-512])
    assert refused(path).reason == "signature-missing"


@pytest.mark.parametrize("name", ["vm-flat.vmdk", "vm-f001.vmdk", "vm-pt.vmdk", "vm-rdm.vmdk", "vm-rdmp.vmdk", "a.hdd"])
def test_names_that_raw_disks_have(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DISK)
    with open_disks(str(tmp_path / name)) as disk_set:
        assert disk_set.disks[0].format == "raw"


def test_a_flat_extent_by_its_descriptor_and_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "vmdk", "-o", "subformat=monolithicFlat")
    for one in (path, tmp_path / "disk-flat.vmdk"):
        with open_disks(str(one)) as disk_set:
            assert read(disk_set.disks[0].blocks, 0, MIB) == DISK


def test_a_tar_of_before_posix_named_ova(tmp_path: Path) -> None:
    need("tar")
    written(tmp_path, "vmdk")
    run("tar", "--format=v7", "-cf", tmp_path / "vm.ova", "-C", tmp_path, "disk.vmdk")
    assert "ova" in refused(tmp_path / "vm.ova").what


@pytest.mark.parametrize("name", ["bz2", "lz4", "7z"])
def test_packed_by_something_that_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"disk.raw.{name}"
    path.write_bytes(b"BZh91AY&SY" * 100)
    assert UNREAD[f".{name}"] in refused(path, Unsupported).what


def test_inside_a_container(tmp_path: Path) -> None:
    path = wiped(written(tmp_path, "vmdk"))
    packed = tmp_path / "disk.vmdk.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert refused(packed).path == f"{packed}:disk.vmdk"
    half = path.stat().st_size // 2 + 1
    for number in range(2):
        (tmp_path / f"cut.vmdk.{number:03}").write_bytes(path.read_bytes()[number * half :][:half])
    assert refused(tmp_path / "cut.vmdk.000").path == f"{tmp_path}/cut.vmdk.000:cut.vmdk"


def test_in_an_archive(tmp_path: Path) -> None:
    path = wiped(written(tmp_path, "vmdk"))
    with tarfile.open(tmp_path / "vm.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(path, "disk.vmdk")
    refused(tmp_path / "vm.ova", Unsupported)


def test_a_disk_of_a_machine(tmp_path: Path) -> None:
    wiped(written(tmp_path, "vmdk"))
    (tmp_path / "vm.vmx").write_text('config.version = "8"\nscsi0:0.fileName = "disk.vmdk"\n')
    with pytest.raises(Corrupt, match="not its signature"):
        open_disks(str(tmp_path / "vm.vmx"))


def test_a_backing_file_of_no_told_format(tmp_path: Path) -> None:
    """Old versions of QEMU wrote no format of the backing file, and what has no signature is raw then."""
    base = written(tmp_path, "vmdk")
    shutil.copy(base, tmp_path / "base.vmdk")
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", "child.qcow2", cwd=tmp_path)
    child = tmp_path / "child.qcow2"
    child.write_bytes(
        child.read_bytes().replace(bytes.fromhex("e2792aca"), bytes.fromhex("11111111"), 1)
    )  # one that none knows
    with open_disks(str(tmp_path / "child.qcow2")) as disk_set:
        assert read(disk_set.disks[0].blocks, 0, MIB) == DISK
    wiped(tmp_path / "base.vmdk")
    with pytest.raises(Corrupt) as caught:
        open_disks(str(tmp_path / "child.qcow2"))
    assert caught.value.path == str(tmp_path / "base.vmdk") and "rebase" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("path", "format_"),
    [
        ("/b/A.VMDK", "vmdk"),
        ("https://host/b/a.vhdx?***", "vhdx"),
        ("https://host/b/raw?name=a.vhdx", None),
        ("nbd://host/a.vmdk", None),
        ("nbd+unix:///a.vmdk?socket=/run/a.vmdk", None),
        ("/dev/sda", None),
        ("/b/a.vmdk.d/disk", None),
        ("/b/.vmdk", None),
        ("/b/a-FLAT.VMDK", None),
        ("/b/a.vmx", "VMware machine"),
    ],
)
def test_what_a_name_promises(path: str, format_: str | None) -> None:
    assert promised(path) == format_


@pytest.mark.parametrize("suffix", [*PROMISED, *UNREAD])
def test_every_name(suffix: str) -> None:
    with pytest.raises((Corrupt, Unsupported)):
        check_name(Memory(b"no signature"), f"disk{suffix}")
    check_name(Memory(b""), f"disk{suffix}")


@pytest.mark.parametrize("content", [b"", b"\0", b"x"])
def test_files_of_few_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.vmdk").write_bytes(content)
    error = refused(tmp_path / "a.vmdk")
    assert error.reason == ("signature-missing" if content else "empty")
