"""Which original an overlay is of: noted by who made it, and by nobody else.

Oracle: the kernel, for what was opened and for who may read what.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mntapi.images.formats import open_image
from mntapi.images.qcow2.create import create_overlay
from mntapi.session import originals
from mntapi.session.originals import ATTRIBUTE, STATE_DIR_VARIABLE, remember, remembered
from mntapi.session.overlay import OriginalsOpener
from mntapi.session.overlay_file import overlay_info
from mntapi.types import DiskSpec


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(tmp_path / "state/mntapi"))
    return tmp_path / "state/mntapi"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The original, whose name is as long as ``secret``'s."""
    path = tmp_path / "source"
    path.write_bytes(bytes(65536))
    path.with_name("secret").write_bytes(b"secret".ljust(65536))
    return path


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    (tmp_path / "o").mkdir()
    return tmp_path / "o/ov"


def make(overlay: Path, disk: Path) -> OriginalsOpener:
    """An overlay in another folder than its original, nothing noted yet; what opened the original."""
    opener = OriginalsOpener()
    fd = os.open(overlay, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    create_overlay(fd, str(overlay), open_image(DiskSpec(str(disk)), opener)).close()
    return opener


def rename_in_header(overlay: Path, old: Path, new: Path) -> None:
    assert len(str(old)) == len(str(new))
    content = overlay.read_bytes()
    assert content.count(os.fsencode(old)) == 1
    overlay.write_bytes(content.replace(os.fsencode(old), os.fsencode(new)))


def test_noted_by_the_one_who_made_it(overlay: Path, disk: Path, state: Path) -> None:
    opener = make(overlay, disk)
    assert remembered(str(overlay)) is None
    assert not state.exists()  # asking makes no key
    remember([str(overlay)], opener, [])
    assert remembered(str(overlay)) == str(disk)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [(path.name, stat.S_IMODE(path.stat().st_mode), path.stat().st_size) for path in state.iterdir()] == [
        ("key", 0o600, 32)
    ]
    before = (state / "key").read_bytes()
    remember([str(overlay)], opener, [])
    assert (state / "key").read_bytes() == before


def test_a_note_by_another_opens_nothing(overlay: Path, disk: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the file, or the file system it is on, knows its inode number and may set its attributes."""
    secret = disk.with_name("secret")
    remember([str(overlay)], make(overlay, disk), [])
    ours = os.getxattr(overlay, ATTRIBUTE)
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(state.with_name("theirs")))
    assert remembered(str(overlay)) is None  # another user's key
    remember([str(overlay)], make(overlay.with_name("2"), disk), [])
    theirs = os.getxattr(overlay, ATTRIBUTE)
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(state))
    rename_in_header(overlay, disk, secret)
    plain = f"{overlay.stat().st_ino} {overlay_info(str(overlay)).original}".encode()
    for note in plain, ours, theirs, b"", bytes(32):
        os.setxattr(overlay, ATTRIBUTE, note)
        assert remembered(str(overlay)) is None
    rename_in_header(overlay, secret, disk)
    os.setxattr(overlay, ATTRIBUTE, ours)
    assert remembered(str(overlay)) == str(disk)


def test_what_the_note_counts_for(overlay: Path, disk: Path) -> None:
    opener = make(overlay, disk)
    remember([str(overlay)], opener, [])
    copy = overlay.with_name("copy")
    copy.write_bytes(overlay.read_bytes())
    os.setxattr(copy, ATTRIBUTE, os.getxattr(overlay, ATTRIBUTE))
    assert remembered(str(copy)) is None
    overlay = overlay.rename(overlay.with_name("moved"))
    assert remembered(str(overlay)) == str(disk)
    overlay.write_bytes(overlay.read_bytes().replace(b"raw", b"vdi", 1))  # what a guest wrote, read as a disk format
    assert remembered(str(overlay)) is None


def test_a_relative_name_elsewhere_is_another(overlay: Path, disk: Path, tmp_path: Path) -> None:
    inside = overlay.with_name("inside")
    inside.write_bytes(disk.read_bytes())
    remember([str(overlay)], make(overlay, inside), [])
    assert overlay_info(str(overlay)).original == "inside" and remembered(str(overlay)) == str(inside)
    assert remembered(str(overlay.rename(tmp_path / "ov"))) is None


def test_a_link_that_is_put_in_its_place_is_not_followed(overlay: Path, disk: Path) -> None:
    remember([str(overlay)], make(overlay, disk), [])
    disk.rename(disk.with_name("aside"))
    disk.symlink_to("secret")
    assert remembered(str(overlay)) is None


@pytest.fixture
def leased(disk: Path) -> Iterator[int]:
    """``secret``, leased: the kernel begins to take the lease back as soon as anybody opens the file (fcntl(2))."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(disk.with_name("secret"), os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    yield fd
    os.close(fd)
    signal.signal(signal.SIGIO, before)


def test_what_the_worker_names_is_not_opened(overlay: Path, disk: Path, leased: int) -> None:
    opener = make(overlay, disk)
    rename_in_header(overlay, disk, disk.with_name("secret"))
    remember([str(overlay)], opener, [])
    assert ATTRIBUTE not in os.listxattr(overlay)
    assert fcntl.fcntl(leased, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    with pytest.raises(BlockingIOError):  # what the lease would have told
        os.open(disk.with_name("secret"), os.O_RDONLY | os.O_NONBLOCK)
    assert fcntl.fcntl(leased, fcntl.F_GETLEASE) != fcntl.F_WRLCK


def test_no_link_is_followed_to_the_overlay(overlay: Path, disk: Path) -> None:
    opener = make(overlay, disk)
    real = overlay.rename(overlay.with_name("real"))
    overlay.symlink_to("real")
    remember([str(overlay), str(overlay.with_name("gone"))], opener, [])
    assert ATTRIBUTE not in os.listxattr(real)
    remember([str(real)], opener, [])
    assert remembered(str(overlay)) == str(disk)  # the user may name a link


def test_a_file_that_is_no_overlay_is_left_alone(overlay: Path, disk: Path) -> None:
    opener = make(overlay, disk)
    overlay.write_bytes(b"QFI\xfb")
    remember([str(overlay)], opener, [])
    assert ATTRIBUTE not in os.listxattr(overlay)


def test_a_server_that_the_user_named(overlay: Path, disk: Path) -> None:
    url = "nbd://h/".ljust(len(str(disk)), "x")
    opener = make(overlay, disk)
    overlay.write_bytes(overlay.read_bytes().replace(os.fsencode(disk), url.encode()))
    remember([str(overlay)], opener, [str(disk)])
    assert remembered(str(overlay)) is None
    remember([str(overlay)], opener, [url])
    assert remembered(str(overlay)) == url


def no_folder(state: Path) -> None:
    state.rmdir()
    state.touch()


def a_link(state: Path) -> None:
    state.rename(state.with_name("real"))
    state.symlink_to("real")


def a_link_to_a_key(state: Path) -> None:
    (state.parent / "key").write_bytes(bytes(32))
    (state.parent / "key").chmod(0o600)
    (state / "key").symlink_to("../key")


def a_key(content: bytes, mode: int, folder: int = 0o700, uid: int = -1) -> Callable[[Path], None]:
    def prepare(state: Path) -> None:
        (state / "key").write_bytes(content)
        (state / "key").chmod(mode)
        state.chmod(folder)
        if uid >= 0:
            os.chown(state / "key", uid, uid)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "is_fine"),
    [
        (a_key(bytes(32), 0o600), True),
        (a_key(bytes(32), 0o400, 0o755), True),
        (no_folder, False),
        (a_link, False),
        (a_link_to_a_key, False),
        (a_key(bytes(32), 0o600, 0o770), False),
        (a_key(bytes(32), 0o600, 0o702), False),
        (a_key(bytes(32), 0o640), False),
        (a_key(bytes(32), 0o604), False),
        (a_key(bytes(31), 0o600), False),
        (a_key(bytes(33), 0o600), False),
        (a_key(b"", 0o600), False),
        pytest.param(
            a_key(bytes(32), 0o600, uid=65534),
            False,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_whose_key_it_is(overlay: Path, disk: Path, state: Path, prepare: Callable[[Path], None], *, is_fine: bool) -> None:
    """No key that only the user can know: nothing is noted, and nothing remembered."""
    state.mkdir(parents=True, mode=0o700)
    prepare(state)
    remember([str(overlay)], make(overlay, disk), [])
    assert (ATTRIBUTE in os.listxattr(overlay)) is is_fine
    assert (remembered(str(overlay)) is not None) is is_fine


def test_a_key_that_another_command_made_meanwhile_is_kept(state: Path) -> None:
    state.mkdir(parents=True)
    originals._make_key(state / "key")
    first = (state / "key").read_bytes()
    originals._make_key(state / "key")
    assert (state / "key").read_bytes() == first != bytes(32)
    assert [path.name for path in state.iterdir()] == ["key"]


@pytest.mark.parametrize(
    ("uid", "environment", "want"),
    [
        (0, {"XDG_STATE_HOME": "/home/u/state", "HOME": "/home/u"}, "/var/lib/mntapi"),  # sudo may keep them
        (1000, {"XDG_STATE_HOME": "/home/u/state", "HOME": "/home/u"}, "/home/u/state/mntapi"),
        (1000, {"XDG_STATE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.local/state/mntapi"),
        (1000, {"HOME": "/home/u"}, "/home/u/.local/state/mntapi"),
        (0, {STATE_DIR_VARIABLE: "/elsewhere"}, "/elsewhere"),
    ],
)
def test_where_the_key_is(monkeypatch: pytest.MonkeyPatch, uid: int, environment: dict[str, str], want: str) -> None:
    for name in (STATE_DIR_VARIABLE, "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert originals._state_dir() == Path(want)
