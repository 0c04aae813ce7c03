"""Windows on disks: NTFS made by ntfs-3g and FAT32 by mtools, with partition tables by sfdisk that fit the hives' letters.

SYSTEM is that of a real Windows 10 where a sample is there; what the sample has in MountedDevices is in the samples' manifest.
"""

import lzma
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mntapi
from contract.hive_builder import build_hive
from contract.mounting import need, need_root, run
from contract.windows_builder import SHUTDOWN_NS, guid_device, mbr_device, sam_tree, software_tree, system_tree
from contract.windows_disks import C_DRIVE, DATA, TWO_PARTITIONS, disk, inspected_disk, ntfs, system_files
from mntapi.guests.types import MountKind
from mntapi.units import MIB

SAMPLES = Path(__file__).parents[3] / "shared/images/regipy/regipy_tests/data"
GOLDEN = Path(__file__).parents[1] / "golden/guests-windows/virt-inspector.xml"


def sample(name):
    if not SAMPLES.is_dir():
        pytest.skip("the sample hives are not here")
    return lzma.decompress((SAMPLES / f"{name}.xz").read_bytes())


def letters(guest):
    return {mount.path: mount.volume for mount in guest.mounts}


@pytest.fixture(scope="module")
def needs():
    need_root()
    need("mkntfs", "ntfs-3g", "sfdisk", "dd")


@pytest.mark.root
@pytest.mark.usefixtures("needs")
def test_a_real_system_on_an_mbr_disk(tmp_path):
    volume = ntfs(tmp_path / "c", {**system_files(sample("SYSTEM_2")), "hiberfil.sys": b"HIBR" + bytes(4092)})
    script = "label: dos\nlabel-id: 0x273e4cfe\nstart=1MiB, size=350MiB, type=7\nstart=351MiB, size=64MiB, type=7\n"
    with mntapi.open_disks(str(disk(tmp_path / "disk", script, [(volume, 351 * MIB)]))) as disk_set:
        (guest,) = disk_set.guests
        assert guest.volume == "mbr:273e4cfe-02"
        assert letters(guest) == {"C:\\": "mbr:273e4cfe-02", "D:\\": None}
        assert guest.mounts[0].reason is None
        assert guest.mounts[1].kind is MountKind.MISSING
        assert (guest.os_folder, guest.product, guest.architecture) == ("C:\\Windows", "Windows 10 Pro", "x86_64")
        assert guest.details["hibernated"].startswith("yes")
        assert [user.name for user in guest.users] == ["Administrator", "ann", "bob.EXAMPLE"]
        assert any("no transaction log tells the rest" in reason for reason in guest.reasons)
        services = {application.name for application in guest.applications() if application.kind == "service"}
        assert {"Spooler", "EventLog"} <= services


@pytest.mark.root
@pytest.mark.usefixtures("needs")
def test_two_disks_with_a_volume_in_a_folder(tmp_path):
    devices = {"C": guid_device(C_DRIVE), "E": mbr_device(0xCAFE0001, 2 * MIB)}
    links = [("Data", f"\\??\\Volume{{{DATA}}}\\"), ("Mounts", "\\??\\Volume{cafe0001-0000-0000-0000-200000000000}\\")]
    first = ntfs(tmp_path / "c", system_files(system_tree(devices)), links=links)
    second = ntfs(tmp_path / "data", {"budget.csv": b"1"}, size=8)
    one = disk(tmp_path / "one", TWO_PARTITIONS, [(first, MIB), (second, 65 * MIB)])
    two = disk(tmp_path / "two", "label: dos\nlabel-id: 0xcafe0001\nstart=2MiB, size=8MiB, type=7\n", [(second, 2 * MIB)])
    for order in ((one, two), (two, one)):
        with mntapi.open_disks(*map(str, order)) as disk_set:
            (guest,) = disk_set.guests
            assert letters(guest) == {
                "C:\\": f"gpt:{C_DRIVE}",
                "C:\\Data": f"gpt:{DATA}",
                "C:\\Mounts": "mbr:cafe0001-01",
                "E:\\": "mbr:cafe0001-01",
            }
            assert (guest.last_shutdown_ns, guest.reasons) == (SHUTDOWN_NS, ())
    with mntapi.open_disks(str(one)) as disk_set:
        (guest,) = disk_set.guests
        assert letters(guest)["C:\\Mounts"] is letters(guest)["E:\\"] is None


