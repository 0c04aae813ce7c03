"""``cp -a``. Oracle: the kernel's mount of the same file system, and what cp(1) makes of it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from contract.mounting import mounted, need, need_root, run

TIME = 1_600_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, as setcap(8) writes it


def fill(top: Path) -> None:
    """Whatever a Unix file can be, and how it can be marked."""
    (top / "bin").mkdir()
    (top / "bin/su").write_bytes(b"#!" * 3000)
    os.link(top / "bin/su", top / "bin/another name")
    os.link(top / "bin/su", top / "hard link above")
    (top / "bin/ping").write_bytes(b"ping")
    os.setxattr(top / "bin/ping", "security.capability", CAPABILITY)
    for name in ("one", "two"):
        (top / name).write_text("the same, but not one file")
    os.setxattr(top / "one", "user.comment", b"\xff\0 bytes")
    run("setfacl", "-m", "u:1234:rw,g:77:r", top / "two")
    (top / "shared").mkdir()
    run("setfacl", "-d", "-m", "u:1234:rwx", top / "shared")
    os.symlink("../../etc/passwd", top / "link")
    os.setxattr(top / "link", "trusted.of-a-link", b"kept", follow_symlinks=False)
    os.link(top / "link", top / "second link", follow_symlinks=False)
    os.mkfifo(top / "pipe")
    os.mknod(top / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(top / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    (top / "none may write").write_text("")
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.chown(path, 1000 + number, 70_000, follow_symlinks=False)
        if path.name == "ping":
            os.setxattr(path, "security.capability", CAPABILITY)  # gone with the change of owner
    (top / "bin/su").chmod(0o6755)
    (top / "none may write").chmod(0o400)
    (top / "shared").chmod(0o1777)
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, ns=(TIME, TIME - len(path.name)), follow_symlinks=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need("mkfs.ext4", "setfacl")
    path = tmp_path_factory.mktemp("archive") / "all.raw"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ext4", "-q", path)
    with mounted(path, "rw") as top:
        (top / "lost+found").rmdir()
        fill(top)
    return path


def told(top: Path) -> dict[str, tuple[object, ...]]:
    """All that lstat(2), read(2), readlink(2) and getxattr(2) say; of hard links, which names are one file."""
    found: dict[str, tuple[object, ...]] = {}
    firsts: dict[int, str] = {}
    for path in sorted(top.rglob("*")):
        name, status = str(path.relative_to(top)), path.lstat()
        is_folder = stat.S_ISDIR(status.st_mode)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = _digest(path)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        attributes = {one: os.getxattr(path, one, follow_symlinks=False) for one in os.listxattr(path, follow_symlinks=False)}
        first = name if is_folder or status.st_nlink == 1 else firsts.setdefault(status.st_ino, name)
        times = status.st_mtime_ns, status.st_atime_ns if stat.S_ISREG(status.st_mode) else None  # reading changes it
        found[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, times, content, attributes, first)
    return found


def _digest(path: Path) -> str:
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.root
def test_all_is_kept_as_the_kernel_shows_it(mntapi, image: Path, tmp_path: Path) -> None:
    mntapi("cp", "-a", image, "/disk0", tmp_path / "ours")
    with mounted(image, "ro,noatime") as top:
        want = told(top)
    have = told(tmp_path / "ours")
    want["second link"] = (*want["second link"][:-1], "second link")  # names of one link become two links
    assert have == want
    assert have["bin/another name"][-1] == have["hard link above"][-1] == "bin/another name"
    again = mntapi("cp", "-a", "--overwrite", image, "/disk0/bin", "/disk0/one", "/disk0/null", tmp_path / "ours", code=3)
    assert "never replaced" in again.stderr and again.stderr.count("error:") == 1
    want["hard link above"] = (*want["hard link above"][:-1], "hard link above")  # still the copy made before
    have = told(tmp_path / "ours")
    del have["bin"], want["bin"]  # a folder that was there is its owner's: written to, it has a new time
    assert have == want


@pytest.mark.root
def test_an_ordinary_user_gets_the_files_and_is_told(mntapi, image: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    reads_all = [
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]  # of this checkout too
    mntapi.argv = [*user, *reads_all, *mntapi.argv]
    mntapi.environment |= {"HOME": str(tmp_path), "MNTAPI_STATE_DIR": str(tmp_path / "state")}
    done = mntapi("cp", "-a", image, "/disk0", tmp_path / "mine", code=3)
    assert "only root" in done.stderr and "security.capability" in done.stderr and "null" in done.stderr
    mine = tmp_path / "mine"
    assert (mine / "bin/ping").read_bytes() == b"ping" and (mine / "bin/ping").stat().st_uid == 1000
    assert (mine / "bin/su").stat().st_mode & 0o7777 == 0o755
    assert (mine / "bin/su").stat().st_ino == (mine / "hard link above").stat().st_ino
    assert os.getxattr(mine / "one", "user.comment") == b"\xff\0 bytes"
    assert stat.S_ISFIFO((mine / "pipe").stat().st_mode) and not (mine / "null").exists()


@pytest.mark.root
def test_without_it_every_name_is_a_file_of_its_own(mntapi, image: Path, tmp_path: Path) -> None:
    done = mntapi("cp", "-r", image, "/disk0", tmp_path / "plain", code=3)
    assert done.stderr.count("made with -a") == 4
    one, two = (tmp_path / "plain" / name for name in ("bin/su", "hard link above"))
    assert one.stat().st_ino != two.stat().st_ino and one.read_bytes() == two.read_bytes()
    assert os.listxattr(tmp_path / "plain/one") == []
