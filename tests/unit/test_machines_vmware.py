"""``.vmx``, ``.vmsd`` and ``.ovf``: disks in the order of their controllers, snapshots, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.images.opener import DirectOpener
from mntapi.machines import Machine, MachineDisk, is_machine, read_machine, read_snapshots, settings, vmsd
from mntapi.machines.ovf import parse_ovf

VMX = """#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "13"
displayName = "web |22prod|22"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:10.fileName = "data10.vmdk"
scsi0:10.present = "TRUE"
scsi0:2.fileName = "web-000002.vmdk"
scsi0:2.present = "TRUE"
scsi0:2.deviceType = "scsi-hardDisk"
scsi1.present = "TRUE"
scsi1:0.fileName = "/vmfs/volumes/5f0c/web/log.vmdk"
scsi1:0.deviceType = "disk"
nvme0:0.fileName = "fast.vmdk"
nvme0:0.present = "TRUE"
sata0:1.fileName = "sata.vmdk"
sata0:0.deviceType = "cdrom-image"
sata0:0.fileName = "tools.iso"
sata0:0.present = "TRUE"
IDE0:0.fileName = "boot.vmdk"
ide0:0.present = "TRUE"
ide1:0.deviceType = "cdrom-raw"
ide1:0.fileName = "auto detect"
scsi2.present = "FALSE"
scsi2:0.fileName = "old.vmdk"
scsi0:3.present = "FALSE"
scsi0:3.fileName = "gone.vmdk"
scsi0:4.deviceType = "disk"
scsi0:4.present = "TRUE"
floppy0.fileName = "floppy.flp"
"""
PLAIN = 'config.version = "8"\n'


def machine_of(folder: Path, content: str | bytes, name: str = "web.vmx", *, snapshots: bool = False) -> Machine:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    file = HostFile.open(str(path))
    try:
        return read_machine(file, DirectOpener() if snapshots else None)
    finally:
        file.close()


def test_disks_in_the_order_of_their_controllers(tmp_path: Path) -> None:
    machine = machine_of(tmp_path, VMX)
    assert machine.kind == "vmx" and machine.name == 'web "prod"'
    assert [(disk.controller, disk.path, disk.index) for disk in machine.disks] == [
        ("ide0:0", "boot.vmdk", 0),
        ("scsi0:2", "web-000002.vmdk", 1),
        ("scsi0:10", "data10.vmdk", 2),
        ("scsi1:0", "/vmfs/volumes/5f0c/web/log.vmdk", 3),
        ("sata0:1", "sata.vmdk", 4),
        ("nvme0:0", "fast.vmdk", 5),
    ]
    assert machine.left_out == (
        "ide1:0: cdrom-raw (auto detect)",
        "scsi0:3: not present (gone.vmdk)",
        "scsi0:4: no file",
        "scsi2:0: not present (old.vmdk)",
        "sata0:0: cdrom-image (tools.iso)",
    )
    assert machine.snapshots == ()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("disk.vmdk", ("disk.vmdk",)),
        ("../base/disk.vmdk", ("../base/disk.vmdk",)),
        ("/vmfs/volumes/a b/disk.vmdk", ("/vmfs/volumes/a b/disk.vmdk", "disk.vmdk")),
        ("C:\\VMs\\web\\disk.vmdk", ("disk.vmdk",)),
        ("\\\\server\\share\\disk.vmdk", ("disk.vmdk",)),
        ("sub\\disk.vmdk", ("sub/disk.vmdk",)),
    ],
)
def test_where_a_disk_is_looked_for(path: str, names: tuple[str, ...]) -> None:
    assert MachineDisk(path, "scsi0:0", 0).names == names


@pytest.mark.parametrize(
    ("encoding", "codec"), [("UTF-8", "utf-8"), ("windows-1252", "cp1252"), ("GBK", "gbk"), ("Shift_JIS", "shift_jis")]
)
def test_encodings(encoding: str, codec: str, tmp_path: Path) -> None:
    name = "Größe.vmdk" if codec in ("utf-8", "cp1252") else "磁.vmdk"
    text = f'.encoding = "{encoding}"\n{PLAIN}scsi0:0.fileName = "{name}"\n'
    assert machine_of(tmp_path, text.encode(codec)).disks[0].path == name


def test_bytes_that_the_encoding_does_not_have(tmp_path: Path) -> None:
    raw = PLAIN.encode() + b'scsi0:0.fileName = "a\xff.vmdk"\n'
    assert machine_of(tmp_path, raw).disks[0].path.encode("utf-8", "surrogateescape") == b"a\xff.vmdk"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ('.encoding = "rot13"\nconfig.version = "8"\nx = "\xff"\n', Unsupported, "encoding"),
        ('.encoding = "utf-8-sig"\nconfig.version = "8"\nx = "\xff"\n', Unsupported, "encoding"),
        (PLAIN + 'encryption.keySafe = "vmware:key/list/..."\n', Unsupported, "encrypted"),
        (PLAIN + 'scsi0:0.fileName = "a.vmdk"\nscsi0:0.redo = "./a.vmdk.REDO_x"\n', Unsupported, "redo-log"),
        ('hello = "world"\n', Corrupt, "machine"),
        ("config.version\n" + "\n" * 70000, Corrupt, "machine"),
    ],
)
def test_what_is_no_vmx(text: str, kind: type[MntapiError], reason: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as caught:
        machine_of(tmp_path, text.encode("latin-1"))
    assert caught.value.reason == reason and caught.value.path == str(tmp_path / "web.vmx")


def test_too_large_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MAX_TEXT", 100)
    with pytest.raises(Corrupt, match="no machine file"):
        machine_of(tmp_path, VMX)
    with pytest.raises(Unsupported, match="unknown"):
        machine_of(tmp_path, "")


# --- snapshots ---

VMSD = """.encoding = "UTF-8"
snapshot.lastUID = "7"
snapshot.current = "7"
snapshot0.uid = "3"
snapshot0.filename = "web-Snapshot3.vmsn"
snapshot0.displayName = "before |22upgrade|22"
snapshot0.description = "first"
snapshot0.createTimeHigh = "370205"
snapshot0.createTimeLow = "-1423523712"
snapshot0.numDisks = "2"
snapshot0.disk0.fileName = "web.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot0.disk1.fileName = "/vmfs/volumes/x/data.vmdk"
snapshot0.disk1.node = "scsi0:1"
snapshot1.uid = "7"
snapshot1.parent = "3"
snapshot1.displayName = "after"
snapshot1.createTimeHigh = "x"
snapshot1.numDisks = "1"
snapshot1.disk0.fileName = "web-000001.vmdk"
snapshot1.disk0.node = "scsi0:0"
snapshot.numSnapshots = "2"
"""


def test_snapshots_beside_the_machine(tmp_path: Path) -> None:
    (tmp_path / "web.vmsd").write_text(VMSD)
    first, second = machine_of(tmp_path, VMX, snapshots=True).snapshots
    assert (first.uid, first.name, first.parent, first.description) == (3, 'before "upgrade"', None, "first")
    assert [(disk.path, disk.controller) for disk in first.disks] == [
        ("web.vmdk", "scsi0:0"),
        ("/vmfs/volumes/x/data.vmdk", "scsi0:1"),
    ]
    assert (second.uid, second.parent, second.is_current, second.created_ns) == (7, 3, True, None)
    assert not first.is_current
    assert first.created_ns is not None and first.created_ns == ((370205 << 32) + 2871443584) * 1000


def test_no_snapshots(tmp_path: Path) -> None:
    assert machine_of(tmp_path, VMX, snapshots=True).snapshots == ()
    (tmp_path / "web.vmsd").write_bytes(b"")
    assert machine_of(tmp_path, VMX, snapshots=True).snapshots == ()


def test_a_list_of_snapshots_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "vm" / "web.vmsd").symlink_to(tmp_path / "secret")
    with pytest.raises(Denied):
        machine_of(tmp_path / "vm", VMX, snapshots=True)


@pytest.mark.parametrize(
    "text",
    [
        'snapshot.numSnapshots = "2"\nsnapshot0.uid = "1"\n',
        'snapshot.numSnapshots = "2"\nsnapshot0.uid = "1"\nsnapshot1.uid = "1"\n',
        'snapshot.numSnapshots = "999999999"\n',
        'snapshot.numSnapshots = "-1"\n',
        'snapshot.numSnapshots = "1"\nsnapshot0.uid = "1"\nsnapshot0.numDisks = "1"\n',
        'snapshot.numSnapshots = "1"\nsnapshot0.uid = "1"\nsnapshot0.numDisks = "1000000"\n',
    ],
)
def test_damaged_lists_of_snapshots(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.vmsd").write_text(text)
    file = HostFile.open(str(tmp_path / "x.vmsd"))
    with pytest.raises(Corrupt) as caught:
        read_snapshots(file)
    assert caught.value.reason == "machine"
    file.close()
    assert vmsd.MAX_SNAPSHOTS > 496


# --- OVF ---

NAMESPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
)


def item(kind: int, number: int, **more: object) -> str:
    fields = {"InstanceID": number, "ResourceType": kind, **more}
    return "<Item>" + "".join(f"<rasd:{key}>{value}</rasd:{key}>" for key, value in fields.items()) + "</Item>"


def ovf(*, files: str = "", disks: str = "", items: str = "", systems: int = 1) -> str:
    system = (
        f'<VirtualSystem ovf:id="vm"><Name>web01</Name><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem>'
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Envelope {NAMESPACES}><References>{files}</References>'
        f"<DiskSection><Info>x</Info>{disks}</DiskSection>{system * systems}</Envelope>"
    )


FILES = "".join(f'<File ovf:id="file{n}" ovf:href="disk%20{n}.vmdk" ovf:size="1"/>' for n in range(1, 4))
DISKS = "".join(f'<Disk ovf:diskId="vmdisk{n}" ovf:fileRef="file{n}" ovf:capacity="1"/>' for n in range(1, 4))
CONTROLLERS = item(6, 3, Address=0, ResourceSubType="VirtualSCSI") + item(5, 4, Address=1) + item(
    20, 5, Address=0, ResourceSubType="vmware.sata.ahci"
)  # fmt: skip


def drive(number: int, disk: int, parent: int, unit: int) -> str:
    return item(17, number, HostResource=f"ovf:/disk/vmdisk{disk}", Parent=parent, AddressOnParent=unit)


def test_ovf_in_the_order_of_the_controllers(tmp_path: Path) -> None:
    items = (
        CONTROLLERS + drive(9, 1, 5, 0) + drive(10, 2, 3, 1) + drive(11, 3, 4, 0) + item(15, 12, HostResource="ovf:/file/iso")
    )
    machine = machine_of(tmp_path, ovf(files=FILES, disks=DISKS, items=items), "web.ovf")
    assert machine.kind == "ovf" and machine.name == "web01"
    assert [(disk.controller, disk.path) for disk in machine.disks] == [
        ("ide1:0", "disk 3.vmdk"),
        ("scsi0:1", "disk 2.vmdk"),
        ("sata0:0", "disk 1.vmdk"),
    ]


def test_ovf_without_addresses_is_in_its_own_order() -> None:
    items = "".join(item(17, n, HostResource=f"/disk/vmdisk{n}", ElementName=f"Hard disk {n}") for n in (3, 1))
    machine = parse_ovf(ovf(files=FILES, disks=DISKS, items=items).encode(), "x")
    assert [(disk.controller, disk.path) for disk in machine.disks] == [
        ("Hard disk 3", "disk 3.vmdk"),
        ("Hard disk 1", "disk 1.vmdk"),
    ]
    assert machine.left_out == ("vmdisk2: not attached",)


def test_ovf_without_hardware() -> None:
    for systems in (0, 1):
        machine = parse_ovf(ovf(files=FILES, disks=DISKS, systems=systems).encode(), "x")
        assert [disk.path for disk in machine.disks] == ["disk 1.vmdk", "disk 2.vmdk", "disk 3.vmdk"]


def test_ovf_nvme_and_a_disk_that_is_empty_or_a_plain_file() -> None:
    items = item(20, 5, Address=2, ResourceSubType="vmware.nvme.controller") + drive(6, 9, 5, 0) + item(
        17, 7, HostResource="ovf:/file/file1", Parent=5, AddressOnParent=1
    ) + item(17, 8, Parent=5, AddressOnParent=2)  # fmt: skip
    machine = parse_ovf(ovf(files=FILES, disks='<Disk ovf:diskId="vmdisk9" ovf:capacity="9"/>', items=items).encode(), "x")
    assert [(disk.controller, disk.path) for disk in machine.disks] == [("nvme2:1", "disk 1.vmdk")]
    assert machine.left_out == ("nvme2:0: no file", "nvme2:2: no file")


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (ovf(systems=2), Unsupported, "several-machines"),
        (ovf(items=drive(1, 1, 3, 0)), Corrupt, "machine"),
        (ovf(disks=DISKS, items=drive(1, 1, 3, 0)), Corrupt, "machine"),
        (ovf(items=item(17, 1, HostResource="http://x/y")), Unsupported, "backing"),
        (ovf(files='<File id="file1" href="https://x/y.vmdk"/>', disks=DISKS, items=drive(1, 1, 3, 0)), Unsupported, "remote"),
        (
            ovf(files='<File id="file1" href="y" chunkSize="9" compression="gzip"/>', disks=DISKS, items=drive(1, 1, 3, 0)),
            Unsupported,
            "chunks",
        ),
        (ovf(files='<File id="file1" href="y" chunkSize="-9"/>', disks=DISKS, items=drive(1, 1, 3, 0)), Corrupt, "machine"),
        (
            ovf(files='<File id="file1" href="y" chunkSize="9" size="x"/>', disks=DISKS, items=drive(1, 1, 3, 0)),
            Corrupt,
            "machine",
        ),
        ("<Other/>", Corrupt, "machine"),
        ("<Envelope>", Corrupt, "xml"),
        ("", Corrupt, "xml"),
    ],
)
def test_what_is_refused_of_an_ovf(text: str, kind: type[MntapiError], reason: str) -> None:
    with pytest.raises(kind) as caught:
        parse_ovf(text.encode(), "x.ovf")
    assert caught.value.reason == reason and caught.value.path == "x.ovf"


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (VMX.encode(), "anything", True),
        (b'config.version = "8"', "x", True),
        (ovf().encode(), "anything", True),
        (ovf().encode("utf-16"), "anything", True),
        (b"", "x.vmx", False),
        (b"text", "x.vmx", True),
        (b"text", "x.txt", False),
        (b"KDMV" + bytes(500), "x.vmdk", False),
        (b"KDMV" + bytes(500), "x.vmx", False),
        (b"# Disk DescriptorFile\nversion=1\n", "x.vmdk", False),
        (b"<html>", "x", False),
        (b"\0" * 100, "x.vmcx", True),
        (b"<VirtualBox>", "x.vbox", True),
    ],
)
def test_is_machine(head: bytes, name: str, expected: bool) -> None:
    assert is_machine(head, name) is expected


@pytest.mark.parametrize(("name", "kind"), [("x.vmcx", "Hyper-V"), ("x.vmsd", "snapshots")])
def test_kinds_that_are_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=kind) as caught:
        machine_of(tmp_path, b"\x01\0\0\0" * 20, name)
    assert caught.value.reason == "machine-kind" and caught.value.hint
