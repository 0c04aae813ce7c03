"""OVA: tars with damaged, lying and hostile headers, and disks that name what is not in them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from contract.container_support import content, open_with, refused, table
from contract.vmdk_builder import write_descriptor
from mntapi.blocks import HostFile, read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images import ova
from mntapi.images.formats import Chain
from mntapi.images.opener import DirectOpener
from mntapi.types import OpenOptions

__all__ = ["table"]
FLAT = bytes(range(256)) * 32


def tar(path: Path, members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def descriptor(folder: Path, extent: str) -> bytes:
    return write_descriptor(folder / "made.vmdk", [f'RW {len(FLAT) // 512} VMFS "{extent}"']).read_bytes()


def rewritten(path: Path, offset: int, value: bytes, header: int = 0) -> Path:
    """The tar with bytes of a header changed and its checksum made right again."""
    raw = bytearray(path.read_bytes())
    raw[header + offset : header + offset + len(value)] = value
    raw[header + 148 : header + 156] = b" " * 8
    raw[header + 148 : header + 156] = f"{sum(raw[header : header + 512]):06o}\0 ".encode()
    path.write_bytes(raw)
    return path


def test_extents_are_members_of_the_same_tar(tmp_path: Path) -> None:
    members = {"vm/a.vmdk": descriptor(tmp_path, "a-flat.vmdk"), "vm/a-flat.vmdk": FLAT}
    image = open_with("ova", tar(tmp_path / "x.ova", members))
    assert image.chain[1].file == f"{tmp_path}/x.ova:vm/a.vmdk"
    assert content(image) == FLAT


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "../a-flat.vmdk"])
def test_a_disk_that_names_what_is_outside(name: str, tmp_path: Path) -> None:
    members = {"a.vmdk": descriptor(tmp_path, name), "a-flat.vmdk": FLAT}
    refused("ova", tar(tmp_path / "x.ova", members), Denied, "outside")


def test_a_disk_that_names_what_is_not_there_though_it_is_beside_the_ova(tmp_path: Path) -> None:
    (tmp_path / "a-flat.vmdk").write_bytes(FLAT)
    path = tar(tmp_path / "x.ova", {"a.vmdk": descriptor(tmp_path, "a-flat.vmdk")})
    with pytest.raises(NotFound, match=r"x\.ova:a-flat"):
        open_with("ova", path)


@pytest.mark.parametrize("name", ["../../x.vmdk", "/abs/x.vmdk", "./x.vmdk", "a/../../x.vmdk"])
def test_hostile_member_names_are_only_names(name: str, tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {name: descriptor(tmp_path, "x-flat.vmdk"), "x-flat.vmdk": FLAT})
    try:
        assert content(open_with("ova", path)) == FLAT
    except MntapiError as error:
        assert isinstance(error, Denied | NotFound)
    assert sorted(one.name for one in tmp_path.parent.iterdir() if one.suffix == ".vmdk") == []


def test_several_disks(tmp_path: Path) -> None:
    one = descriptor(tmp_path, "flat")
    path = tar(tmp_path / "x.ova", {"b.vmdk": one, "x.ovf": b"<Envelope/>", "a.vmdk": one, "flat": FLAT})
    assert "b.vmdk, a.vmdk" in str(refused("ova", path, Unsupported, "several-disks"))
    file = HostFile.open(str(path))
    archive = ova.read_archive(file)
    assert archive.disks == ("b.vmdk", "a.vmdk") and archive.descriptor == "x.ovf"
    inside = archive.file("x.ovf")
    assert read(inside, 0, inside.size) == b"<Envelope/>"
    inside.close()
    image = ova.open_disk(file, "a.vmdk", Chain(DirectOpener(), OpenOptions()))
    assert image.chain[1].file.endswith("x.ova:a.vmdk")
    assert content(image) == FLAT
    with pytest.raises(MntapiError):
        file.readinto(0, memoryview(bytearray(1)))
    file = HostFile.open(str(path))
    with pytest.raises(NotFound, match="no such member"):
        ova.open_disk(file, "c.vmdk", Chain(DirectOpener(), OpenOptions()))
    file.close()


def test_no_disk(tmp_path: Path) -> None:
    refused("ova", tar(tmp_path / "x.ova", {"readme.txt": b"hello"}), Unsupported, "no-disk")
    refused("ova", tar(tmp_path / "y.ova", {"empty.img": b""}), Unsupported, "no-disk")


def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"a": b"1", "./a": b"2"})
    refused("ova", path, Corrupt, "tar")


def test_cut_off_at_every_block(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"a.vmdk": descriptor(tmp_path, "f"), "f": FLAT, "z": b"z"})
    whole = path.read_bytes()
    for end in range(0, 1024 + 512 + len(FLAT) + 512 + 512, 256):
        path.write_bytes(whole[:end])
        try:
            assert content(open_with("ova", path)) == FLAT
        except MntapiError as error:
            assert error.path and error.path.startswith(str(path))
        else:
            assert end >= 1024 + 512 + len(FLAT)


def test_a_member_that_is_cut_off_does_not_hide_the_others(tmp_path: Path) -> None:
    made = descriptor(tmp_path, "f")
    path = tar(tmp_path / "x.ova", {"f": FLAT, "a.vmdk": made, "b.vmdk": made.ljust(2000)})
    path.write_bytes(path.read_bytes()[: 512 + len(FLAT) + 1024 + 512 + 1000])
    refused("ova", path, Unsupported, "several-disks")
    file = HostFile.open(str(path))
    with pytest.raises(Corrupt) as caught:
        ova.open_disk(file, "b.vmdk", Chain(DirectOpener(), OpenOptions()))
    assert caught.value.reason == "truncated" and caught.value.offset == path.stat().st_size
    assert content(ova.open_disk(file, "a.vmdk", Chain(DirectOpener(), OpenOptions()))) == FLAT


def test_the_last_member_is_cut_off(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"a.img": FLAT})
    path.write_bytes(rewritten(path, 124, b"00000200000\0").read_bytes()[: 512 + 0o200000 - 512])
    path.write_bytes(path.read_bytes()[:3000])
    refused("ova", path, Corrupt, "truncated")


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, b"12345x78901\0"]
)
def test_huge_and_damaged_sizes(size: bytes, tmp_path: Path) -> None:
    path = rewritten(tar(tmp_path / "x.ova", {"a.img": FLAT}), 124, size)
    with pytest.raises(Corrupt):
        open_with("ova", path)


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_an_extension_of_a_huge_size(kind: bytes, tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"a.img": FLAT})
    rewritten(path, 156, kind)
    refused("ova", rewritten(path, 124, b"77777777777\0"), Corrupt, "tar")


def test_a_damaged_header(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"a.img": FLAT, "b": b"b"})
    raw = bytearray(path.read_bytes())
    raw[512 + len(FLAT) + 3] ^= 1
    path.write_bytes(raw)
    assert refused("ova", path, Corrupt, "tar").offset == 512 + len(FLAT)


@pytest.mark.parametrize(
    "record", [b"30 path=short\n", b"x", b"9 nothing\n", b"0 a=b\n", b"9 size=x\n", b"15 size=-1\n        "]
)
def test_damaged_pax_records(record: bytes, tmp_path: Path) -> None:
    path = tar(tmp_path / "x.ova", {"pax": record, "a.img": FLAT})
    refused("ova", rewritten(path, 156, b"x"), Corrupt, "tar")


def test_pax_and_gnu_long_names(tmp_path: Path) -> None:
    name = "ü" * 90 + ".img"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        image = open_with("ova", tar(tmp_path / "x.ova", {name: FLAT}, form))
        assert image.chain[1].file.endswith(name)
        assert content(image) == FLAT


def test_sparse_members(tmp_path: Path) -> None:
    path = rewritten(tar(tmp_path / "x.ova", {"a.img": FLAT}), 156, b"S")
    refused("ova", path, Unsupported, "sparse-member")


def test_links_and_folders_have_no_data(tmp_path: Path) -> None:
    path = tmp_path / "x.ova"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"x{kind!r}")
            info.type, info.linkname = kind, "/etc/shadow"
            archive.addfile(info)
        info = tarfile.TarInfo("a.img")
        info.size = len(FLAT)
        archive.addfile(info, io.BytesIO(FLAT))
    assert content(open_with("ova", path)) == FLAT


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ova, "MAX_MEMBERS", 2)
    path = tar(tmp_path / "x.ova", {"a": b"", "b": b"", "c": b""})
    refused("ova", path, Corrupt, "tar")
    path = tmp_path / "y.ova"
    with tarfile.open(path, "w") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"d{number}")
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    refused("ova", path, Corrupt, "tar")


def test_too_many_inside_one_another(tmp_path: Path, table: None) -> None:
    data = descriptor(tmp_path, "f")
    for level in range(4):
        path = tar(tmp_path / f"{level}.ova", {"in.ova" if level else "a.vmdk": data, "f": FLAT})
        data = path.read_bytes()
    assert content(open_with("ova", tmp_path / "2.ova")) == FLAT
    refused("ova", tmp_path / "3.ova", Unsupported, "nesting")
