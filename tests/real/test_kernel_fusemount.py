"""FUSE mounts: as root, through fusermount3 as nobody, with names that look like options, with a server that died.

Oracles: findmnt and /proc/self/mountinfo as the kernel shows them. The server is a few lines of the protocol in a process
of its own, so that a mistake can hang that process only.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mntapi.errors import Busy, Denied, Failed, Invalid, MntapiError, NotFound, Unsupported
from mntapi.kernel import fusemount, loop, nodes
from mntapi.kernel.fusemount import abort, escape, open_fuse_and_mount, unmount_fuse
from mntapi.kernel.mountinfo import Mount, mount_at, mounts_under

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"),
]

REPOSITORY = Path(__file__).parents[2]
SIZE = 1 << 20

SERVER = """
import os, struct, sys
fd, is_file = int(sys.argv[1]), sys.argv[2] == "file"
mode, size = (0o100444, 1 << 20) if is_file else (0o040555, 0)
attributes = struct.pack("<6Q10I", 1, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
while True:
    try:
        request = os.read(fd, 2 << 20)
    except OSError:
        break  # unmounted
    opcode, unique = struct.unpack_from("<IQ", request, 4)
    body, error = b"", 0
    if opcode == 26:  # INIT
        body = struct.pack("<IIII", 7, 31, 65536, 0) + struct.pack("<HHIIHHI28x", 16, 12, 1 << 20, 1, 256, 0, 0)
    elif opcode == 3:  # GETATTR
        body = struct.pack("<QII", 0, 0, 0) + attributes
    elif opcode in (14, 27):  # OPEN, OPENDIR
        body = bytes(16)
    elif opcode == 15:  # READ
        start, length = struct.unpack_from("<8xQI", request, 40)
        body = bytes(max(0, min(length, size - start)))
    elif opcode in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: not answered
        continue
    elif opcode not in (18, 25, 29):  # RELEASE, FLUSH, RELEASEDIR
        error = -38
    os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
"""


@pytest.fixture
def target() -> Iterator[Path]:
    """A folder that nobody, too, can reach; the mounts and loop devices below it are taken away in the end."""
    folder = Path(tempfile.mkdtemp(prefix="mntapi-test-", dir="/tmp"))
    folder.chmod(0o755)
    path = folder / "mnt"
    path.mkdir()
    yield path
    for device in loop.attached_below(str(folder)):
        subprocess.run(["losetup", "--detach", device.path], check=False)
    left = [mount.target for mount in mounts_under(str(folder))]
    for mounted in left:
        subprocess.run(["umount", "--lazy", mounted], check=False)
    shutil.rmtree(folder)
    assert not left, "the test left mounts behind"


@contextlib.contextmanager
def served(fd: int, kind: str = "folder") -> Iterator[subprocess.Popen[bytes]]:
    """A server on the descriptor; ours is closed, unless it is needed beyond."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(fd), kind], pass_fds=[fd])
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def mountinfo_line(target: Path) -> str:
    return next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {target} " in line)


def test_mount_and_unmount(target: Path) -> None:
    fd = open_fuse_and_mount(str(target), fsname="web01.vmdk", max_read=131072)
    try:
        assert not os.get_inheritable(fd)
        listed = subprocess.run(
            ["findmnt", "--kernel", "--list", "-n", "-o", "TARGET,SOURCE,FSTYPE"], capture_output=True, text=True
        )
        assert [str(target), "web01.vmdk", "fuse.mntapi"] in [line.split() for line in listed.stdout.splitlines()]
        mounted = mount_at(str(target))
        assert mounted is not None
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.options)
        assert {"ro", "user_id=0", "group_id=0", "max_read=131072"} <= set(mounted.super_options)
        assert not {"allow_other", "default_permissions"} & set(mounted.super_options)
        with served(fd):
            assert stat.S_ISDIR(os.stat(target).st_mode)
        assert unmount_fuse(str(target)) == ()
    finally:
        os.close(fd)
    assert mount_at(str(target)) is None


def test_options_are_passed_on(target: Path) -> None:
    fd = open_fuse_and_mount(str(target), fsname="x", subtype="other", allow_other=True, default_permissions=True)
    mounted = mount_at(str(target))
    unmount_fuse(str(target))
    os.close(fd)
    assert mounted is not None
    assert mounted.kind == "fuse.other"
    assert {"allow_other", "default_permissions"} <= set(mounted.super_options)


