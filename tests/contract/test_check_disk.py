"""Chains, reading everything, formats with checksums, and the command line of ``mntapi check``."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import struct
import subprocess
import tarfile
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from contract.check_support import KIB, MIB, check, patch, texts, verdict
from contract.test_check_clean import qemu_io
from contract.vhd_builder import write_sparse
from contract.vhd_support import SHARED, needs_qemu, qemu_img, sample
from contract.vhdx_builder import Disk
from contract.vmdk_builder import write_descriptor
from mntapi.blocks import Fault as Unreadable
from mntapi.cli.check import command
from mntapi.errors import Invalid, MntapiError, NotFound
from mntapi.images import formats
from mntapi.images.checking import Severity, check_disk, disk
from mntapi.images.formats import Format
from mntapi.images.opener import DirectOpener
from mntapi.session.checks import check_set
from mntapi.session.sets import open_spec
from mntapi.types import DiskSpec, FileBlocks, OpenOptions


def chain(folder: Path) -> tuple[Path, Path, Path]:
    """Three VMDKs, each on the next."""
    paths = [folder / f"{name}.vmdk" for name in ("top", "middle", "base")]
    parent = "ffffffff"
    for number, path in reversed(list(enumerate(paths))):
        (folder / f"{path.stem}-flat.vmdk").write_bytes(bytes(4 * KIB))
        more = [f'parentFileNameHint="{paths[number + 1].name}"'] if number < 2 else []
        cid = f"0000000{number + 1}"
        write_descriptor(path, [f'RW 8 FLAT "{path.stem}-flat.vmdk" 0'], cid=cid, parent_cid=parent, more=more)
        parent = cid
    return paths[0], paths[1], paths[2]


def test_a_parent_that_was_changed(tmp_path: Path) -> None:
    """Every wrong link is told, not only the first, and every file is checked all the same."""
    top, middle, base = chain(tmp_path)
    assert texts(top) == []
    base.write_text(base.read_text().replace("CID=00000003", "CID=00000009", 1))
    middle.write_text(middle.read_text().replace("CID=00000002", "CID=00000008", 1))
    (tmp_path / "base-flat.vmdk").write_bytes(bytes(KIB))
    found = texts(top)
    assert f"{top}: its parent {middle} is not the disk it was made from: expected 00000002, found 00000008" in found
    assert f"{middle}: its parent {base} is not the disk it was made from: expected 00000003, found 00000009" in found
    assert any("the extent is cut off" in text for text in found)
    assert any(text.startswith(f"{top}: note: its parent") for text in texts(top, ignore_cid=True))


def test_a_parent_known_by_its_second_name(tmp_path: Path) -> None:
    base = Disk(2 * MIB)
    base.write(tmp_path / "base.vhdx")
    keys = {
        "parent_linkage": f"{{{uuid.UUID(int=1)}}}",
        "parent_linkage2": f"{{{base.data_write}}}",
        "relative_path": ".\\base.vhdx",
    }
    Disk(2 * MIB, parent=keys).write(tmp_path / "child.vhdx")
    assert texts(tmp_path / "child.vhdx") == []


def test_a_missing_parent(tmp_path: Path) -> None:
    top, middle, base = chain(tmp_path)
    base.unlink()
    (fault,) = check(top)
    assert fault.path == str(middle) and "its parent 'base.vmdk' is missing" in fault.what


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        check(tmp_path / "gone.vmdk")


def test_a_format_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    with pytest.raises(Invalid, match="no disk format is called 'floppy'"):
        list(check_disk(DiskSpec(str(tmp_path / "disk"), format="floppy"), DirectOpener()))


@pytest.mark.parametrize("name", ["disk.qcow2", "disk.VHDX", "disk.vmdk"])
def test_a_lost_signature(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * 4096)
    assert "has the name of a" in texts(path)[0]
    assert list(check_disk(DiskSpec(str(path), format="raw"), DirectOpener())) == []


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    assert texts(tmp_path / "disk") == [f"{tmp_path}/disk: is empty: 0 bytes (at byte 0)"]


class Damaged(DirectOpener):
    """Files with unreadable places."""

    bad: tuple[tuple[int, int], ...] = ()

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:  # type: ignore[override]
        file = super().open(name, relative_to=relative_to)
        damaged = Unreadable(file, bad=self.bad)
        damaged.path = file.path  # type: ignore[attr-defined]
        return damaged  # type: ignore[return-value]


def test_reading_everything(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (3 * MIB + 4096))
    opener = Damaged()
    opener.bad = ((MIB + 70 * KIB, 10), (3 * MIB, 1))
    assert list(check_disk(DiskSpec(str(path)), opener)) == []
    done: list[tuple[int, int]] = []
    found = list(check_disk(DiskSpec(str(path)), opener, data=True, progress=lambda *at: done.append(at)))
    assert [fault.offset for fault in found] == [MIB + 70 * KIB, 3 * MIB]
    assert done[-1] == (3 * MIB + 4096, 3 * MIB + 4096) and len(done) == 4


@needs_qemu
def test_reading_on_behind_what_cannot_be_found(tmp_path: Path) -> None:
    path = tmp_path / "disk.vdi"
    qemu_img("create", "-q", "-f", "vdi", path, "16M")
    qemu_io(path, "write -P 1 0 3M")
    patch(path, (512 + 4, struct.pack("<I", 50)))
    found = check(path, data=True)
    assert {fault.offset for fault in found} >= {512 + 4} and verdict(found).errors


# Formats with checksums

EWF = Format("ewf", "mntapi.images.ewf", ((0, b"EVF\x09\x0d\x0a\xff\x00"),))


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = SHARED / "dfvfs" / "test_data" / "ext2.E01"
    if not source.exists():
        pytest.skip("../shared/images is not there")
    if "ewf" not in {row.name for row in formats.FORMATS}:
        monkeypatch.setattr(formats, "FORMATS", (EWF, *formats.FORMATS))
    path = tmp_path / "ext2.E01"
    path.write_bytes(source.read_bytes())
    assert texts(path) == []
    return path


def test_ewf_chunks(evidence: Path) -> None:
    content = evidence.read_bytes()
    at = content.index(b"sectors") + 76 + 100
    patch(evidence, (at, bytes([content[at] ^ 0xFF])))
    assert any("chunk" in text for text in texts(evidence))


def test_the_hash_of_an_ewf(evidence: Path) -> None:
    """The noted hash with a checksum that is right for it: only reading all tells that it is another disk's."""
    content = bytearray(evidence.read_bytes())
    at = content.rindex(b"hash\0") + 76
    content[at] ^= 0xFF
    content[at + 32 : at + 36] = zlib.adler32(bytes(content[at : at + 32])).to_bytes(4, "little")
    if (digest := content.rfind(b"digest\0")) >= 0:
        place = digest + 76
        content[place] ^= 0xFF
        content[place + 76 : place + 80] = zlib.adler32(bytes(content[place : place + 76])).to_bytes(4, "little")
    evidence.write_bytes(content)
    (text,) = texts(evidence)
    assert "the md5 of the disk is not the one noted" in text


