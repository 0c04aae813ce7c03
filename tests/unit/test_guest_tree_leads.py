"""Where links of Windows lead, by names that a host which tells upper from lower case finds; paths that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.guest_sets import FakeSet, linux, mount, windows
from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import NotFound, ReadFailed, Unsupported
from mntapi.session.guest_tree import GuestTree, assemble, spelling
from mntapi.session.paths import parts_of, resolve
from mntapi.session.tree import VolumeTree
from mntapi.types import Entry, FileKind, Node

C = {
    "Users": {"Ann": {"Budget.xlsx": b"7"}, "Short": "C:/DOCUME~1/ann", "Old": "c:/olddocs/ANN"},
    "OldDocs": "C:/users",
    "Lost": "Z:/x/Y",
    "Text": "..\u200b/users",
    "Docs": "D:/",
    "odd": {"CASE.txt": b"1", "case.txt": b"2", "Case.TXT": b"3", "only": b"4"},
}


class Folding(MemoryFileSystem):
    """As NTFS finds names: exactly, else without regard to case if one fits; ``DOCUME~1`` is another name of ``Users``."""

    folds_case = True

    def lookup(self, directory: Node, name: str) -> Node:
        name = {"DOCUME~1": "Users"}.get(name, name)
        entries = {entry.name: entry.node for entry in self.scan(directory)}
        alike = [node for other, node in entries.items() if other.casefold() == name.casefold()]
        if name in entries or len(alike) == 1:
            return entries.get(name, alike[0])
        raise NotFound("no such name in the folder")


def set_of(**content: dict[str, object]) -> FakeSet:
    volumes = FakeSet(content)
    for name in ("c", "d"):
        if name in content:
            volumes._systems[f"id:{name}"] = Folding(content[name])
    return volumes


@pytest.fixture
def tree() -> GuestTree:
    return assemble(set_of(c=C, d={"e": b""}), [windows(mount("C:\\", "c"), mount("D:\\", "d"))])


@pytest.mark.parametrize(
    ("link", "names"),
    [
        ("C:/OldDocs", "C:/Users"),
        ("C:/Users/Short", "C:/Users/Ann"),
        ("C:/Users/Old", "C:/Users/Ann"),
        ("C:/Lost", "Z:/x/Y"),
        ("C:/Docs", "D:"),
    ],
)
def test_where_links_lead(tree: GuestTree, link: str, names: str) -> None:
    assert tree.leads_to(resolve(tree, link)) == names.split("/")


def test_relative_links_and_those_of_linux_say_it_themselves(tree: GuestTree) -> None:
    assert tree.leads_to(resolve(tree, "C:/Text")) is None
    other = assemble(set_of(root={"etc": "/usr/etc", "x": "C:/x"}, c=C), [linux(mount("/win", "c"))])
    assert other.leads_to(resolve(other, "/etc")) is None and other.leads_to(resolve(other, "/x")) is None
    assert other.leads_to(resolve(other, "/win/OldDocs")) == ["C:", "users"]


def test_paths_as_the_folders_spell_them(tree: GuestTree) -> None:
    assert tree.spelled("c:\\USERS\\ann\\budget.XLSX") == ["C:", "Users", "Ann", "Budget.xlsx"]
    assert tree.spelled("C:\\olddocs\\ann\\none") == ["C:", "olddocs", "ann", "none"]
    assert tree.spelled("/") == []


def test_names_read_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "MAX_READ", 1)
    tree = assemble(set_of(c=C), [windows(mount("C:\\", "c"))])
    assert tree.spelled("c:\\users") == ["C:", "users"]


def test_a_folder_that_cannot_be_listed_keeps_what_is_written(tree: GuestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    users = resolve(tree, "C:/Users")

    def scan(self: GuestTree, folder: Node) -> Iterator[Entry]:
        raise ReadFailed("cannot be read")

    monkeypatch.setattr(GuestTree, "scan", scan)
    assert tree.spelled("c:\\users") == ["C:", "users"] and users.kind is FileKind.DIRECTORY


def test_where_case_is_one(tree: GuestTree) -> None:
    assert tree.folds_names(resolve(tree, "C:/odd/only")) and tree.folds_names(tree.root)
    volumes = set_of(root={"etc": {}}, c=C, gone=Unsupported("locked", reason="locked"))
    other = assemble(volumes, [linux(mount("/win", "c"), mount("/gone", "gone"))])
    found = {path: other.folds_names(resolve(other, path)) for path in ("/etc", "/win", "/win/odd/only", "/gone", "/")}
    assert found == {"/etc": False, "/win": True, "/win/odd/only": True, "/gone": False, "/": False}
    plain = VolumeTree(volumes)
    found = {path: plain.folds_names(resolve(plain, path)) for path in ("/", "/c/odd", "/root/etc", "/gone")}
    assert found == {"/": False, "/c/odd": True, "/root/etc": False, "/gone": False}
    assert plain.leads_to(resolve(plain, "/c/OldDocs")) == ["C:", "users"] and plain.spelled("/c//Odd") == ["c", "Odd"]
    with pytest.raises(NotFound, match=r"no volume 'a\\x1b'"):
        resolve(plain, "/a\x1b")


def test_a_name_that_several_could_be(tree: GuestTree) -> None:
    assert resolve(tree, "C:\\odd\\Only").size == 1
    with pytest.raises(NotFound, match="3 that differ from it in case only") as caught:
        resolve(tree, "C:\\odd\\CASE.TXT")
    assert caught.value.path == "/C:/odd/CASE.TXT"
    assert caught.value.hint == "there is 'CASE.txt', 'Case.TXT', 'case.txt'"


def test_a_name_in_another_case_where_that_matters() -> None:
    tree = MemoryFileSystem({"etc": {"Hosts": b""}})
    with pytest.raises(NotFound, match="no such file") as caught:
        resolve(tree, "/etc/hosts", anchor=0)
    assert caught.value.hint == "there is 'Hosts'"
    with pytest.raises(NotFound) as caught:
        resolve(tree, "/etc/none", anchor=0)
    assert caught.value.hint is None
    many = MemoryFileSystem({"a" * count + "A" * (16 - count): b"" for count in range(16)})
    with pytest.raises(NotFound, match="16 that differ") as caught:
        resolve(many, "/" + "a" * 16)
    assert str(caught.value.hint).endswith(", ...") and str(caught.value.hint).count("'") == 20


def test_a_folder_that_turns_bad_says_only_that_the_name_is_not_there() -> None:
    class Bad(MemoryFileSystem):
        def lookup(self, directory: Node, name: str) -> Node:
            raise NotFound("no such file")

    with pytest.raises(NotFound) as caught:
        resolve(Bad({"<unreadable>": b""}), "/none")
    assert caught.value.hint is None


def test_a_link_to_a_drive_that_is_missing(tree: GuestTree) -> None:
    with pytest.raises(NotFound, match="no drive of that letter is on the disks given") as caught:
        resolve(tree, "C:\\Lost\\file")
    assert caught.value.path == "/Z:" and str(caught.value.hint).startswith("/C:/Lost is a link to Z:/x/Y; add the disk")
    with pytest.raises(NotFound, match="no such") as caught:
        resolve(tree, "/none")
    assert "link" not in str(caught.value.hint) and parts_of("C:\\Lost", tree) == ["C:", "Lost"]
