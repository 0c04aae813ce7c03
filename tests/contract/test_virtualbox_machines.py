"""A VirtualBox machine as its folder is: a first disk of any name, the snapshots' below ``Snapshots``, and the ``.vbox`` file.

The disks are qemu's, made children of each other as VirtualBox does it; what they hold is what was written with qemu-io.
"""

from __future__ import annotations

import tarfile
import uuid
from pathlib import Path

import pytest

from contract.test_small_formats import MIB, write_vdi_pair
from contract.vhd_support import needs_qemu
from mntapi.blocks import read
from mntapi.errors import Denied
from mntapi.images.checking import Severity
from mntapi.session.checks import check_set
from mntapi.session.diskset import open_disks
from mntapi.types import DiskSpec

VBOX = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux"><Machine name="web">
<MediaRegistry><HardDisks><HardDisk uuid="{{{base}}}" location="{place}" format="VDI" type="Normal">
<HardDisk uuid="{{{child}}}" location="Snapshots/{{{child}}}.vdi" format="VDI"/></HardDisk></HardDisks></MediaRegistry>
<Snapshot uuid="{{7d7d1a4e-6d2c-4c13-9d6a-6a4b9a1f5c11}}" name="before" timeStamp="2024-09-02T14:40:27Z">
<Hardware>{base_drive}</Hardware></Snapshot><Hardware>{child_drive}</Hardware></Machine></VirtualBox>"""
DRIVE = """<StorageControllers><StorageController name="SATA" type="AHCI"><AttachedDevice type="HardDisk" port="0" device="0">
<Image uuid="{{{}}}"/></AttachedDevice></StorageController></StorageControllers>"""


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, bytes]:
    """The ``.vbox`` file, and what the disk holds now."""
    folder = tmp_path / "web"
    (folder / "Snapshots").mkdir(parents=True)
    path, content = write_vdi_pair(folder / "Snapshots")
    base = next(path.parent.glob("{*.vdi"))
    child = uuid.UUID(bytes_le=path.read_bytes()[0x188:0x198])
    base.rename(folder / "first disk.vdi")
    path.rename(path.with_name(f"{{{child}}}.vdi"))
    text = VBOX.format(base=base.stem.strip("{}"), child=child, place="first disk.vdi",
                       base_drive=DRIVE.format(base.stem.strip("{}")), child_drive=DRIVE.format(child))  # fmt: skip
    (folder / "web.vbox").write_text(text)
    return folder / "web.vbox", content


@needs_qemu
def test_the_present_state(machine: tuple[Path, bytes]) -> None:
    path, content = machine
    with open_disks(str(path)) as disks:
        (image,) = disks.disks
        assert read(image.blocks, 0, len(content)) == content
        assert [Path(link.file).name for link in image.chain][1:] == ["first disk.vdi"]


@needs_qemu
def test_a_snapshot(machine: tuple[Path, bytes]) -> None:
    path, content = machine
    for snapshot in ("before", "7d7d1a4e-6d2c-4c13-9d6a-6a4b9a1f5c11"):
        with open_disks(DiskSpec(str(path), snapshot=snapshot)) as disks:
            (image,) = disks.disks
            assert len(image.chain) == 1
            assert read(image.blocks, 0, MIB) == content[:MIB] and read(image.blocks, MIB, MIB) != content[MIB : 2 * MIB]


@needs_qemu
def test_checking(machine: tuple[Path, bytes]) -> None:
    path, _ = machine
    (disk,) = check_set([DiskSpec(str(path))])
    assert [fault for fault in disk.faults if fault.severity is Severity.ERROR] == []
    assert Path(disk.path).parent.name == "Snapshots"


@needs_qemu
def test_a_place_outside_the_machines_folder_is_not_followed(machine: tuple[Path, bytes]) -> None:
    """What the file says is held to the same rule as what any other file says; a copy beside it is taken."""
    path, content = machine
    first = path.parent / "first disk.vdi"
    first.rename(path.parents[1] / "first.vdi")
    path.write_text(path.read_text().replace("first disk.vdi", "../first.vdi"))
    with pytest.raises(Denied, match="outside its own folder"), open_disks(str(path)):
        pytest.fail("opened")
    path.write_text(path.read_text().replace("../first.vdi", str(path.parents[1] / "first.vdi")))
    (path.parents[1] / "first.vdi").rename(path.parent / "first.vdi")
    with open_disks(str(path)) as disks:
        assert read(disks.disks[0].blocks, 0, len(content)) == content


def test_an_archive_without_a_disk_has_a_fault(tmp_path: Path) -> None:
    """Nobody should take it for one whose disks are all well."""
    path = tmp_path / "web.ova"
    (tmp_path / "notes.txt").write_text("nothing")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        out.add(tmp_path / "notes.txt", arcname="notes.txt")
    (disk,) = check_set([DiskSpec(str(path))])
    assert ["without a disk" in fault.what for fault in disk.faults] == [True]
