"""Copies out of hostile trees: nothing lands outside the destination, nothing looks whole that is not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.blocks import Concat, Fault, Zero
from mntapi.errors import Corrupt, Denied, NotFound
from mntapi.restore.copy import Copier, CopyOptions, Report
from mntapi.restore.entries import check_name
from mntapi.types import FileKind, Node
from mntapi.units import MIB


def copy(tree: MemoryFileSystem, destination: Path, **options: bool) -> Report:
    copier = Copier(tree, CopyOptions(recursive=True, **options))
    copier.copy("/", tree.root, str(destination.parent), destination.name)
    return copier.report


def test_files_folders_links_times_and_modes(tmp_path: Path) -> None:
    tree = MemoryFileSystem(
        {"docs": {"a.txt": b"hello", "empty": b"", "link": "a.txt"}},
        metadata={
            "a.txt": {"mode": 0o640, "mtime_ns": 1_234_567_890_123_456_789, "atime_ns": 5},
            "docs": {"mode": 0o750, "mtime_ns": 99},
            "link": {"mtime_ns": 77},
        },
    )
    report = copy(tree, tmp_path / "out")
    assert (report.files, report.folders, report.failures) == (3, 2, [])
    file = tmp_path / "out/docs/a.txt"
    assert (file.stat().st_mtime_ns, file.stat().st_atime_ns) == (1_234_567_890_123_456_789, 5)
    assert file.read_bytes() == b"hello" and file.stat().st_mode & 0o7777 == 0o640
    assert file.parent.stat().st_mode & 0o7777 == 0o750 and file.parent.stat().st_mtime_ns == 99
    assert os.readlink(file.parent / "link") == "a.txt" and (file.parent / "link").lstat().st_mtime_ns == 77


def test_holes_stay_holes(tmp_path: Path) -> None:
    blocks = Concat([Memory(b"x" * 4096), Zero(64 * MIB), Memory(b"y" * 4096)])
    copy(MemoryFileSystem({"sparse": blocks, "hole": Zero(MIB)}), tmp_path / "out")
    status = (tmp_path / "out/sparse").stat()
    assert status.st_size == blocks.size and status.st_blocks * 512 < MIB
    with (tmp_path / "out/sparse").open("rb") as file:
        assert file.read(4097) == b"x" * 4096 + b"\0"
        file.seek(-4097, os.SEEK_END)
        assert file.read() == b"\0" + b"y" * 4096
    assert (tmp_path / "out/hole").stat().st_size == MIB


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../evil", "nul\0", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    report = copy(MemoryFileSystem({name: b"evil", "good": b"fine"}), tmp_path / "in/out")
    assert [failure.error.reason for failure in report.failures] == ["bad-name"]
    assert (tmp_path / "in/out/good").read_bytes() == b"fine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["good", "in", "out"]
    with pytest.raises(Denied):
        check_name(name)


def test_a_link_is_never_followed_below_the_destination(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/docs").symlink_to(tmp_path / "host")
    report = copy(MemoryFileSystem({"docs": {"evil": b"evil"}}), tmp_path / "out")
    assert len(report.failures) == 1 and not list((tmp_path / "host").iterdir())


def test_a_bad_sector_marks_the_file_and_the_copy_goes_on(tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    bad = Fault(Memory(content), bad=[(MIB + 5000, 10)])
    report = copy(MemoryFileSystem({"bad.bin": bad, "good.bin": b"fine"}), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bad.bin.damaged", "good.bin"]
    rescued = (tmp_path / "out/bad.bin.damaged").read_bytes()
    assert rescued[: MIB + 4096] == content[: MIB + 4096] and rescued[MIB + 8192 :] == content[MIB + 8192 :]
    assert rescued[MIB + 4096 : MIB + 8192] == bytes(4096)
    [failure] = report.failures
    assert "4096 bytes cannot be read, the first at byte 1052672" in str(failure.error) and failure.path == "/bad.bin"


def test_an_unreadable_file_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    tree = MemoryFileSystem({"secret": b"", "good": b"fine"}, metadata={"secret": {"reason": "efs"}})
    report = copy(tree, tmp_path / "out")
    assert [(failure.path, failure.error.reason) for failure in report.failures] == [("/secret", "efs")]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]


def test_a_folder_that_turns_bad_half_way_keeps_what_was_read(tmp_path: Path) -> None:
    report = copy(MemoryFileSystem({"first": b"1", "<unreadable>": b"", "never": b""}), tmp_path / "out")
    assert (tmp_path / "out/first").exists() and len(report.failures) == 1


def test_what_is_there_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    tree = MemoryFileSystem({"a": b"new", "link": "target"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").write_bytes(b"old")
    assert len(copy(tree, tmp_path / "out").failures) == 1
    assert (tmp_path / "out/a").read_bytes() == b"old"
    assert copy(tree, tmp_path / "out", overwrite=True).failures == []
    assert (tmp_path / "out/a").read_bytes() == b"new"
    (tmp_path / "two/a").mkdir(parents=True)
    assert "folder of that name" in str(copy(tree, tmp_path / "two", overwrite=True).failures[0].error)


def test_special_files_are_named_not_made(tmp_path: Path) -> None:
    tree = MemoryFileSystem({"sda": b""}, metadata={"sda": {"kind": FileKind.BLOCK_DEVICE}})
    assert copy(tree, tmp_path / "out").failures[0].error.reason == "special-file"


def test_set_id_bits_go_only_with_their_owner(tmp_path: Path) -> None:
    tree = MemoryFileSystem({"su": b"#!"}, metadata={"su": {"mode": 0o4755, "uid": 1234, "gid": 5}})
    copy(tree, tmp_path / "out")
    assert (tmp_path / "out/su").stat().st_mode & 0o7777 == 0o755
    if os.geteuid() == 0:
        copy(tree, tmp_path / "owned", owner=True)
        status = (tmp_path / "owned/su").stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4755, 1234, 5)


def test_a_folder_needs_recursive(tmp_path: Path) -> None:
    copier = Copier(MemoryFileSystem({}), CopyOptions())
    copier.copy("/docs", MemoryFileSystem({}).root, str(tmp_path), "docs")
    assert "is a folder" in str(copier.report.failures[0].error)


def test_a_destination_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Copier(MemoryFileSystem({}), CopyOptions()).copy("/", MemoryFileSystem({}).root, str(tmp_path / "absent"), "x")


def test_a_folder_that_was_there_keeps_its_own_metadata(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    copy(MemoryFileSystem({"a": b"1"}), tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o700


class Marked(MemoryFileSystem):
    """Every file has the attributes given; reading those of the name ``damaged`` fails."""

    attributes: Mapping[str, bytes] = {}

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        if node.mode == 0o600:
            raise Corrupt("an attribute block with a wrong checksum", offset=4096)
        return self.attributes if node.kind is FileKind.FILE else {}


def test_attributes_that_cannot_be_kept_are_told_and_the_file_is_kept(tmp_path: Path) -> None:
    tree = Marked({"a": b"1", "damaged": b"2"}, metadata={"damaged": {"mode": 0o600}})
    tree.attributes = {"user.good": b"kept", "user.mntapi.reason": b"ours", "user.nul\0": b"x", "no-such-kind.x": b"y"}
    report = copy(tree, tmp_path / "out", attributes=True)
    told = {failure.path: str(failure.error) for failure in report.failures}
    assert "checksum" in told["/damaged"] and "no-such-kind.x" in told["/a"] and "user.nul" in told["/a"]
    assert "mntapi" not in told["/a"] and "good" not in told["/a"]
    assert os.listxattr(tmp_path / "out/a") == ["user.good"] and (tmp_path / "out/damaged").read_bytes() == b"2"


def test_a_time_that_the_host_cannot_have(tmp_path: Path) -> None:
    tree = MemoryFileSystem({"a": b"1"}, metadata={"a": {"mtime_ns": 10**30}})
    report = copy(tree, tmp_path / "out")
    assert "times" in str(report.failures[0].error) and (tmp_path / "out/a").read_bytes() == b"1"


def test_a_first_name_that_was_exchanged_is_not_linked_to(tmp_path: Path) -> None:
    """Somebody replaces the first copy by another file, or its folder by a link out of the destination, while we copy."""
    tree = MemoryFileSystem({"d": {"a": b"one file"}})
    node = tree.scan(tree.lookup(tree.root, "d")).__next__().node._replace(links=2)
    copier = Copier(tree, CopyOptions(hard_links=True))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_bytes(b"not to be linked")
    for exchange in (lambda: os.replace(tmp_path / "elsewhere/a", tmp_path / "a"), lambda: (tmp_path / "a").unlink()):
        copier.copy("/d/a", node, str(tmp_path), "a")
        exchange()
        copier.copy("/d/a", node, str(tmp_path), "second")
        assert (tmp_path / "second").read_bytes() == b"one file" and (tmp_path / "second").stat().st_nlink == 1
        (tmp_path / "second").unlink()
        (tmp_path / "a").unlink(missing_ok=True)
    assert copier.report.failures == []
