"""What a SET may be: disks of any format by content, machine files, archives. Oracle: the raw bytes qemu-img converts back."""

from __future__ import annotations

import gzip
import random
import shutil
import tarfile
from pathlib import Path

import pytest

from contract.make_disk import create_encrypted, need, run
from mntapi import DiskSpec, OpenOptions, open_disks, read
from mntapi.errors import Corrupt, Denied, NotFound, Unsupported
from mntapi.session.overruled import overruled
from mntapi.units import MIB

CONTENT = random.Random(3).randbytes(MIB) + bytes(MIB) + random.Random(4).randbytes(MIB)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(CONTENT)
    return path


def contents(*paths: object, options: OpenOptions | None = None) -> list[tuple[str, bytes]]:
    """Format and bytes of each disk of a set."""
    specs = [path if isinstance(path, DiskSpec) else str(path) for path in paths]
    with open_disks(*specs, options=options) as disk_set:
        return [(disk.format, read(disk.blocks, 0, len(CONTENT))) for disk in disk_set.disks]


@pytest.mark.parametrize("name", ["vmdk", "qcow2", "vhdx", "vpc", "vdi", "qed", "parallels", "raw"])
def test_every_format_is_known_by_content(raw: Path, tmp_path: Path, name: str) -> None:
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", name, raw, tmp_path / "disk.bin")
    [(found, content)] = contents(tmp_path / "disk.bin")
    assert found == {"vpc": "vhd"}.get(name, name) and content == CONTENT


def test_a_compressed_disk_of_another_format(raw: Path, tmp_path: Path) -> None:
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, tmp_path / "disk.qcow2")
    (tmp_path / "disk.qcow2.gz").write_bytes(gzip.compress((tmp_path / "disk.qcow2").read_bytes()))
    assert contents(tmp_path / "disk.qcow2.gz") == [("gzip", CONTENT)]


def test_pieces_of_a_raw_disk(raw: Path, tmp_path: Path) -> None:
    for number, start in enumerate(range(0, len(CONTENT), MIB), 1):
        (tmp_path / f"image.{number:03}").write_bytes(CONTENT[start : start + MIB])
    assert contents(tmp_path / "image.001") == [("split", CONTENT)]
    with pytest.raises(Unsupported):
        contents(tmp_path / "image.002")


@pytest.fixture
def vmx(raw: Path, tmp_path: Path) -> Path:
    """A machine of two disks, the first with a snapshot."""
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, tmp_path / "a.vmdk")
    run("qemu-img", "create", "-f", "vmdk", "-b", "a.vmdk", "-F", "vmdk", "a-000001.vmdk", cwd=tmp_path)
    run("qemu-io", "-f", "vmdk", "-c", "write -P 7 0 64k", tmp_path / "a-000001.vmdk")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, tmp_path / "b.vmdk")
    (tmp_path / "web01.vmx").write_text(
        '.encoding = "UTF-8"\nconfig.version = "8"\ndisplayName = "web01"\nscsi0.present = "TRUE"\n'
        'scsi0:1.present = "TRUE"\nscsi0:1.fileName = "b.vmdk"\n'
        'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "/vmfs/volumes/ds1/web01/a-000001.vmdk"\n'
        'ide1:0.present = "TRUE"\nide1:0.deviceType = "cdrom-image"\nide1:0.fileName = "tools.iso"\n'
    )
    (tmp_path / "web01.vmsd").write_text(
        '.encoding = "UTF-8"\nsnapshot.numSnapshots = "1"\nsnapshot.current = "1"\nsnapshot0.uid = "1"\n'
        'snapshot0.displayName = "before update"\nsnapshot0.numDisks = "1"\n'
        'snapshot0.disk0.fileName = "a.vmdk"\nsnapshot0.disk0.node = "scsi0:0"\n'
    )
    return tmp_path / "web01.vmx"


def test_a_machine_file_is_all_its_disks_in_controller_order(vmx: Path) -> None:
    first, second = contents(vmx)
    assert first == ("vmdk", b"\7" * 65536 + CONTENT[65536:]) and second == ("vmdk", CONTENT)


def test_a_snapshot_of_a_machine(vmx: Path) -> None:
    assert contents(DiskSpec(str(vmx), snapshot="before update")) == [("vmdk", CONTENT)]
    with pytest.raises(NotFound) as caught:
        contents(DiskSpec(str(vmx), snapshot="absent"))
    assert "before update" in (caught.value.hint or "")


def test_a_disk_of_a_machine_that_is_not_there(vmx: Path) -> None:
    (vmx.parent / "b.vmdk").unlink()
    with pytest.raises(NotFound) as caught:
        contents(vmx)
    assert "b.vmdk" in str(caught.value)