HOSTILE_NAMES = [
    "a,allow_other,suid",
    "back\\slash\\,comma",
    "ends with\\",
    "with space and\ttab",
    "new\nline",
    "nul\0byte",
    "-o rw",
    "",
    "\udcffnot utf-8",
    "x" * 3000,
]


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_names_are_never_options(target: Path, name: str, user: str) -> None:
    shown = "".join("?" if character < " " else character for character in name)[:1024] or "mntapi"
    if user == "root":
        fd = open_fuse_and_mount(str(target), fsname=name)
        mounted = mount_at(str(target))
        unmount_fuse(str(target))
        os.close(fd)
    else:
        os.chown(target, 65534, 65534)
        told = as_nobody(f"""
target = {str(target)!r}
fd = open_fuse_and_mount(target, fsname={name!r})
mounted = mount_at(target)
unmount_fuse(target)
tell(dataclasses.asdict(mounted))
""")
        mounted = Mount(**ast.literal_eval(told))
    assert mounted is not None
    assert mounted.source == shown
    assert mounted.kind == "fuse.mntapi"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.options)
    assert "allow_other" not in mounted.super_options


def as_nobody(script: str) -> str:
    """What the script tells, run by a process that is nobody; whatever it mounts below the folder it unmounts."""
    prelude = """
import dataclasses, os, sys
from mntapi.errors import MntapiError
from mntapi.kernel import fusemount
from mntapi.kernel.fusemount import abort, open_fuse_and_mount, unmount_fuse
from mntapi.kernel.mountinfo import mount_at
def tell(value):
    print(ascii(value), flush=True)
def outcome(call):
    try:
        return call()
    except MntapiError as error:
        return type(error).__name__, str(error), error.hint
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def mine(target: Path) -> Iterator[Path]:
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is not installed")
    os.chown(target, 65534, 65534)
    yield target


def test_nobody_mounts_and_unmounts(mine: Path) -> None:
    told = as_nobody(f"""
target = {str(mine)!r}
fd = open_fuse_and_mount(target, fsname="disk", default_permissions=True)
mounted = mount_at(target)
again = outcome(lambda: unmount_fuse(target))
tell((dataclasses.asdict(mounted), os.get_inheritable(fd), again, mount_at(target), outcome(lambda: unmount_fuse(target))))
""")
    fields, inheritable, unmounted, after, second = ast.literal_eval(told)
    mounted = Mount(**fields)
    assert "user_id=65534" in mounted.super_options
    assert "default_permissions" in mounted.super_options
    assert not inheritable
    assert unmounted == ()
    assert after is None
    assert second[0] == "NotFound"


def test_nobody_and_what_is_not_allowed(mine: Path) -> None:
    if "\nuser_allow_other" in Path("/etc/fuse.conf").read_text():
        pytest.skip("user_allow_other is set here")
    told = as_nobody(f"""
target = {str(mine)!r}
tell((
    outcome(lambda: open_fuse_and_mount(target, fsname="x", allow_other=True)),
    outcome(lambda: open_fuse_and_mount("/etc", fsname="x")),
    outcome(lambda: open_fuse_and_mount(target + "/nowhere", fsname="x")),
    outcome(lambda: unmount_fuse("/proc")),
))
""")
    others, not_mine, nowhere, not_my_mount = ast.literal_eval(told)
    assert others[0] == "Denied" and "/etc/fuse.conf" in others[2]
    assert not_mine[0] == "Denied"
    assert nowhere[0] == "NotFound"
    assert not_my_mount[0] == "Denied"


def test_nobody_without_fusermount3(mine: Path) -> None:
    told = as_nobody(f"""
fusemount.FUSERMOUNT = "fusermount3-is-not-here"
tell(outcome(lambda: open_fuse_and_mount({str(mine)!r}, fsname="x")))
""")
    name, _, hint = ast.literal_eval(told)
    assert (name, hint) == ("NotFound", "apt-get install fuse3")


def test_nobody_by_force(mine: Path) -> None:
    """A file of the mount is open: busy, and with force detached; its user is named."""
    told = as_nobody(f"""
target = {str(mine)!r}
fd = open_fuse_and_mount(target, fsname="x")
server = os.fork()
if server == 0:
    sys.argv = ["server", str(fd), "folder"]
    exec({SERVER!r})
    os._exit(0)
