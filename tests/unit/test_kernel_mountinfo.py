"""The parser of the mount table. The lines are what kernels wrote; the escapes are those of proc(5)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mntapi.errors import Failed
from mntapi.kernel import mountinfo
from mntapi.kernel.mountinfo import Mount, canonical, is_below, mount_at, mounts, mounts_under, parse

ODD = rb"/mnt/with\040space\011tab\012newline\134backslash"
TABLE = b"\n".join(
    [
        b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard",
        b"23 22 0:21 / /proc rw - proc proc rw",
        b"30 22 0:40 / " + ODD + rb" ro,nosuid,nodev,noexec master:2 propagate_from:3 - fuse.mntapi a,b\040c ro,user_id=0",
        b"31 30 7:0 /sub " + ODD + b"/inner ro shared:4 - xfs /dev/loop0 ro,norecovery",
        b"32 22 0:41 / /mnt/stack rw - tmpfs lower rw",
        b"33 32 0:42 / /mnt/stack rw - tmpfs upper rw",
        b"34 22 0:43 / /mnt/stackling rw - tmpfs other rw",
        b"35 22 0:44 / /mnt/\xff rw - tmpfs  rw",
        b"",
    ]
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mount]:
    path = tmp_path / "mountinfo"
    path.write_bytes(TABLE)
    monkeypatch.setattr(mountinfo, "MOUNTINFO", str(path))
    return mounts()


def test_fields(table: list[Mount]) -> None:
    assert table[2] == Mount(
        mount_id=30,
        parent_id=22,
        device=(0, 40),
        root="/",
        target="/mnt/with space\ttab\nnewline\\backslash",
        options=("ro", "nosuid", "nodev", "noexec"),
        kind="fuse.mntapi",
        source="a,b c",
        super_options=("ro", "user_id=0"),
    )
    assert table[3].root == "/sub"
    assert [mount.read_only for mount in table] == [False, False, True, True, False, False, False, False]


def test_bytes_that_are_no_text(table: list[Mount]) -> None:
    assert os.fsencode(table[-1].target) == b"/mnt/\xff"
    assert table[-1].source == ""


def test_the_top_of_a_stack(table: list[Mount]) -> None:
    top = mount_at("/mnt/stack")
    assert top is not None and top.source == "upper"
    assert mount_at("/mnt") is None


def test_below_in_the_order_of_unmounting(table: list[Mount]) -> None:
    assert [mount.source for mount in mounts_under("/mnt/stack")] == ["upper", "lower"]
    assert [mount.mount_id for mount in mounts_under("/mnt/with space\ttab\nnewline\\backslash")] == [31, 30]
    assert {mount.mount_id for mount in mounts_under("/")} == set(range(30, 36)) | {22, 23}
    assert mounts_under("/")[-1].target == "/"


def test_parents_in_a_circle_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(b"1 2 0:1 / /a rw - t s rw\n2 1 0:2 / /a/b rw - t s rw\n3 3 0:3 / /a/c rw - t s rw\n")
    monkeypatch.setattr(mountinfo, "MOUNTINFO", str(path))
    assert {mount.mount_id for mount in mounts_under("/a")} == {1, 2, 3}


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"1 2 0:1 / /a rw no separator",
        b"x 2 0:1 / /a rw - t s rw",
        b"1 2 0-1 / /a rw - t s rw",
        b"1 2 - t s rw",
        b"1 2 0:1 / /a rw - t",
    ],
)
def test_lines_that_are_none(line: bytes) -> None:
    with pytest.raises(Failed, match="cannot be understood") as caught:
        parse(line)
    assert caught.value.found == line


def test_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountinfo, "MOUNTINFO", str(tmp_path / "nowhere"))
    with pytest.raises(Failed, match="cannot be read") as caught:
        mounts()
    assert caught.value.hint == "mount -t proc proc /proc"


@pytest.mark.parametrize(
    ("path", "folder", "answer"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/a/b", "/a/", True),
    ],
)
def test_is_below(path: str, folder: str, answer: bool) -> None:
    assert is_below(path, folder) is answer


def test_canonical(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert canonical(str(tmp_path / "link")) == str(tmp_path / "real")
    assert canonical(str(tmp_path / "link" / "not there")) == str(tmp_path / "real" / "not there")
    assert canonical("/") == "/"