@pytest.mark.parametrize(("name", "at"), [("simple-pattern.cloop", -900), ("simple-dmg.dmg", 60)])
def test_compressed_disks(tmp_path: Path, name: str, at: int) -> None:
    path = sample(name, tmp_path)
    content = bytearray(path.read_bytes())
    for place in range(at, at + 64):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert any("a chunk cannot be unpacked" in text or "does not unpack" in text for text in texts(path))


# The command


def run(*arguments: str | Path) -> int:
    with click.Context(command):
        result: int = command.main(args=[str(argument) for argument in arguments], prog_name="check", standalone_mode=False)
    return result


def test_a_clean_set(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    top, _, _ = chain(tmp_path)
    (tmp_path / "other").write_bytes(b"x")
    assert run(top, "-d", tmp_path / "other", "--data") == 0
    assert capfdbinary.readouterr().out.decode() == f"{top}: no faults\n{tmp_path}/other: no faults\n"


def test_a_set_with_a_fault(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    top, _, _ = chain(tmp_path)
    (tmp_path / "top-flat.vmdk").write_bytes(bytes(KIB))
    assert run(top) == 3
    captured = capfdbinary.readouterr()
    text = f"{tmp_path}/top-flat.vmdk: the extent is cut off: it ends at 4096, the file at 1024 (at byte 1024)"
    assert captured.out.decode() == text + "\n" and captured.err.decode() == "1 fault\n"
    assert run(top, "--json") == 3
    found = json.loads(capfdbinary.readouterr().out)
    assert found == {
        "faults": [
            {
                "path": f"{tmp_path}/top-flat.vmdk",
                "offset": 1024,
                "what": "the extent is cut off: it ends at 4096, the file at 1024",
                "severity": "error",
            }
        ],
        "errors": 1,
        "leaks": 0,
        "notes": 0,
    }


@needs_qemu
def test_a_leak_alone_is_fine(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "disk.parallels"
    qemu_img("create", "-q", "-f", "parallels", path, "4M")
    with path.open("ab") as file:
        file.write(bytes(MIB))
    assert subprocess.run(["qemu-img", "check", "-f", "parallels", path], capture_output=True).returncode == 3
    assert run(path) == 0
    out = capfdbinary.readouterr().out.decode()
    assert "leak: 1048576 bytes behind the last block" in out and f"{path}: no faults" in out


@needs_qemu
def test_an_ova_with_two_disks(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Each disk is checked inside the tar, with the extents that are in there."""
    (tmp_path / "raw").write_bytes(b"x" * MIB)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", tmp_path / "raw", tmp_path / "one.vmdk")
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", tmp_path / "two.vmdk", "64k")
    with (tmp_path / "two-flat.vmdk").open("r+b") as file:
        file.truncate(KIB)
    path = tmp_path / "web.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for name in ("one.vmdk", "two.vmdk", "two-flat.vmdk"):
            out.add(tmp_path / name, arcname=name)
    assert run(path) == 3
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == f"{path}:one.vmdk: no faults"
    assert lines[1] == f"{path}:two-flat.vmdk: the extent is cut off: it ends at 65536, the file at 1024 (at byte 1024)"
    at = path.read_bytes().index(zlib.compress(b"x" * 64 * KIB)[:20])
    patch(path, (at + 30, b"\xff\xff"))
    assert run(path) == 3
    assert "cannot be inflated" in capfdbinary.readouterr().out.decode()


OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:href="one.vmdk" ovf:id="f1"/><File ovf:href="two.vmdk" ovf:id="f2"/></References>
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1"/><Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="1"/>
</DiskSection><VirtualSystem ovf:id="web"><VirtualHardwareSection>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d1</rasd:HostResource>
<rasd:InstanceID>2</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d2</rasd:HostResource>
<rasd:InstanceID>3</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
"""


@needs_qemu
def test_the_disks_of_an_ova_have_the_order_in_which_they_are_opened(tmp_path: Path) -> None:
    """That of the controller's slots, whatever the order in the tar."""
    (tmp_path / "web.ovf").write_text(OVF)
    for number, name in enumerate(("one.vmdk", "two.vmdk"), 1):
        qemu_img("create", "-q", "-f", "vmdk", tmp_path / name, f"{number}M")
    path = tmp_path / "web.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for name in ("web.ovf", "one.vmdk", "two.vmdk"):
            out.add(tmp_path / name, arcname=name)
    images = list(open_spec(DiskSpec(str(path)), DirectOpener(), OpenOptions()))
    assert [image.blocks.size for image in images] == [2 * MIB, MIB]
    assert [one.path for one in check_set([DiskSpec(str(path))])] == [image.path for image in images]
    for image in images:
        image.blocks.close()


def test_a_machine_file(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    top, middle, base = chain(tmp_path)
    machine = tmp_path / "web.vmx"
    lines = ['.encoding = "UTF-8"', 'config.version = "8"', 'scsi0.present = "TRUE"', 'scsi0:0.present = "TRUE"']
    machine.write_text("\n".join([*lines, 'scsi0:0.fileName = "top.vmdk"', ""]))
    assert run(machine) == 0
    assert capfdbinary.readouterr().out.decode() == f"{top}: no faults\n"
    (tmp_path / "base-flat.vmdk").write_bytes(bytes(KIB))
    assert run(machine) == 3
    with pytest.raises(NotFound, match="has no snapshot 'before'"):
        run(machine, "--snapshot", "before")
    top.unlink()
    with pytest.raises(NotFound):
        run(machine)
    assert middle.exists() and base.exists()


def test_a_disk_on_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MntapiError):
        run(f"nbd+unix:///?socket={tmp_path}/gone")


def test_a_packed_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "disk.vhd.gz"
    write_sparse(tmp_path / "disk.vhd", 65536, {0: (set(range(128)), b"a" * 65536)}, unique_id=uuid.UUID(int=7))
    path.write_bytes(gzip.compress((tmp_path / "disk.vhd").read_bytes()))
    assert texts(path) == []
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    assert texts(path)


PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, lzma.compress, lambda raw: gzip.compress(lzma.compress(raw))]


@pytest.mark.parametrize("pack", PACKERS)
def test_the_disk_inside_a_packed_file_is_checked(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What qemu-img check finds in the file that was packed is found in the packed one, and named as being inside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = leaking(tmp_path / "disk.qcow2")
    path = tmp_path / "disk.qcow2.packed"
    path.write_bytes(pack(plain.read_bytes()))
    [alone] = check(plain)
    [inside] = check(path)
    assert (inside.offset, inside.what, inside.severity) == (alone.offset, alone.what, Severity.LEAK)
    assert inside.path.startswith(f"{path}:")


def test_the_disk_in_a_split_file_is_checked_and_its_parent_too(tmp_path: Path) -> None:
    base = leaking(tmp_path / "base.qcow2")
    top = leaking(tmp_path / "top.qcow2", "-b", "base.qcow2", "-F", "qcow2")
    raw = top.read_bytes()
    half = -(-len(raw) // 2)
    (tmp_path / "split.001").write_bytes(raw[:half])
    (tmp_path / "split.002").write_bytes(raw[half:])
    faults = list(check_disk(DiskSpec(str(tmp_path / "split.001"), format="split"), DirectOpener()))
    assert [fault.severity for fault in faults] == [Severity.LEAK] * 2
    assert faults[0].path.startswith(f"{tmp_path}/split.001:") and faults[1].path == str(base)


def test_a_packed_disk_that_cannot_be_opened_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "disk.qcow2.gz"
    path.write_bytes(gzip.compress(b"QFI\xfb" + bytes(1 << 16)))
    assert run(path) == 3
    deep = b"x" * 512
    for _ in range(4):
        deep = gzip.compress(deep)
    path.write_bytes(deep)
    assert any("inside one another" in fault.what for fault in check(path))


@pytest.mark.parametrize("pack", PACKERS[:2])
@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_packed_disk_without_its_end(
    pack: Callable[[bytes], bytes], cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of what is inside can be read and opened: all the same it is the packed file that has the fault."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "disk.qcow2.packed"
    path.write_bytes(pack(leaking(tmp_path / "disk.qcow2").read_bytes())[:-cut])
    assert run(path) == 3
    assert str(path) in {fault.path for fault in check(path)}


def test_an_ova_in_a_packed_file_is_only_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = leaking(tmp_path / "disk.qcow2")
    with tarfile.open(tmp_path / "web.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(plain, "disk.qcow2")
    path = tmp_path / "web.ova.gz"
    path.write_bytes(gzip.compress((tmp_path / "web.ova").read_bytes()))
    [fault] = check(path)
    assert fault.severity is Severity.NOTE and "unpack it" in fault.what


def leaking(path: Path, *options: str) -> Path:
    """A QCOW2 file with a cluster that is counted and used by nothing."""
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img (qemu-utils)")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    raw = bytearray(path.read_bytes())
    table = int.from_bytes(raw[48:56], "big")
    block = int.from_bytes(raw[table : table + 8], "big")
    raw.extend(bytes(-len(raw) % 65536 + 65536))
    counted = len(raw) // 65536 - 1
    raw[block + 2 * counted : block + 2 * counted + 2] = b"\0\1"
    path.write_bytes(raw)
    assert subprocess.run(["qemu-img", "check", path], capture_output=True, check=False).returncode == 3
    return path


def test_there_is_an_end_to_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MAX_FAULTS", 1)
    top, _, _ = chain(tmp_path)
    for name in ("top", "middle"):
        (tmp_path / f"{name}-flat.vmdk").write_bytes(bytes(KIB))
    assert [fault.what for fault in check(top)][1:] == ["there is more wrong than is told: the check ends here"]