inside = os.open(target, os.O_RDONLY)
busy = outcome(lambda: unmount_fuse(target))
forced = outcome(lambda: unmount_fuse(target, force=True))
os.close(inside)
os.close(fd)
os.waitpid(server, 0)  # it ends when the kernel has let go of the mount
tell((busy, forced, mount_at(target), os.getpid()))
""")
    busy, forced, after, pid = ast.literal_eval(told)
    assert busy[0] == "Busy" and f"(pid {pid}) uses {mine}" in busy[1]
    assert f"(pid {pid})" in forced[0]
    assert after is None


def test_escape() -> None:
    assert escape("a,b\\c") == "a\\,b\\\\c"


def test_a_file_as_root(target: Path) -> None:
    """The block file case: loop over FUSE, then the server dies while a duplicate of the descriptor keeps the mount waiting."""
    file = target.with_name("file")
    file.touch()
    fd = open_fuse_and_mount(str(file), fsname="disk")
    with served(fd, "file") as server:
        device = loop.attach(str(file))
        assert device.size == SIZE
        assert Path(device.path).read_bytes() == bytes(SIZE)
        device.release()
        server.kill()
        server.wait()
        # From here on whatever asks the FUSE file waits for ever; status and detach must not ask it.
        assert loop.status(device.number).backing_name == str(file)
        with pytest.raises(Busy, match=device.path):
            unmount_fuse(str(file))
        assert loop.detach_if(device.number, str(file))
    unmount_fuse(str(file))
    os.close(fd)


def test_force_frees_a_reader_whose_server_hangs(target: Path) -> None:
    fd = open_fuse_and_mount(str(target), fsname="disk")
    (unique,) = struct.unpack_from("<8xQ", os.read(fd, 1 << 20))  # INIT, waiting since the mount
    body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 16, 12, 1 << 20, 1, 256, 0, 0)
    os.write(fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
    reader = subprocess.Popen(["ls", str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.read(fd, 2 << 20)  # its first question, which nobody will answer
    unmount_fuse(str(target), force=True)
    _, message = reader.communicate(timeout=20)
    assert reader.returncode != 0, message
    os.close(fd)
    assert mount_at(str(target)) is None


def test_abort(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "fusectl"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", str(control)], check=True)
    try:
        monkeypatch.setattr(fusemount, "CONNECTIONS", str(control))
        fd = open_fuse_and_mount(str(target), fsname="disk")
        mounted = mount_at(str(target))
        assert mounted is not None
        abort(mounted.device[1])
        with pytest.raises(OSError, match="No such device"):
            os.read(fd, 1 << 20)
        os.close(fd)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(target)
        with pytest.raises(Busy, match="server has died"):
            open_fuse_and_mount(str(target), fsname="again")
        unmount_fuse(str(target))
        with pytest.raises(NotFound, match="no such FUSE connection"):
            abort(999_999)
    finally:
        subprocess.run(["umount", str(control)], check=True)


def test_abort_without_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7" / "abort").mkdir(parents=True)
    monkeypatch.setattr(fusemount, "CONNECTIONS", str(tmp_path))
    with pytest.raises(Denied, match="cannot abort"):
        abort(7)


def test_impossible_targets(target: Path) -> None:
    os.mkfifo(target.with_name("pipe"))
    cases: list[tuple[Path, dict[str, str], type[MntapiError]]] = [
        (target / "nowhere", {}, NotFound),
        (target.with_name("pipe"), {}, Invalid),
        (target, {"subtype": "a,b"}, Invalid),
        (target, {"subtype": ""}, Invalid),
    ]
    for path, options, error in cases:
        with pytest.raises(error):
            open_fuse_and_mount(str(path), fsname="x", **options)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="nothing is mounted"):
        unmount_fuse(str(target))


def test_no_descriptor_is_lost_when_mounting_fails(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for refusal in (OSError(1, "Operation not permitted"), KeyboardInterrupt()):

        def refuse(*_: object, error: BaseException = refusal) -> None:
            raise error

        monkeypatch.setattr(fusemount.libc, "mount", refuse)
        with pytest.raises(Denied if isinstance(refusal, OSError) else KeyboardInterrupt):
            open_fuse_and_mount(str(target), fsname="x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_kernel_without_fuse(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose device no driver answers, and one that we may not make."""
    monkeypatch.setattr(fusemount, "FUSE_DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(fusemount, "FUSE_MINOR", 254)
    with pytest.raises(Unsupported, match="no FUSE"):
        open_fuse_and_mount(str(target), fsname="x")
    monkeypatch.setattr(fusemount, "FUSE_DEVICE", str(tmp_path / "no folder" / "fuse"))
    with pytest.raises(Failed, match="cannot make the device node"):
        open_fuse_and_mount(str(target), fsname="x")


def test_a_missing_node_is_made(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "fuse"
    monkeypatch.setattr(fusemount, "FUSE_DEVICE", str(node))
    fd = open_fuse_and_mount(str(target), fsname="x")
    unmount_fuse(str(target))
    os.close(fd)
    assert node.stat().st_rdev == os.stat("/dev/fuse").st_rdev
    assert stat.S_IMODE(node.stat().st_mode) == 0o666


def test_something_else_bears_the_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mknod(tmp_path / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    for name, found in (("file", "no device"), ("zero", "character device 1:5")):
        with pytest.raises(Invalid, match="not the device") as caught:
            nodes.ensure_node(str(tmp_path / name), stat.S_IFBLK, 7, 0)
        assert caught.value.found == found
    with pytest.raises(Failed, match="cannot look at"):
        nodes.ensure_node(str(tmp_path / "file" / "node"), stat.S_IFBLK, 7, 0)
