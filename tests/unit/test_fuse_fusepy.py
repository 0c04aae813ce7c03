"""The libfuse adapter without a mount; with one it is in the conformance tests."""

from __future__ import annotations

import errno
import os
import types

import pytest

from contract.memory_filesystem import MemoryFileSystem
from mntapi.errors import Failed, Unsupported
from mntapi_fuse import fusepy_backend
from mntapi_fuse.fusepy_backend import _Paths
from mntapi_fuse.treefs import TreeFs


def paths(**content: object) -> _Paths:
    return _Paths(TreeFs(MemoryFileSystem(content)), None)


def test_without_libfuse_3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, types.SimpleNamespace(fuse_version_major=2)):
        monkeypatch.setattr(fusepy_backend, "mfusepy", found)
        with pytest.raises(Unsupported) as raised:
            fusepy_backend.serve(0, TreeFs(MemoryFileSystem({})))
        assert "libfuse3" in str(raised.value.hint)


@pytest.mark.parametrize("minor", [10, 14])
def test_a_mount_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    given: dict[str, object] = {}

    def refuse(paths: object, mountpoint: str, **options: object) -> None:
        given.update(options, mountpoint=mountpoint)
        raise RuntimeError(1)

    monkeypatch.setattr(
        fusepy_backend, "mfusepy", types.SimpleNamespace(fuse_version_major=3, fuse_version_minor=minor, FUSE=refuse)
    )
    with pytest.raises(Failed, match="status 1"):
        fusepy_backend.mount_and_serve(TreeFs(MemoryFileSystem({})), "/mnt", threads=1)
    assert given["ro"] is given["nosuid"] is given["nodev"] is given["noexec"] is given["nothreads"] is True
    assert ("max_threads" in given) == (minor >= 12)
    with pytest.raises(Failed):
        fusepy_backend.serve(5, TreeFs(MemoryFileSystem({})))
    assert given["mountpoint"] == "/dev/fd/5"


def test_errors_keep_their_errno_and_defects_are_eio(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = paths(file=b"x", folder={"inner": b"yy"})
    for path, number in (("/absent", errno.ENOENT), ("/file/below", errno.ENOTDIR)):
        with pytest.raises(OSError) as raised:
            tree.getattr(path)
        assert raised.value.errno == number
    monkeypatch.setattr(tree, "_numbers", None)
    with pytest.raises(OSError) as raised:
        tree.getattr("/file")
    assert raised.value.errno == errno.EIO


def test_paths_are_resolved_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusepy_backend, "MAX_PATHS", 3)
    tree = paths(folder={"one": {"two": b"yy"}}, other=b"")
    for _ in range(2):
        assert tree.getattr("/folder/one/two")["st_size"] == 2
        assert tree.getattr("/other")["st_size"] == 0
        assert len(tree._numbers) <= 3


def test_files_are_read_by_handle_or_anew() -> None:
    tree = paths(file=b"0123456789")
    handle = tree.open("/file", os.O_RDONLY)
    assert tree.read("/file", 4, 8, handle) == b"89"
    tree.release("/file", handle)
    assert tree.read("/file", 4, 0, handle) == b"0123"
    tree.close()


def test_ready_is_told_once() -> None:
    told: list[int] = []
    tree = _Paths(TreeFs(MemoryFileSystem({})), lambda: told.append(1))
    tree.init("/")
    tree.init("/")
    assert told == [1]
