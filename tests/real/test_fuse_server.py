"""Live mounts when things go wrong: slow reads, bad sectors, killed servers and readers, hostile names, many mounts."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import subprocess
from pathlib import Path

import pytest

from mntapi.kernel.mountinfo import mount_at
from real.fuse_live import BACKENDS, Live, live, need, run

pytestmark = pytest.mark.root
SIZE = 1 << 20
KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    need()
    path = tmp_path / "raw"
    path.write_bytes(os.urandom(SIZE))
    return path


def reader(mount: Live, *, flags: str = "iflag=direct") -> subprocess.Popen[bytes]:
    """A process that reads the first page of the gated file, and has got as far as the gate."""
    path = mount.target / "disks" / "gated"
    process = subprocess.Popen(
        ["dd", f"if={path}", "bs=4k", "count=1", "status=none", flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background has it ignored
    )
    mount.told("r")
    return process


@pytest.mark.parametrize("backend", BACKENDS)
def test_unmounting_ends_the_server(tmp_path: Path, raw: Path, backend: str) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend=backend) as mount:
        run("cmp", mount.target / "disks" / "disk0", raw)
        with open(mount.target / "disks" / "disk0", "rb") as file:
            assert file.read(3) == raw.read_bytes()[:3]
        mount.unmount()
        assert mount.wait() == 0


def test_libfuse_can_mount_by_itself(tmp_path: Path, raw: Path) -> None:
    target = tmp_path / "mnt"
    with live(tmp_path / "unused") as mount:
        target.mkdir()
        mount.start({"disk": str(raw)}, backend="fusepy", mountpoint=str(target))
        try:
            run("cmp", target / "disks" / "disk0", raw)
            entry = mount_at(str(target))
            assert entry is not None and entry.kind == "fuse.mntapi" and entry.source == "mntapi"
            assert {"ro", "nosuid", "nodev", "noexec"} <= set(entry.options)
        finally:
            run("umount", target)
        assert mount.wait() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slow_read_does_not_hold_up_others(tmp_path: Path, raw: Path, backend: str) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend=backend, gated=True) as mount:
        slow = [reader(mount) for _ in range(7)]  # each of them is inside its read when the next one starts
        run("cmp", mount.target / "disks" / "disk0", raw)
        os.write(mount.gate, b"x" * len(slow))
        for one in slow:
            assert one.communicate()[0] == raw.read_bytes()[:4096]
        for _ in range(3):  # by now the helpers have gone again
            run("cmp", mount.target / "disks" / "disk0", raw)
        mount.unmount()
        assert mount.wait() == 0


def test_more_slow_reads_than_threads_wait_for_one_another(tmp_path: Path, raw: Path) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, gated=True, threads=2) as mount:
        slow = [reader(mount), reader(mount)]
        path = mount.target / "disks" / "disk0"
        waiting = subprocess.Popen(
            ["dd", f"if={path}", "bs=4k", "count=1", "status=none", "iflag=direct"], stdout=subprocess.PIPE
        )
        os.write(mount.gate, b"xx")
        for one in [*slow, waiting]:
            assert one.communicate()[0] == raw.read_bytes()[:4096]


def test_one_thread_is_enough(tmp_path: Path, raw: Path) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, threads=1) as mount:
        run("cmp", mount.target / "disks" / "disk0", raw)
        mount.unmount()
        assert mount.wait() == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_reader_leaves_the_server_sound(tmp_path: Path, raw: Path, sent: signal.Signals) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, gated=True) as mount:
        slow = reader(mount)
        slow.send_signal(sent)
        run("cmp", mount.target / "disks" / "disk0", raw)
        os.write(mount.gate, b"x")
        slow.communicate()
        assert slow.returncode == -sent
        again = reader(mount)
        os.write(mount.gate, b"x")
        assert again.communicate()[0] == raw.read_bytes()[:4096]


def test_killing_the_server_fails_its_readers(tmp_path: Path, raw: Path) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, gated=True) as mount:
        slow = reader(mount)
        assert mount.process is not None
        mount.process.kill()
        message = slow.communicate()[1].decode()
        assert slow.returncode == 1 and ("not connected" in message or "abort" in message or "error" in message)
        with pytest.raises(OSError) as raised:
            os.listdir(mount.target)
        assert raised.value.errno == errno.ENOTCONN
        mount.unmount()
        assert mount_at(str(mount.target)) is None


@pytest.mark.skipif(KERNEL < (6, 9), reason="FUSE_NOTIFY_RESEND needs Linux 6.9")
@pytest.mark.parametrize("flags", ["iflag=direct", "iflag=fullblock"])
def test_another_server_goes_on_where_a_killed_one_was(tmp_path: Path, raw: Path, flags: str) -> None:
    """The request in flight is answered, files that were open stay readable, a folder is listed on."""
    need()
    with live(tmp_path / "mnt") as mount:
        mount.start({"disk": str(raw)}, gated=True)
        with open(mount.target / "disks" / "disk0", "rb", buffering=0) as opened, os.scandir(mount.target / "disks") as listed:
            first = next(listed).name
            slow = reader(mount, flags=flags)
            assert mount.process is not None
            mount.process.kill()
            mount.wait()
            mount.start({"disk": str(raw)}, resume=True)
            assert slow.communicate()[0] == raw.read_bytes()[:4096] and slow.returncode == 0
            assert os.pread(opened.fileno(), 5000, 700_001) == raw.read_bytes()[700_001:705_001]
            assert {first, *(entry.name for entry in listed)} == {"bad", "buggy", "disk0", "gated"}
        mount.unmount()
        assert mount.wait() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flags", [["iflag=direct"], []])
def test_a_bad_sector_costs_its_page_only(tmp_path: Path, raw: Path, backend: str, flags: list[str]) -> None:
    bad = 100 * 4096 + 512
    with live(tmp_path / "mnt", {"disk": str(raw), "bad": [[bad, 512]]}, backend=backend) as mount:
        command = ["dd", f"if={mount.target}/disks/bad", "bs=4k", "conv=noerror,sync", *flags]
        done = subprocess.run(command, capture_output=True, env=os.environ | {"LC_ALL": "C"})
        assert done.stderr.count(b"Input/output error") == 1
        expected = bytearray(raw.read_bytes())
        expected[100 * 4096 : 101 * 4096] = bytes(4096)
        assert done.stdout == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_defect_of_ours_is_an_input_error(tmp_path: Path, raw: Path, backend: str) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend=backend) as mount:
        with pytest.raises(OSError) as raised:
            (mount.target / "disks" / "buggy").read_bytes()
        assert raised.value.errno == errno.EIO
        run("cmp", mount.target / "disks" / "disk0", raw)


def test_thirty_two_mounts_at_once(tmp_path: Path, raw: Path) -> None:
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(live(tmp_path / f"mnt{index}")) for index in range(32)]
        for mount in mounts:
            mount.launch({"disk": str(raw)})
        readers = [subprocess.Popen(["cmp", mount.target / "disks" / "disk0", raw]) for mount in mounts]
        assert [one.wait() for one in readers] == [0] * 32
        for mount in mounts:
            mount.unmount()
        assert [mount.wait() for mount in mounts] == [0] * 32


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_can_be_written(tmp_path: Path, raw: Path, backend: str) -> None:
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend=backend) as mount:
        path = mount.target / "disks" / "disk0"
        for attempt in (
            lambda: path.open("r+b"),
            lambda: (mount.target / "new").touch(),
            path.unlink,
            lambda: path.chmod(0o600),
        ):
            with pytest.raises(OSError) as raised:
                attempt()
            assert raised.value.errno == errno.EROFS
        if backend == "kernel":  # what the mount option held back so far, the server refuses itself
            run("mount", "-i", "-o", "remount,rw", mount.target)
            for attempt in (
                lambda: path.open("r+b"),
                lambda: (mount.target / "new").touch(),
                path.unlink,
                lambda: path.chmod(0),
            ):
                with pytest.raises(OSError) as raised:
                    attempt()
                assert raised.value.errno == errno.EROFS


def test_hostile_names_are_shown_and_found(tmp_path: Path) -> None:
    need()
    with live(tmp_path / "mnt", {"memory": True}) as mount:
        names = os.listdir(mount.target)
        contents = {}
        Path("/proc/sys/vm/drop_caches").write_text("2")  # from now on names are looked up
        for name in names:
            with contextlib.suppress(OSError):
                contents[(mount.target / name).read_bytes()] = name
        expected = {b"fine", b"slash", b"nul", b"empty", b"dot", b"dots", b"long", b"surrogate", b"just fits"}
        assert set(contents) == expected and len(names) == len(expected) + 5
        assert contents[b"slash"].startswith("..\u2215..\u2215etc\u2215passwd~inode")
        assert contents[b"just fits"] == "y" * 1024
        with pytest.raises(FileNotFoundError):
            os.stat(mount.target / "good~inode77")


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    need()
    with live(tmp_path / "mnt", {"memory": True}) as mount:
        assert os.getxattr(mount.target / "secret", "user.mntapi.reason") == b"efs"
        assert os.listxattr(mount.target / "secret") == ["user.mntapi.reason"] and os.listxattr(mount.target / "good") == []
        assert (mount.target / "secret").stat().st_size == len(b"encrypted")
        errors = {"secret": errno.EOPNOTSUPP}
        for name, expected in errors.items():
            with pytest.raises(OSError) as raised:
                (mount.target / name).read_bytes()
            assert raised.value.errno == expected
        for link in ("empty link", "nul link", "long link"):
            with pytest.raises(OSError) as raised:
                os.readlink(mount.target / link)
            assert raised.value.errno == errno.EIO


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_folder_with_a_bad_sector_does_not_look_complete(tmp_path: Path, backend: str) -> None:
    need()
    with live(tmp_path / "mnt", {"memory": True}, backend=backend) as mount:
        for _ in range(2):
            done = subprocess.run(["ls", "-U", mount.target / "unreadable"], capture_output=True, text=True)
            assert done.returncode != 0 and "last" not in done.stdout
            assert backend == "fusepy" or done.stdout.split() == ["first", "second"]


@pytest.mark.skipif(KERNEL < (6, 6), reason="FUSE_STATX needs Linux 6.6")
def test_the_time_of_birth_is_told(tmp_path: Path) -> None:
    need()
    (tmp_path / "tree").mkdir()
    with live(tmp_path / "mnt", {"host": str(tmp_path / "tree")}) as mount:
        assert run("stat", "-c", "%W %w", mount.target).split()[0] == "1000000000"
        assert ".000000007" in run("stat", "-c", "%w", mount.target)


def test_statvfs_is_the_tree_s(tmp_path: Path) -> None:
    need()
    (tmp_path / "tree").mkdir()
    for backend in BACKENDS:
        with live(tmp_path / f"mnt-{backend}", {"host": "/proc"}, backend=backend) as mount:
            one, other = os.statvfs(mount.target), os.statvfs("/proc")
        for field in ("f_frsize", "f_blocks", "f_files", "f_namemax"):
            assert getattr(one, field) == getattr(other, field)


def test_qemu_img_sees_the_holes(tmp_path: Path) -> None:
    need("qemu-img")
    raw = tmp_path / "raw"
    with open(raw, "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 65536)
    with live(tmp_path / "mnt", {"disk": str(raw)}) as mount:
        path = mount.target / "disks" / "disk0"
        assert path.stat().st_blocks * 512 == 65536
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", path, raw)
        extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", path))
        assert [(one["start"], one["length"]) for one in extents if one["data"]] == [(4 << 20, 65536)]


class FileHandle(ctypes.Structure):
    """``struct file_handle``."""

    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128))


def test_a_number_alone_finds_its_node_as_nfs_asks(tmp_path: Path, raw: Path) -> None:
    """open_by_handle_at(2) after the kernel has forgotten everything: what an NFS server does after a restart."""
    libc = ctypes.CDLL(None, use_errno=True)
    with live(tmp_path / "mnt", {"disk": str(raw)}) as mount:
        handle, mount_id = FileHandle(bytes=128), ctypes.c_int()
        path = os.fsencode(mount.target / "disks" / "disk0")
        assert libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(mount_id), 0) == 0
        Path("/proc/sys/vm/drop_caches").write_text("2")
        folder = os.open(mount.target, os.O_RDONLY)
        try:
            fd = libc.open_by_handle_at(folder, ctypes.byref(handle), os.O_RDONLY)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            with open(fd, "rb") as file:
                assert file.read() == raw.read_bytes()
        finally:
            os.close(folder)


def test_libfuse_serves_a_confined_process(tmp_path: Path, raw: Path) -> None:
    """Callbacks need executable memory, which a worker may no longer ask for."""
    with live(tmp_path / "mnt", {"disk": str(raw)}, backend="fusepy", confined=True) as mount:
        run("cmp", mount.target / "disks" / "disk0", raw)
        mount.unmount()
        assert mount.wait() == 0