@pytest.mark.root
@pytest.mark.usefixtures("needs")
def test_the_same_as_virt_inspector_says(tmp_path):
    """``virt-inspector --format=raw -a disk`` of libguestfs, asked by scripts/images/guests-windows.py."""
    told = ElementTree.parse(GOLDEN).find("operatingsystem")
    partitions = {"/dev/sda1": f"gpt:{C_DRIVE}", "/dev/sda2": f"gpt:{DATA}"}
    with mntapi.open_disks(str(inspected_disk(tmp_path))) as disk_set:
        (guest,) = disk_set.guests
        facts = (guest.product, str(guest.major), str(guest.minor), guest.architecture, guest.hostname)
        assert facts == tuple(
            told.findtext(name) for name in ("product_name", "major_version", "minor_version", "arch", "hostname")
        )
        assert guest.volume == partitions[told.findtext("root")]
        assert guest.os_folder[2:] == told.findtext("windows_systemroot").replace("/", "\\")
        assert guest.details["control-set"] == told.findtext("windows_current_control_set")
        assert guest.details["installation-type"] == told.findtext("product_variant")
        mappings = told.iterfind("drive_mappings/drive_mapping")
        assert letters(guest) == {f"{one.get('name')}:\\": partitions[one.text] for one in mappings}
        programs = [one for one in guest.applications() if one.kind == "application"]
        assert [(one.name, one.version, one.publisher) for one in programs] == [
            (one.findtext("display_name"), one.findtext("version"), one.findtext("publisher"))
            for one in told.iterfind("applications/application")
        ]


def test_windows_on_fat32(tmp_path):
    need("mkfs.vfat", "mmd", "mcopy", "sfdisk", "dd")
    volume = tmp_path / "c"
    with volume.open("wb") as out:
        out.truncate(64 * MIB)
    run("mkfs.vfat", "-F", "32", volume)
    for folder in ("WINNT", "WINNT/system32", "WINNT/system32/config"):
        run("mmd", "-i", volume, f"::{folder}")
    version = {
        "ProductName": "Microsoft Windows 2000",
        "CurrentVersion": "5.0",
        "CurrentBuildNumber": "2195",
        "SystemRoot": "C:\\WINNT",
    }
    software = build_hive(software_tree(version), lists=b"lf", minor=3)
    system = build_hive(system_tree({"C": mbr_device(0xCAFE0002, 2 * MIB)}), lists=b"lf", minor=3)
    for name, raw in {"software": software, "system": system, "SAM": build_hive(sam_tree(), lists=b"lf", minor=3)}.items():
        (tmp_path / name).write_bytes(raw)
        run("mcopy", "-i", volume, tmp_path / name, f"::WINNT/system32/config/{name}")
    table = "label: dos\nlabel-id: 0xcafe0002\nstart=2MiB, size=64MiB, type=c\n"
    with mntapi.open_disks(str(disk(tmp_path / "disk", table, [(volume, 2 * MIB)]))) as disk_set:
        (guest,) = disk_set.guests
        assert (guest.os_folder, guest.product, guest.edition) == ("C:\\WINNT", "Microsoft Windows 2000", "Professional")
        assert (guest.major, guest.minor, guest.build, guest.hostname) == (5, 0, "2195", "anns-pc")
        assert letters(guest) == {"C:\\": "mbr:cafe0002-01"}
        assert guest.mounts[0].reason is None