def test_a_machine_file_that_names_the_hosts_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.vmdk").write_bytes(CONTENT)
    text = '.encoding = "UTF-8"\nconfig.version = "8"\nscsi0:0.present = "TRUE"\nscsi0:0.fileName = "../secret.vmdk"\n'
    (tmp_path / "in/web01.vmx").write_text(text)
    with pytest.raises(Denied):
        contents(tmp_path / "in/web01.vmx")


@pytest.mark.parametrize("count", [1, 2])
def test_disks_in_an_ova(raw: Path, tmp_path: Path, count: int) -> None:
    need("qemu-img")
    with tarfile.open(tmp_path / "web01.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            disk = tmp_path / f"disk{number}.vmdk"
            run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, disk)
            archive.add(disk, disk.name)
    found = contents(tmp_path / "web01.ova")
    assert [content for _, content in found] == [CONTENT] * count


def test_internal_snapshots_of_qcow2(raw: Path, tmp_path: Path) -> None:
    need("qemu-img", "qemu-io")
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    run("qemu-img", "snapshot", "-c", "before", disk)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 64k", disk)
    assert contents(disk) == [("qcow2", b"\11" * 65536 + CONTENT[65536:])]
    assert contents(DiskSpec(str(disk), snapshot="before")) == [("qcow2", CONTENT)]
    with pytest.raises(NotFound):
        contents(DiskSpec(str(disk), snapshot="absent"))
    with pytest.raises(Unsupported):
        contents(DiskSpec(str(raw), snapshot="before"))


def test_a_parent_that_the_user_names(raw: Path, tmp_path: Path) -> None:
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, tmp_path / "a.vmdk")
    run("qemu-img", "create", "-f", "vmdk", "-b", "a.vmdk", "-F", "vmdk", "child.vmdk", cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "a.vmdk", tmp_path / "elsewhere/renamed.vmdk")
    with pytest.raises(NotFound):
        contents(tmp_path / "child.vmdk")
    options = OpenOptions(parent=str(tmp_path / "elsewhere/renamed.vmdk"))
    assert contents(tmp_path / "child.vmdk", options=options) == [("vmdk", CONTENT)]
    other = tmp_path / "other.vmdk"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, other)
    with pytest.raises(Corrupt) as caught:
        contents(tmp_path / "child.vmdk", options=OpenOptions(parent=str(other)))
    assert caught.value.reason == "cid-mismatch"


def test_an_encrypted_qcow2_with_its_passphrase(raw: Path, tmp_path: Path) -> None:
    need("qemu-img")
    disk = tmp_path / "disk.qcow2"
    secret = ["--object", "secret,id=s,data=pass word"]
    luks = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=300"]
    create_encrypted(*secret, "-f", "qcow2", *luks, disk, len(CONTENT))
    target = ["--target-image-opts", f"driver=qcow2,encrypt.key-secret=s,file.filename={disk}"]
    run("qemu-img", "convert", *secret, "-n", "-f", "raw", *target[:1], raw, target[1])
    assert contents(disk, options=OpenOptions(passphrases=("wrong", "pass word"))) == [("qcow2", CONTENT)]
    with pytest.raises(Unsupported):
        contents(disk)
    assert "pass word" not in repr(OpenOptions(passphrases=("pass word",)))


@pytest.fixture
def chain(raw: Path, tmp_path: Path) -> Path:
    """v2.vmdk on v1.vmdk, which has a block of its own, on v0.vmdk."""
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, tmp_path / "v0.vmdk")
    run("qemu-img", "create", "-f", "vmdk", "-b", "v0.vmdk", "-F", "vmdk", "v1.vmdk", cwd=tmp_path)
    run("qemu-io", "-f", "vmdk", "-c", "write -P 7 0 64k", tmp_path / "v1.vmdk")
    run("qemu-img", "create", "-f", "vmdk", "-b", "v1.vmdk", "-F", "vmdk", "v2.vmdk", cwd=tmp_path)
    return tmp_path / "v2.vmdk"


WITH_V1 = b"\7" * 65536 + CONTENT[65536:]
"""What v2 shows if no link is passed over."""


def set_cid(path: Path, cid: str) -> None:
    """What a change of a disk does to its descriptor; as many hexadecimal digits as before, whatever their number."""
    content = path.read_bytes()
    start = content.index(b"\nCID=") + 5
    end = content.index(b"\n", start)
    path.write_bytes(content[:start] + cid.rjust(end - start, "0")[-(end - start) :].encode() + content[end:])


