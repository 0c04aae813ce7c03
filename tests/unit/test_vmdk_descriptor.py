"""Descriptors of VMDK: what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.vmdk_builder import SECTOR, open_vmdk, write_descriptor
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images.vmdk.descriptor import MAX_DESCRIPTOR, ExtentLine, parse

TEXT = """# Disk DescriptorFile
version=3
encoding="UTF-8"
CID=12ab
parentCID=FFFFFFFF
isNativeSnapshot="no"
createType="vmfs"

# Extent description
RW 4192256 FLAT "disk-f001.vmdk" 128
RDONLY 63 ZERO
rw 100 vmfs "disk two.vmdk"
RW 200 FLAT "\\\\.\\PhysicalDrive0" 7 "partition-uuid" "device"

# Change Tracking File
changeTrackPath="disk-ctk.vmdk"

# The Disk Data Base
#DDB
ddb.longContentID = "c30e9133f6a8e34df61188c51010a8cd"
ddb.geometry.cylinders = "301"
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_descriptor(line_end: str) -> None:
    found = parse(TEXT.replace("\n", line_end).encode() + b"\0" * 100 + b"rubbish", "d")
    assert (found.create_type, found.cid, found.parent_cid, found.parent_hint) == ("vmfs", "000012ab", "ffffffff", None)
    assert not found.has_parent
    assert found.extents == (
        ExtentLine("RW", 4192256, "FLAT", "disk-f001.vmdk", 128 * SECTOR),
        ExtentLine("RDONLY", 63, "ZERO", None),
        ExtentLine("RW", 100, "VMFS", "disk two.vmdk"),
        ExtentLine("RW", 200, "FLAT", "\\\\.\\PhysicalDrive0", 7 * SECTOR),
    )
    assert found.settings["changetrackpath"] == "disk-ctk.vmdk"
    assert found.settings["ddb.longcontentid"] == "c30e9133f6a8e34df61188c51010a8cd"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("RW 10 FLAT\n", None, None),
        ("RW ten FLAT x\n", Corrupt, "line 1 of the descriptor is no extent"),
        ('RW 10 FLAT "unfinished\n', Corrupt, "line 1 of the descriptor is no extent"),
        ('RW -10 FLAT "x"\n', Corrupt, "line 1 of the descriptor is no extent"),
        ("version=1\nCID=xyz\nRW 10 ZERO\n", Corrupt, "content ID is damaged"),
        ("version=1\nCID=123456789\nRW 10 ZERO\n", Corrupt, "content ID is damaged"),
        ("version=1\n", Corrupt, "describes no extent"),
        ("version=1\nRW 0 ZERO\n", Corrupt, "describes no extent"),
        ("", Corrupt, "cut off"),
        ('RW 10 FLAT "x" 12', Corrupt, "cut off"),
        ("RW 999999999999999999 ZERO\n", Corrupt, "larger than any disk"),
        ('RW 1 FLAT "x" 999999999999999999\n', Corrupt, "starts where no disk goes"),
        ("RW 1099511627776 ZERO\n" * 3, Corrupt, "larger than any disk"),
        ("# " + "x" * MAX_DESCRIPTOR, Corrupt, "too long"),
        ('RW 10 ZERO\nddb.iofilters = "vmwarevmcrypt"\n', Unsupported, "encrypted"),
        ('RW 10 ZERO\nencryption.keySafe = "vmware:key/list/..."\n', Unsupported, "encrypted"),
        ('encoding="klingon"\nRW 10 FLAT "ä" 0\n', Unsupported, "encoding 'klingon' is not known"),
        ('encoding="unicode_escape"\nRW 10 FLAT "ä" 0\n', Unsupported, "encoding"),
        ('encoding="windows-9999"\nRW 10 FLAT "ä" 0\n', Unsupported, "encoding"),
        ('encoding="klingon"\nRW 10 FLAT "a" 0\n', None, None),
    ],
)
def test_what_is_refused(text: str, kind: type[MntapiError] | None, words: str | None) -> None:
    if kind is None:
        assert len(parse(text.encode(), "d").extents) == 1
        return
    with pytest.raises(kind, match=words) as caught:
        parse(text.encode(), "d")
    assert caught.value.path == "d"


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [
        ("UTF-8", "utf-8", "müller-平"),
        ("windows-1252", "cp1252", "müller"),
        ("GBK", "gbk", "虚拟磁盘"),
        ("Shift_JIS", "shift_jis", "ディスク"),
    ],
)
@pytest.mark.parametrize("setting", ["encoding", "ddb.encoding "])
def test_file_names_in_other_encodings(encoding: str, codec: str, name: str, setting: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}-flat.vmdk").write_bytes(b"A" * SECTOR)
    path = write_descriptor(
        tmp_path / "disk.vmdk", [f'RW 1 FLAT "{name}-flat.vmdk" 0'], more=[f'{setting}="{encoding}"'], encoding=codec
    )
    image = open_vmdk(path)
    assert read(image.blocks, 0, SECTOR) == b"A" * SECTOR
    image.blocks.close()


