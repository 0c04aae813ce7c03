"""Delta chains of VMDK: where parents are looked for, and when they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.vmdk_builder import SECTOR, build_cowd, open_vmdk, write_descriptor
from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported

SIZE = 64 * SECTOR


def base(folder: Path, name: str = "base", *, cid: str = "aaaa0001", size: int = SIZE) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}-flat.vmdk").write_bytes(b"b" * size)
    return write_descriptor(folder / f"{name}.vmdk", [f'RW {size // SECTOR} VMFS "{name}-flat.vmdk"'], cid=cid)


def delta(folder: Path, hint: str | None, name: str = "child", *, cid: str = "bbbb0002", parent_cid: str = "aaaa0001") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    build_cowd(folder / f"{name}-delta.vmdk", bytes(4096) + b"c" * 4096 + bytes(SIZE - 8192))
    more = [] if hint is None else [f'parentFileNameHint="{hint}"']
    lines = [f'RW {SIZE // SECTOR} VMFSSPARSE "{name}-delta.vmdk"']
    return write_descriptor(folder / f"{name}.vmdk", lines, cid=cid, parent_cid=parent_cid, more=more)


def refused(path: Path, kind: type[MntapiError], reason: str | None, **options: bool) -> MntapiError:
    with pytest.raises(kind) as caught:
        open_vmdk(path, **options)
    assert caught.value.reason == reason
    return caught.value


@pytest.mark.parametrize(
    "hint",
    [
        "base.vmdk",
        "./base.vmdk",
        "/vmfs/volumes/5f0c/vm/base.vmdk",
        "C:\\\\VMs\\\\web\\\\base.vmdk",
        "..\\\\x\\\\base.vmdk",
        "../old/base.vmdk",
    ],
)
def test_where_parents_are_found(hint: str, tmp_path: Path) -> None:
    base(tmp_path)
    image = open_vmdk(delta(tmp_path, hint.replace("\\\\", "\\")))
    assert read(image.blocks, 0, SIZE) == b"b" * 4096 + b"c" * 4096 + b"b" * (SIZE - 8192)
    assert [link.file for link in image.chain] == [str(tmp_path / "child.vmdk"), str(tmp_path / "base.vmdk")]
    assert [(link.cid, link.parent_cid) for link in image.chain] == [("bbbb0002", "aaaa0001"), ("aaaa0001", None)]
    image.blocks.close()


def test_a_parent_in_a_folder_below_or_outside(tmp_path: Path) -> None:
    base(tmp_path / "a" / "b")
    open_vmdk(delta(tmp_path / "a", "b/base.vmdk")).blocks.close()
    outside = delta(tmp_path / "c", "../a/b/base.vmdk")
    error = refused(outside, Denied, "outside")
    assert "a/b/base.vmdk" in str(error) and error.path == str(outside)
    open_vmdk(outside, allow_outside=True).blocks.close()


def test_a_relative_windows_path(tmp_path: Path) -> None:
    base(tmp_path / "disks")
    open_vmdk(delta(tmp_path, ".\\disks\\base.vmdk")).blocks.close()


def test_a_linked_clone_with_its_parents_name_does_not_find_itself(tmp_path: Path) -> None:
    base(tmp_path / "origin", "web")
    refused(delta(tmp_path / "clone", "../origin/web.vmdk", "web"), Denied, "outside")


def test_missing_parent_names_child_and_file(tmp_path: Path) -> None:
    child = delta(tmp_path, "D:\\disks\\gone.vmdk")
    error = refused(child, NotFound, "parent-missing")
    assert error.path == str(child) and "gone.vmdk" in str(error)
    refused(delta(tmp_path, "gone.vmdk"), NotFound, "parent-missing")
    refused(delta(tmp_path, None), Corrupt, "parent-missing")


def test_missing_grandparent_and_missing_extent_of_the_parent_are_told_as_such(tmp_path: Path) -> None:
    middle = delta(tmp_path, "/gone/base.vmdk", "middle", cid="cccc0003")
    child = delta(tmp_path, "/elsewhere/middle.vmdk", parent_cid="cccc0003")
    assert refused(child, NotFound, "parent-missing").path == str(middle)
    refused(delta(tmp_path, "middle.vmdk", parent_cid="cccc0003"), NotFound, "parent-missing")
    parent = base(tmp_path)
    (tmp_path / "base-flat.vmdk").unlink()
    assert refused(delta(tmp_path, "base.vmdk"), NotFound, "extent-missing").path == str(parent)


def test_loops(tmp_path: Path) -> None:
    refused(delta(tmp_path, "child.vmdk"), Corrupt, "chain-loop")
    delta(tmp_path, "two.vmdk", "one")
    refused(delta(tmp_path, "one.vmdk", "two"), Corrupt, "chain-loop")


def test_chain_too_long(tmp_path: Path) -> None:
    base(tmp_path, "disk0")
    for number in range(1, 65):
        hint = [f'parentFileNameHint="disk{number - 1}.vmdk"']
        write_descriptor(tmp_path / f"disk{number}.vmdk", ["RW 8 ZERO"], cid="aaaa0001", parent_cid="aaaa0001", more=hint)
    open_vmdk(tmp_path / "disk63.vmdk").blocks.close()
    refused(tmp_path / "disk64.vmdk", Corrupt, "chain-too-long")


def test_content_ids_are_compared(tmp_path: Path) -> None:
    parent = base(tmp_path, cid="aaaa9999")
    child = delta(tmp_path, "base.vmdk")
    error = refused(child, Corrupt, "cid-mismatch")
    assert error.path == str(child)
    for word in ("aaaa9999", "aaaa0001", str(parent)):
        assert word in str(error)
    image = open_vmdk(child, ignore_cid=True)
    assert read(image.blocks, 4095, 2) == b"bc"
    image.blocks.close()


def test_a_parent_that_is_no_vmdk(tmp_path: Path) -> None:
    for name, kind, reason in (("base.bin", Unsupported, None), ("base.vmdk", Corrupt, "signature-missing")):
        (tmp_path / name).write_bytes(b"\x55" * SIZE)
        refused(delta(tmp_path, name), kind, reason)


@pytest.mark.parametrize("size", [40 * SECTOR, 100 * SECTOR])
def test_a_parent_of_another_size(size: int, tmp_path: Path) -> None:
    """A disk that was grown after the snapshot: zeros behind the parent's end; a larger parent is cut."""
    base(tmp_path, size=size)
    image = open_vmdk(delta(tmp_path, "base.vmdk"))
    expected = bytearray(b"b" * min(size, SIZE)).ljust(SIZE, b"\0")
    expected[4096:8192] = b"c" * 4096
    assert read(image.blocks, 0, SIZE) == expected
    assert read(image.blocks, SIZE - 512, 512) == expected[-512:]
    image.blocks.close()


def test_no_file_stays_open_after_an_error(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir()))
    base(tmp_path, cid="aaaa9999")
    refused(delta(tmp_path, "base.vmdk"), Corrupt, "cid-mismatch")
    refused(delta(tmp_path, "gone.vmdk"), NotFound, "parent-missing")
    assert len(list(fds.iterdir())) == before


@pytest.mark.parametrize(("name", "hint"), [("vm-000001-delta.vmdk", "vm-000001.vmdk"), ("other.vmdk", "the descriptor")])
def test_an_extent_alone_is_refused(name: str, hint: str, tmp_path: Path) -> None:
    """Its holes are the parent's bytes: read as a disk of its own it would be full of zeros that nobody wrote."""
    path = build_cowd(tmp_path / name, b"x" * SIZE)
    assert hint in str(refused(path, Unsupported, "extent-alone").hint)


def test_a_change_tracking_file_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "disk-ctk.vmdk").write_bytes(bytes.fromhex("a27219f601000000") + bytes(1000))
    refused(tmp_path / "disk-ctk.vmdk", Unsupported, "change-tracking")
