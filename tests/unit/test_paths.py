"""Paths inside a tree: links stay inside, trouble is named with its place."""

from __future__ import annotations

import errno

import pytest

from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import NotADirectory, NotFound
from mntapi.guests.files import LinkLoop
from mntapi.session.paths import parts_of, resolve

VOLUME = {
    "etc": {"os-release": "../usr/lib/os-release", "passwd": b"root", "shadow": "/etc/passwd", "out": "../../../../etc/passwd"},
    "usr": {"lib": {"os-release": b"NAME=Debian"}},
    "lib": "usr/lib",
    "loop": "loop",
    "ping": "pong",
    "pong": "ping",
    "host": "/",
}
TREE = MemoryFileSystem({"disk0p1": VOLUME, "disk0p2": {"etc": {"passwd": b"other"}}})


def content(path: str, **options: object) -> bytes:
    return TREE._content[resolve(TREE, path, **options).inode]


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/disk0p1/etc/passwd", b"root"),
        ("disk0p1//etc/./passwd", b"root"),
        ("/disk0p1/lib/os-release", b"NAME=Debian"),
        ("/disk0p1/etc/os-release", b"NAME=Debian"),
        ("/disk0p1/etc/shadow", b"root"),
        ("/disk0p1/etc/out", b"root"),
        ("/disk0p1/usr/../etc/passwd", b"root"),
        ("/disk0p1/../../disk0p1/etc/passwd", None),
        ("/disk0p1/host/host/etc/passwd", b"root"),
    ],
)
def test_links_stay_in_their_volume(path: str, want: bytes | None) -> None:
    if want is None:
        with pytest.raises(NotFound):
            content(path, follow_last=True)
    else:
        assert content(path, follow_last=True) == want


def test_the_last_link_is_followed_only_when_asked() -> None:
    assert content("/disk0p1/lib") == "usr/lib"
    assert "os-release" in content("/disk0p1/lib", follow_last=True)


def test_root_and_parts() -> None:
    assert resolve(TREE, "/") is TREE.root
    assert parts_of("//a/./b/") == ["a", "b"]


@pytest.mark.parametrize("name", ["loop", "ping"])
def test_links_that_loop(name: str) -> None:
    with pytest.raises(LinkLoop, match="too many symbolic links") as caught:
        resolve(TREE, f"/disk0p1/{name}", follow_last=True)
    assert caught.value.errno == errno.ELOOP and caught.value.hint


def test_errors_name_the_part_that_is_the_trouble() -> None:
    with pytest.raises(NotFound) as caught:
        resolve(TREE, "/disk0p1/etc/absent/more")
    assert caught.value.path == "/disk0p1/etc/absent"
    with pytest.raises(NotADirectory) as caught:
        resolve(TREE, "/disk0p1/etc/passwd/more")
    assert caught.value.path == "/disk0p1/etc/passwd"