@pytest.mark.parametrize("ignore_cid", [False, True])
def test_the_parent_of_a_middle_link(chain: Path, ignore_cid: bool) -> None:
    """The file is for the link that lacks its parent: v1 is not passed over."""
    chain.with_name("v0.vmdk").rename(chain.with_name("new.vmdk"))
    options = OpenOptions(parent=str(chain.with_name("new.vmdk")), ignore_cid=ignore_cid)
    assert contents(chain, options=options) == [("vmdk", WITH_V1)]
    [told] = overruled([DiskSpec(str(chain))], options)
    assert (
        "new.vmdk is taken for the parent of" in told and "v1.vmdk as --parent says" in told and "'v0.vmdk' is missing" in told
    )


@pytest.mark.parametrize("ignore_cid", [False, True])
def test_a_parent_for_one_that_was_changed(chain: Path, ignore_cid: bool) -> None:
    shutil.copy(chain.with_name("v0.vmdk"), chain.with_name("good.vmdk"))
    set_cid(chain.with_name("v0.vmdk"), "1")
    options = OpenOptions(parent=str(chain.with_name("good.vmdk")), ignore_cid=ignore_cid)
    assert contents(chain, options=options) == [("vmdk", WITH_V1)]


def test_a_parent_for_one_that_is_damaged(chain: Path) -> None:
    shutil.copy(chain.with_name("v1.vmdk"), chain.with_name("good.vmdk"))
    chain.with_name("v1.vmdk").write_bytes(bytes(4096))
    assert contents(chain, options=OpenOptions(parent=str(chain.with_name("good.vmdk")))) == [("vmdk", WITH_V1)]


def test_a_parent_that_the_chain_has_anyway(chain: Path) -> None:
    options = OpenOptions(parent=str(chain.with_name("v1.vmdk")))
    assert contents(chain, options=options) == [("vmdk", WITH_V1)]
    assert list(overruled([DiskSpec(str(chain))], options)) == []


def test_a_parent_in_place_of_one_that_is_there(chain: Path) -> None:
    """The identifiers keep a link from being passed over; who overrules them as well is told of both."""
    run("qemu-img", "convert", "-f", "vmdk", "-O", "vmdk", chain.with_name("v0.vmdk"), chain.with_name("copy.vmdk"))
    set_cid(chain.with_name("copy.vmdk"), "1")
    options = OpenOptions(parent=str(chain.with_name("copy.vmdk")))
    with pytest.raises(Corrupt) as caught:
        contents(chain, options=options)
    assert caught.value.reason == "cid-mismatch"
    options = OpenOptions(parent=str(chain.with_name("copy.vmdk")), ignore_cid=True)
    assert contents(chain, options=options) == [("vmdk", CONTENT)]
    other, ids = overruled([DiskSpec(str(chain))], options)
    assert "copy.vmdk is taken" in other and "instead of" in other and "v1.vmdk" in other
    assert "copy.vmdk is not the disk it was made from" in ids and "expected" in ids and "found 00000001" in ids


def test_a_parent_that_is_not_there(chain: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.vmdk"):
        contents(chain, options=OpenOptions(parent=str(chain.with_name("absent.vmdk"))))


def test_a_disk_that_is_damaged_itself(chain: Path) -> None:
    chain.write_bytes(bytes(4096))
    with pytest.raises(Corrupt, match=r"v2\.vmdk: has the name of a vmdk"):
        contents(chain, options=OpenOptions(parent=str(chain.with_name("v1.vmdk"))))


@pytest.mark.parametrize("backing_format", ["raw", "qcow2"])
def test_the_backing_file_of_a_middle_link(raw: Path, tmp_path: Path, backing_format: str) -> None:
    need("qemu-img")
    run("qemu-img", "convert", "-f", "raw", "-O", backing_format, raw, tmp_path / "q0")
    run("qemu-img", "create", "-f", "qcow2", "-b", "q0", "-F", backing_format, "q1", cwd=tmp_path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", tmp_path / "q1")
    run("qemu-img", "create", "-f", "qcow2", "-b", "q1", "-F", "qcow2", "q2", cwd=tmp_path)
    (tmp_path / "q0").rename(tmp_path / "elsewhere")
    assert contents(tmp_path / "q2", options=OpenOptions(parent=str(tmp_path / "elsewhere"))) == [("qcow2", WITH_V1)]


def test_identifiers_that_were_ignored_are_told(chain: Path) -> None:
    set_cid(chain.with_name("v0.vmdk"), "1")
    options = OpenOptions(ignore_cid=True)
    [told] = overruled([DiskSpec(str(chain))], options)
    assert "v1.vmdk: its parent" in told and "v0.vmdk" in told and "found 00000001" in told


def test_nothing_is_told_of_a_chain_without_fault(chain: Path) -> None:
    assert list(overruled([DiskSpec(str(chain))], OpenOptions(ignore_cid=True))) == []
