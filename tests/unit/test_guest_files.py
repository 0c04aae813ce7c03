"""Reading a guest's files by path: links, limits, and what is looked for in vain."""

from __future__ import annotations

import errno

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.blocks import read
from mntapi.errors import Corrupt, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.guests import files
from mntapi.guests.files import Below, GuestFiles, LinkLoop, exists, find, listdir, one_line, open_file, read_bytes, read_text
from mntapi.guests.linux.joined import Joined
from mntapi.types import FileKind
from mntapi.units import GIB

TREE = {
    "etc": {"hostname": b"box\n", "up": "../../../../etc/hostname", "abs": "/etc/hostname", "Fold": {"File.TXT": b"x"}},
    "loop": "loop",
    "a": "b",
    "b": "a/x",
    "dir": "/etc/",
    "fifo": b"",
    "bad": {"there": b"1", "<unreadable>": b""},
    "text": b"\xef\xbb\xbfcaf\xe9",
}


class Huge(Memory):
    """A file that says it is 4 GiB and is never read."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.size = 4 * GIB

    def readinto(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nobody may read this")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "etc//./hostname", "/etc/up", "/etc/abs", "/dir/hostname", "/../etc/hostname"]
)
def test_every_way_leads_to_the_file_and_none_above_the_root(path: str) -> None:
    assert read_text(MemoryFileSystem(TREE), path, 100) == "box\n"


def test_a_link_at_the_end_is_kept_if_asked() -> None:
    fs = MemoryFileSystem(TREE)
    assert find(fs, "/etc/abs", follow_last=False).kind is FileKind.SYMLINK
    assert find(fs, "/").inode == fs.root.inode


@pytest.mark.parametrize("path", ["/loop", "/loop/x", "/a"])
def test_link_loops_end(path: str) -> None:
    with pytest.raises(LinkLoop, match="too many symbolic links") as caught:
        find(MemoryFileSystem(TREE), path)
    assert caught.value.errno == errno.ELOOP and caught.value.hint


def test_a_path_that_grows_ends() -> None:
    """Each hop makes the path longer; the number of hops is what is limited."""
    with pytest.raises(LinkLoop):
        find(MemoryFileSystem({"x": "/x/" + "y/" * 2000}), "/x")
    with pytest.raises(Corrupt, match="a path is too long"):
        find(MemoryFileSystem({"x": "y/" * 3000}), "/x")
    with pytest.raises(Corrupt, match="a path is too long"):
        find(MemoryFileSystem({}), "/" + "a" * files.MAX_PATH)


def test_a_path_of_too_many_names_ends() -> None:
    with pytest.raises(LinkLoop, match="too many names"):
        find(MemoryFileSystem({"a": {}}), "/a/" + "../a/" * 300)


def test_what_is_missing_says_where() -> None:
    fs = MemoryFileSystem(TREE)
    with pytest.raises(NotFound) as missing:
        find(fs, "/etc/none/deeper")
    assert missing.value.path == "/etc/none"
    with pytest.raises(NotADirectory) as no_folder:
        find(fs, "/etc/hostname/x")
    assert no_folder.value.path == "/etc/hostname"
    assert not exists(fs, "/etc/none") and not exists(fs, "/text/x") and exists(fs, "/etc")


def test_folding_takes_names_of_another_case_and_backslashes() -> None:
    fs = MemoryFileSystem(TREE)
    assert read_bytes(fs, "\\ETC\\fold\\file.txt", 10, fold=True) == b"x"
    assert not exists(fs, "/ETC/hostname")
    with pytest.raises(NotFound):
        find(fs, "/ETC/none", fold=True)


def test_folding_gives_up_in_a_folder_of_too_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_NAMES", 2)
    with pytest.raises(Unsupported, match="too many names"):
        find(MemoryFileSystem(TREE), "/TEXT", fold=True)


def test_a_file_longer_than_its_limit_is_not_read() -> None:
    fs = MemoryFileSystem({"etc": {"fstab": Huge(), "ok": b"12345"}})
    with pytest.raises(Unsupported, match="too large") as caught:
        read_bytes(fs, "/etc/fstab", 1 << 20)
    assert (caught.value.path, caught.value.reason) == ("/etc/fstab", files.TOO_LARGE)
    assert read_bytes(fs, "/etc/ok", 5) == b"12345"


def test_what_is_no_file_is_not_opened() -> None:
    fs = MemoryFileSystem(TREE)
    node = find(fs, "/fifo")._replace(kind=FileKind.FIFO)
    fs._nodes[node.inode] = node
    with pytest.raises(IsADirectory, match="/etc"):
        open_file(fs, "/etc")
    with pytest.raises(Invalid, match="is no file but a fifo"):
        open_file(fs, "/fifo")


def test_errors_of_the_storage_name_the_file() -> None:
    class Failing(Memory):
        def readinto(self, offset: int, buffer: memoryview) -> None:
            raise ReadFailed("cannot be read", offset=0)

    fs = MemoryFileSystem({"f": Failing(b"1234"), "efs": b""}, metadata={"efs": {"reason": "efs"}})
    with pytest.raises(ReadFailed) as caught:
        read_bytes(fs, "/f", 10)
    assert caught.value.path == "/f"
    with pytest.raises(Unsupported) as encrypted:
        open_file(fs, "/efs")
    assert encrypted.value.path == "/efs"


def test_open_file_reads_lazily() -> None:
    content = open_file(MemoryFileSystem(TREE), "/etc/hostname")
    assert read(content, 1, 2) == b"ox"


def test_text_loses_its_byte_order_mark_and_keeps_all_bytes() -> None:
    assert read_text(MemoryFileSystem(TREE), "/text", 100) == "caf\udce9"


def test_listdir_has_a_limit_and_says_what_it_cannot_read() -> None:
    fs = MemoryFileSystem(TREE)
    assert [entry.name for entry in listdir(fs, "/dir")] == ["hostname", "up", "abs", "Fold"]
    with pytest.raises(Unsupported, match="too many names"):
        listdir(fs, "/etc", 3)
    with pytest.raises(ReadFailed) as caught:
        listdir(fs, "/bad")
    assert caught.value.path == "/bad"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n \n box \nmore", "box"),
        ("\x1b]0;title\x07evil", "]0;titleevil"),
        ("a\x9bb\x7fc", "abc"),
        ("", None),
        ("\x1b\n\x00", None),
        ("x" * 1000, "x" * files.MAX_VALUE),
    ],
)
def test_one_line_is_one_line_without_control_characters(text: str, line: str | None) -> None:
    assert one_line(text) == line


def test_below_is_a_file_system_of_its_own() -> None:
    fs = MemoryFileSystem({"deploy": {"etc": "usr/etc", "usr": {"etc": {"f": b"1"}}, "out": "/../../top"}, "top": b"secret"})
    below = Below(fs, find(fs, "/deploy"))
    assert read_bytes(below, "/etc/f", 10) == b"1"
    assert not exists(below, "/out") and not exists(below, "/../top")
    assert [entry.name for entry in listdir(below, "/")] == ["etc", "usr", "out"]
    assert below.node(below.root.inode) == below.root
    assert (below.xattrs(below.root), below.capacity(), below.kind) == ({}, fs.capacity(), "memory")
    below.close()
    with pytest.raises(NotADirectory):
        Below(fs, find(fs, "/top"))


def test_looking_around_collects_reasons() -> None:
    fs = MemoryFileSystem({**TREE, "large": Huge()})
    found = GuestFiles(fs)
    assert found.text("/none", 10) is None and found.content("/etc", 10) is None and found.names("/none") == []
    assert found.line("/none") is None and found.link("/etc/hostname") is None and not found.has("/etc/hostname/x")
    assert found.reasons == []
    assert found.text("/large", 10) is None and found.content("/large", 10) is None
    assert found.node("/loop") is None and found.names("/bad") == []
    assert found.line("/etc/hostname") == "box" and found.link("/etc/abs") == "/etc/hostname"
    assert [reason.partition(":")[0] for reason in found.reasons] == ["/large", "/loop", "/bad"]


def test_reasons_have_a_limit() -> None:
    found = GuestFiles(MemoryFileSystem({}))
    for number in range(files.MAX_REASONS + 5):
        found.note(Corrupt("broken"), f"/{number}")
    assert len(found.reasons) == files.MAX_REASONS


def test_a_link_that_cannot_be_read_is_a_reason() -> None:
    class Broken(MemoryFileSystem):
        def readlink(self, link: object) -> str:
            raise Corrupt("the target is too long")

    found = GuestFiles(Broken(TREE))
    assert found.link("/loop") is None
    assert found.reasons == ["/loop: the target is too long"]


def joined() -> Joined:
    root = MemoryFileSystem({"usr": {}, "data": {"pub": {"old": b""}}, "srv": {}, "bin": "usr/bin", "etc": {"x": "/usr/lib/x"}})
    tree = Joined(root)
    tree.mount("/usr", MemoryFileSystem({"bin": {"sh": b"#!"}, "lib": {"x": "../../etc/../usr/lib/y", "y": b"deep"}}))
    tree.bind("/srv", "/data/pub")
    return tree


def test_joined_file_systems_are_one_tree() -> None:
    tree = joined()
    assert read_bytes(tree, "/bin/sh", 10) == b"#!"
    assert read_bytes(tree, "/etc/x", 10) == b"deep"
    assert exists(tree, "/srv/old")
    assert [entry.name for entry in listdir(tree, "/usr")] == ["bin", "lib"]
    sh = find(tree, "/usr/bin/sh")
    assert tree.node(sh.inode) == sh and tree.xattrs(sh) == {} and tree.capacity().total
    tree.close()


def test_joined_refuses_what_makes_no_sense() -> None:
    tree = joined()
    with pytest.raises(NotFound):
        tree.mount("/none", MemoryFileSystem({}))
    with pytest.raises(NotFound):
        tree.node(99 << 56)
    tree.bind("/srv", "/srv")
    assert exists(tree, "/srv/old")
    wide = MemoryFileSystem({})
    wide.root = wide.root._replace(inode=1 << 60)
    with pytest.raises(Corrupt, match="wider"):
        tree.mount("/srv", wide)


def test_bound_into_itself_ends() -> None:
    tree = Joined(MemoryFileSystem({"a": {"b": {"f": b"1"}}}))
    tree.bind("/a/b", "/a")
    with pytest.raises(MntapiError):
        find(tree, "/a/b/" * 100 + "none")
