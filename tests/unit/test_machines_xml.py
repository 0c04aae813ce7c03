"""Libvirt domains, and XML that is out to harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.machines import read_machine, xml
from mntapi.machines.libvirt import parse_domain
from mntapi.machines.ovf import parse_ovf
from mntapi.machines.xml import parse_xml

DOMAIN = """<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web01</name>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/web01.snap1' index='2'/>
      <backingStore type='file'><format type='raw'/><source file='/var/lib/libvirt/images/base.img'/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block'><driver name='qemu' type='raw'/><source dev='/dev/vg/data'/><target dev='sda' bus='scsi'/></disk>
    <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>
    <disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sdb'/></disk>
    <disk type='file' device='floppy'><source file='f.img'/></disk>
  </devices>
</domain>
"""


@pytest.mark.parametrize("wrap", ["{}", "<domstatus state='running'>{}</domstatus>", "<?xml version='1.0'?><!-- virsh -->{}"])
def test_domain(wrap: str, tmp_path: Path) -> None:
    path = tmp_path / "web01.xml"
    path.write_text(wrap.format(DOMAIN))
    file = HostFile.open(str(path))
    machine = read_machine(file)
    file.close()
    assert machine.kind == "libvirt" and machine.name == "web01"
    assert [(disk.controller, disk.path, disk.format) for disk in machine.disks] == [
        ("vda", "/var/lib/libvirt/images/web01.snap1", "qcow2"),
        ("sda", "/dev/vg/data", "raw"),
        ("sdb", "/dev/sdx", None),
    ]
    assert machine.left_out == ("hdc: cdrom", "?: floppy")


def disk(text: str) -> str:
    return f"<domain><devices>{text}</devices></domain>"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            disk("<disk type='network'><source protocol='rbd' name='pool/web'/><target dev='vda'/></disk>"),
            Unsupported,
            "libvirt-network",
        ),
        (disk("<disk type='volume'><source pool='default' volume='web'/></disk>"), Unsupported, "libvirt-volume"),
        (disk("<disk type='nvme'/>"), Unsupported, "libvirt-nvme"),
        (disk("<disk type='file'><target dev='vda'/></disk>"), Corrupt, "machine"),
        (disk("<disk type='block'><source file='x'/></disk>"), Corrupt, "machine"),
        ("<network/>", Corrupt, "machine"),
        ("<other><domain/></other>", Corrupt, "machine"),
    ],
)
def test_what_is_refused_of_a_domain(text: str, kind: type[MntapiError], reason: str) -> None:
    with pytest.raises(kind) as caught:
        parse_domain(text.encode(), "x.xml")
    assert caught.value.reason == reason
    if reason == "libvirt-network":
        assert "protocol=rbd" in str(caught.value) and "vda" in str(caught.value)


LAUGHS = "<!DOCTYPE lolz [<!ENTITY a0 'lol'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30)
) + "]><domain>&a29;</domain>"  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain>&x;</domain>",
        "<!DOCTYPE d [<!ENTITY % p SYSTEM 'http://127.0.0.1/x'>%p;]><domain/>",
        "<!DOCTYPE d><domain/>",
    ],
)
def test_document_types_are_refused(text: str) -> None:
    for parse in (parse_domain, parse_ovf):
        with pytest.raises(Unsupported) as caught:
            parse(text.encode(), "x.xml")
        assert caught.value.reason == "xml-doctype"


@pytest.mark.parametrize(
    "raw",
    [
        b"<a>" * 100_000,
        b"<a>" + b"<b/>" * (xml.MAX_ELEMENTS + 1) + b"</a>",
        b"<a>&undefined;</a>",
        b"<a></b>",
        b"<a",
        b"",
        b"\xff\xfe\0",
        b"<?xml version='1.0' encoding='no-such'?><a/>",
        b"<a>\x01</a>",
        b"<a b='1' b='2'/>",
    ],
)
def test_damaged_xml(raw: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        parse_xml(raw, "x.xml")
    assert caught.value.reason == "xml"


def test_utf16() -> None:
    assert parse_xml(DOMAIN.encode("utf-16"), "x").tag == "domain"