def test_a_file_name_that_is_no_utf8_is_the_bytes_it_has(tmp_path: Path) -> None:
    name = b"caf\xe9-flat.vmdk"
    with open(bytes(tmp_path) + b"/" + name, "wb") as out:
        out.write(b"A" * SECTOR)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "' + name + b'" 0\n')
    image = open_vmdk(path)
    assert read(image.blocks, 0, 3) == b"AAA"
    image.blocks.close()


@pytest.mark.parametrize("first", [b"\xef\xbb\xbf# Disk DescriptorFile", b"# Disk Descriptor File", b"#Disk DescriptorFile"])
def test_other_first_lines(first: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(first + b"\r\nversion=1\r\nRW 8 ZERO\r\n")
    image = open_vmdk(path)
    assert (image.format, image.blocks.size) == ("vmdk", 8 * SECTOR)


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ('RW 8 FLAT "absent.vmdk" 0', NotFound, "extent-missing"),
        ('RW 8 FLAT "../../etc/shadow" 0', Denied, "outside"),
        ('RW 8 FLAT "/etc/shadow" 0', Denied, "outside"),
        ('RW 8 FLAT "link.vmdk" 0', Denied, "outside"),
        ('RW 8 VMFSRDM "absent-rdm.vmdk"', Unsupported, "rdm"),
        ('RW 8 VMFSRDMP "short.vmdk"', Unsupported, "rdm"),
        ('RW 8 FUTURE "short.vmdk"', Unsupported, "extent-kind"),
        ("RW 8 FLAT", Corrupt, "descriptor-damaged"),
        ('RW 8 SPARSE "short.vmdk"', Corrupt, "bad-magic"),
        ('RW 8 FLAT "sub" 0', Unsupported, None),
    ],
)
def test_extents_that_cannot_be_opened(line: str, kind: type[MntapiError], reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "short.vmdk").write_bytes(b"s" * 100)
    (tmp_path / "link.vmdk").symlink_to("/etc/passwd")
    (tmp_path / "sub").mkdir()
    path = write_descriptor(tmp_path / "disk.vmdk", ["RW 8 ZERO", line])
    with pytest.raises(kind) as caught:
        open_vmdk(path)
    assert caught.value.reason == reason
    assert str(tmp_path) in str(caught.value)


def test_raw_device_mapping_whose_device_was_copied(tmp_path: Path) -> None:
    (tmp_path / "disk-rdm.vmdk").write_bytes(b"R" * SECTOR * 8)
    image = open_vmdk(write_descriptor(tmp_path / "disk.vmdk", ['RW 8 VMFSRDM "disk-rdm.vmdk"'], create_type="vmfsRDM"))
    assert read(image.blocks, 0, 4096) == b"R" * 4096
    image.blocks.close()


def test_outside_is_allowed_when_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "flat").write_bytes(b"f" * SECTOR)
    path = write_descriptor(tmp_path / "a" / "disk.vmdk", ['RW 1 FLAT "../flat" 0'])
    image = open_vmdk(path, allow_outside=True)
    assert read(image.blocks, 0, 1) == b"f"
    image.blocks.close()


def test_noaccess_extents_raise_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(b"f" * SECTOR * 20)
    image = open_vmdk(
        write_descriptor(tmp_path / "disk.vmdk", ['RW 8 FLAT "flat" 0', "NOACCESS 8 ZERO", 'RW 8 FLAT "flat" 12'])
    )
    assert read(image.blocks, 0, 4096) == read(image.blocks, 8192, 4096) == b"f" * 4096
    with pytest.raises(Denied) as caught:
        read(image.blocks, 4000, 200)
    assert caught.value.reason == "noaccess"
    image.blocks.close()


def test_flat_extent_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "flat").write_bytes(b"f" * 5000)
    image = open_vmdk(write_descriptor(tmp_path / "disk.vmdk", ['RW 16 FLAT "flat" 2', 'RW 2 FLAT "flat" 100', "RW 1 ZERO"]))
    assert read(image.blocks, 0, 5000 - 1024) == b"f" * (5000 - 1024)
    for offset, position in ((5000 - 1024, 5000), (16 * SECTOR, 100 * SECTOR)):
        with pytest.raises(Corrupt) as caught:
            read(image.blocks, offset, 1)
        assert (caught.value.path, caught.value.offset, caught.value.reason) == (str(tmp_path / "flat"), position, "truncated")
    assert read(image.blocks, 18 * SECTOR, SECTOR) == bytes(SECTOR)
    image.blocks.close()
