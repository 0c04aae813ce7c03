"""The new file: what it never replaces, and that nothing of it is left when something fails."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mntapi.blocks import HostFile, Zero
from mntapi.errors import Denied, Failed, MntapiError, NotFound
from mntapi.export import ConvertOptions, convert
from mntapi.export.newfile import new_file
from mntapi.units import MIB, TIB


def write(path: Path, content: bytes = b"new", **options: object) -> None:
    with new_file(str(path), **options) as file:
        file.write(0, content)


def forbid_nameless(monkeypatch: pytest.MonkeyPatch, number: int = errno.EOPNOTSUPP) -> None:
    """A file system where every file has a name, such as FAT."""
    real = os.open

    def opened(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)


@pytest.mark.parametrize("nameless", [True, False])
def test_it_has_its_name_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        forbid_nameless(monkeypatch, errno.EISDIR)
    with new_file(str(tmp_path / "out")) as file:
        file.write(0, b"all")
        drafts = os.listdir(tmp_path)
        assert nameless or [name[-5:] for name in drafts] == [".part"]  # not every file system a test runs on has them
        assert "out" not in drafts
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"all"
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    for overwrite in (False, None):  # None: who made the file cannot be asked to replace it
        with pytest.raises(Denied, match="is there already") as caught:
            write(out, overwrite=overwrite)
        assert ("--overwrite" in str(caught.value.hint)) is (overwrite is False) and out.read_bytes() == b"old"
    out.chmod(0o640)
    write(out, overwrite=True)
    assert out.read_bytes() == b"new" and os.listdir(tmp_path) == ["out"] and out.stat().st_mode & 0o777 == 0o640


def test_a_file_that_came_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(Denied, match="is there already"), new_file(str(out)):
        out.write_bytes(b"theirs")
    monkeypatch.setattr("mntapi.export.newfile._check_free", lambda *arguments: None)  # it comes between look and link
    with pytest.raises(Failed, match="File exists"):
        write(out)
    assert out.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_only_regular_files_are_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    with pytest.raises(Denied, match="no regular file"):
        write(tmp_path / "out", overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


def test_an_original_is_not_replaced_under_any_name(tmp_path: Path) -> None:
    original, other = tmp_path / "original", tmp_path / "other"
    original.write_bytes(b"precious")
    os.link(original, other)
    for path in (original, other):
        with pytest.raises(Denied, match="never written") as caught:
            write(path, overwrite=True, originals=[str(original), "nbd://server/disk"])
        assert caught.value.reason == "original"
    source = HostFile.open(str(original))  # nobody says that it is one, but it is open
    with pytest.raises(Denied, match="never written"):
        convert(source, str(other), ConvertOptions("raw", overwrite=True))
    source.close()
    assert original.read_bytes() == other.read_bytes() == b"precious" and len(os.listdir(tmp_path)) == 2


def test_an_original_that_takes_the_name_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    original, out = tmp_path / "original", tmp_path / "out"
    original.write_bytes(b"precious")
    with pytest.raises(Denied, match="never written"), new_file(str(out), overwrite=True, originals=[str(original)]):
        os.link(original, out)
    assert out.read_bytes() == b"precious"


def test_without_proc_it_has_a_name_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with new_file(str(tmp_path / "out")):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["out"]


def test_without_proc_nothing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file", path)

    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Failed, match="which files are open"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_bytes() == b"old"


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        write(tmp_path / "absent" / "out")
    (tmp_path / "file").touch()
    with pytest.raises(Failed, match="Not a directory"):
        write(tmp_path / "file" / "out")


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="name too long"):
        write(tmp_path / ("n" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Denied, match="Permission denied"):
        write(tmp_path / "out")
    tmp_path.chmod(0o700)


def test_what_the_medium_has_leaves_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advice twice for all but the end: the first begins to write, the second, when that is over, gives the memory back."""
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr("mntapi.export.newfile._WRITEBACK", MIB)
    monkeypatch.setattr("mntapi.export.newfile._BEHIND", 4 * MIB)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, length, advice: advised.append((at, at + length)))
    with new_file(str(tmp_path / "out")) as file:
        for at in range(0, 16 * MIB, MIB // 4):
            file.write(at, bytes(MIB // 4))
    assert all(start == max(0, end - 5 * MIB) for start, end in advised)
    for at in range(0, 11 * MIB, MIB):
        assert sum(start <= at and at + MIB <= end for start, end in advised) == 5


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over 4 MiB, as if the medium were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_no_room(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot be written") as caught:
        write(tmp_path / "out", b"x" * 5 * MIB)
    assert (caught.value.errno, caught.value.offset) == (errno.EFBIG, 4 * MIB)
    with pytest.raises(Failed, match="too large"):
        convert(Zero(TIB), str(tmp_path / "out"), ConvertOptions("raw"))
    assert os.listdir(tmp_path) == []


FAILING: list[tuple[str, int, type[MntapiError]]] = [
    ("os.open", errno.EROFS, Denied),
    ("os.open", errno.ENOSPC, Failed),
    ("os.fsync", errno.EIO, Failed),
    ("os.link", errno.ENOSPC, Failed),
]


@pytest.mark.parametrize(("call", "number", "kind"), FAILING)
def test_calls_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(kind, match="cannot be written"):
            write(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def _fail_for_folders(number: int) -> Callable[[int], None]:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        real(fd)

    return fsync


def test_folders_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems cannot; an I/O error is another thing."""
    monkeypatch.setattr(os, "fsync", _fail_for_folders(errno.EINVAL))
    write(tmp_path / "out")
    monkeypatch.setattr(os, "fsync", _fail_for_folders(errno.EIO))
    with pytest.raises(Failed, match="cannot be written"):
        write(tmp_path / "second")


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    forbid_nameless(monkeypatch)
    monkeypatch.setattr(os, "link", link)
    write(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
