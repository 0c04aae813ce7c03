"""Disks that an OVF has cut into chunks. Oracle: split(1) cuts what qemu-img wrote, and the bytes are those of before."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path

import pytest

from contract.make_disk import need, run
from mntapi import open_disks, read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.session import chunked
from mntapi.session.checks import check_set
from mntapi.types import DiskSpec
from mntapi.units import KIB, MIB

CONTENT = random.Random(8).randbytes(MIB) + bytes(MIB) + random.Random(9).randbytes(MIB)
CHUNK = 300 * KIB
DESCRIPTOR = """<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:id="f" ovf:href="{name}" ovf:chunkSize="{chunk}"{more}/></References>
<DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="3145728"/></DiskSection></Envelope>"""


def cut(folder: Path, *, chunk: int = CHUNK, size: bool = True, name: str = "disk 1.vmdk") -> Path:
    """An OVF, its stream-optimized VMDK cut."""
    need("qemu-img", "split")
    (folder / "disk.raw").write_bytes(CONTENT)
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "disk.raw", "whole", cwd=folder)
    run("split", "-b", CHUNK, "-d", "-a", 9, "whole", f"{name}.", cwd=folder)
    more = f' ovf:size="{(folder / "whole").stat().st_size}"' if size else ""
    (folder / "whole").unlink()
    ovf = folder / "vm.ovf"
    ovf.write_text(DESCRIPTOR.format(name=name.replace(" ", "%20"), chunk=chunk, more=more))
    return ovf


def refused(ovf: Path, kind: type[MntapiError]) -> MntapiError:
    with pytest.raises(kind) as caught:
        open_disks(str(ovf))
    return caught.value


@pytest.mark.parametrize("size", [True, False])
def test_chunks_are_one_disk(size: bool, tmp_path: Path) -> None:
    with open_disks(str(cut(tmp_path, size=size))) as disk_set:
        [disk] = disk_set.disks
        assert (disk.format, disk.path) == ("vmdk", f"{tmp_path}/disk 1.vmdk")
        assert read(disk.blocks, 0, disk.blocks.size) == CONTENT


def test_they_are_checked(tmp_path: Path) -> None:
    ovf = cut(tmp_path)
    assert [list(disk.faults) for disk in check_set([DiskSpec(str(ovf))])] == [[]]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_chunk_that_is_missing(number: int, tmp_path: Path) -> None:
    ovf = cut(tmp_path)
    (tmp_path / f"disk 1.vmdk.{number:09}").unlink()
    assert f".{number:09}" in str(refused(ovf, NotFound))


def test_a_gap_is_not_the_end(tmp_path: Path) -> None:
    """Also where the size is not told."""
    ovf = cut(tmp_path, size=False)
    (tmp_path / "disk 1.vmdk.000000003").unlink()
    assert "000000003" in str(refused(ovf, NotFound))


@pytest.mark.parametrize(("number", "change"), [(1, -1), (1, 1), (-1, 1), (-1, -1)])
def test_a_chunk_of_another_size(number: int, change: int, tmp_path: Path) -> None:
    ovf = cut(tmp_path)
    path = sorted(tmp_path.glob("disk 1.vmdk.*"))[number]
    path.write_bytes((path.read_bytes() + b"x")[: path.stat().st_size + change])
    error = refused(ovf, Corrupt)
    assert (error.path, error.reason) == (str(path), "chunk-size")


def test_a_last_chunk_that_is_too_long(tmp_path: Path) -> None:
    ovf = cut(tmp_path, size=False)
    path = sorted(tmp_path.glob("disk 1.vmdk.*"))[-1]
    path.write_bytes(bytes(CHUNK + 1))
    assert refused(ovf, Corrupt).path == str(path)


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "MAX_CHUNKS", 3)
    for size in (True, False):
        assert "too many chunks" in refused(cut(tmp_path, size=size), Unsupported).what


def test_a_descriptor_that_names_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ovf = cut(tmp_path / "a")
    ovf.write_text(DESCRIPTOR.format(name="../secret", chunk=CHUNK, more=""))
    (tmp_path / "secret.000000000").write_bytes(b"s" * 600)
    refused(ovf, Denied)


def test_a_chunk_alone(tmp_path: Path) -> None:
    cut(tmp_path)
    error = refused(tmp_path / "disk 1.vmdk.000000000", Unsupported)
    assert error.reason == "chunks" and ".ovf" in str(error.hint)


def test_in_an_archive(tmp_path: Path) -> None:
    ovf = cut(tmp_path)
    with tarfile.open(tmp_path / "vm.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in (ovf, *sorted(tmp_path.glob("disk 1.vmdk.*"))):
            archive.add(path, path.name)
    error = refused(tmp_path / "vm.ova", Unsupported)
    assert error.reason == "chunks" and "tar" in str(error.hint)
