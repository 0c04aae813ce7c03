"""Links in a copy, and folders whose files are elsewhere."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import Unsupported
from mntapi.restore.copy import Copier, CopyOptions, Report
from mntapi.restore.links import relative_target
from mntapi.types import Entry, Node


class Windows(MemoryFileSystem):
    """A tree whose links that begin with a drive lead from the top, as ``GuestTree`` tells."""

    def leads_to(self, link: Node) -> list[str] | None:
        target = self.readlink(link)
        return target.split("/") if target[1:2] == ":" else None


def copy(tree: MemoryFileSystem, destination: Path, place: Sequence[str] = (), node: Node | None = None) -> Report:
    copier = Copier(tree, CopyOptions(recursive=True))
    copier.copy("/" + "/".join(place), node or tree.root, str(destination.parent), destination.name, place=place)
    return copier.report


@pytest.mark.parametrize(
    ("leads_to", "place", "below", "want"),
    [
        ("C:/Users", "", "out/C:/Documents and Settings", "Users"),
        ("C:/Users", "", "out/D:/data/link", "../../C:/Users"),
        ("C:/Users", "C:", "out/a/b/link", "../../Users"),
        ("c:/users/ann", "C:/Users", "new/ann/self", "."),
        ("C:/Users", "C:/Users/ann", "ann/link", ".."),
        ("C:/Users/Public", "C:/Users/ann", "ann/link", "../Public"),
        ("C:/Users", "C:/Documents and Settings", "Documents and Settings", "Users"),
        ("C:/x/../../../../etc", "C:", "out/link", "../etc"),
        ("C:/ProgramData", "C:/Users/ann", "ann/link", None),
        ("C:/Userspace", "C:/Users/ann", "ann/link", None),
        ("C:", "C:/Users/ann", "ann/link", None),
    ],
)
def test_a_target_as_a_relative_one(leads_to: str, place: str, below: str, want: str | None) -> None:
    found = relative_target(leads_to.split("/"), place.split("/") if place else (), below.split("/"))
    assert found == want
    if found:  # as path_resolution(7) has it, from the link's folder
        assert not posixpath.normpath(posixpath.join(posixpath.dirname(below), found)).startswith("..")


def test_links_of_windows_work_in_the_copy_and_others_keep_their_text(tmp_path: Path) -> None:
    tree = Windows(
        {"C:": {"Users": {"a": b"1"}, "Old": "C:/Users", "up": "../x", "abs": "/etc/x", "D": "D:/y"}, "D:": {"y": {"b": b"2"}}}
    )
    report = copy(tree, tmp_path / "out")
    out = tmp_path / "out/C:"
    assert (out / "Old/a").read_bytes() == b"1" and (out / "D/b").read_bytes() == b"2"
    assert {name: os.readlink(out / name) for name in ("Old", "up", "abs", "D")} == {
        "Old": "Users",
        "up": "../x",
        "abs": "/etc/x",
        "D": "../D:/y",
    }
    assert report.notes == report.failures == []


def test_a_target_that_is_not_copied_is_named(tmp_path: Path) -> None:
    tree = Windows({"link": "C:/Users", "far": "D:/y"})
    report = copy(tree, tmp_path / "ann", ("C:", "ann"))
    assert os.readlink(tmp_path / "ann/link") == "../Users"
    [note], [failure] = report.notes, report.failures
    assert note.path == "/C:/ann/link" and "leads to C:\\Users, which is not in this copy" in note.text
    assert failure.path == "/C:/ann/far" and failure.error.reason == "link" and "leads to D:\\y" in str(failure.error)
    assert os.listdir(tmp_path / "ann") == ["link"]


def test_a_target_with_a_zero_byte(tmp_path: Path) -> None:
    report = copy(MemoryFileSystem({"bad": "a\0b", "good": b""}), tmp_path / "out")
    assert [failure.path for failure in report.failures] == ["/bad"] and os.listdir(tmp_path / "out") == ["good"]


class Away(MemoryFileSystem):
    """``gone`` is a mount point whose volume is missing; what is mounted below it is there."""

    def scan(self, directory: Node) -> Iterator[Entry]:
        yield from super().scan(directory)
        if directory.reason == "missing-volume":
            raise Unsupported("LABEL=gone: it is not in this set", reason="missing-volume")


@pytest.mark.parametrize(("reason", "failures"), [("network", 0), ("missing-volume", 1), ("damaged", 1)])
def test_a_folder_whose_files_are_elsewhere_is_there(tmp_path: Path, reason: str, failures: int) -> None:
    metadata: Mapping[str, Mapping[str, object]] = {"gone": {"reason": reason}}
    report = copy(Away({"gone": {"below": {"a": b"1"}}, "b": b"2"}, metadata=metadata), tmp_path / "out")
    assert (tmp_path / "out/gone/below/a").read_bytes() == b"1" and (tmp_path / "out/b").exists()
    assert [failure.error.reason for failure in report.failures] == [reason] * failures
    assert [(note.path, "on a server" in note.text) for note in report.notes] == [("/gone", True)] * (1 - failures)
    if reason == "missing-volume":
        assert "LABEL=gone: it is not in this set" in str(report.failures[0].error)
