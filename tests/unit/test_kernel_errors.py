"""What the kernel can answer to loop and mount calls and rarely does: each answer becomes the error that says what to do.

The system calls are replaced, for running out of loop devices or out of rights cannot be had without harm to others.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from mntapi.errors import Busy, Corrupt, Denied, Failed, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.kernel import filesystems, fusemount, ioctl, libc, loop, loop_status, mountinfo, nodes
from mntapi.kernel import mount as kernel_mount
from mntapi.kernel.fusemount import _explain_fusermount, _received
from mntapi.kernel.loop import LOOP_CLR_FD, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64


class FakeLoops:
    """Stands in for the loop driver: answers of ioctl by request, device nodes that are plain files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[int, list[int | Exception | bytes]] = {LOOP_CTL_GET_FREE: [5], LOOP_CONFIGURE: [0], LOOP_CLR_FD: [0]}
        self.calls: list[int] = []
        self.size = 4096
        for name in ("loop-control", "loop5"):
            (folder / name).touch()
        self.file = folder / "disk"
        self.file.write_bytes(bytes(4096))
        self.status = self.info()
        monkeypatch.setattr(loop, "CONTROL", str(folder / "loop-control"))
        monkeypatch.setattr(loop, "DEVICES", str(folder))
        monkeypatch.setattr(loop, "ensure_node", lambda *_, **__: None)
        monkeypatch.setattr(loop, "device_size", lambda _fd: self.size)
        monkeypatch.setattr(loop, "ioctl", self.ioctl)
        monkeypatch.setattr(loop.time, "sleep", lambda _s: None)

    def info(self, inode: int | None = None, flags: int = 1) -> bytes:
        inode = self.file.stat().st_ino if inode is None else inode
        return struct.pack("=5Q4I64s64s32s2Q", 0, inode, 0, 0, 0, 5, 0, 0, flags, b"", b"", b"", 0, 0)

    def ioctl(self, _fd: int, request: int, argument: int | bytearray = 0) -> int:
        self.calls.append(request)
        if request == LOOP_GET_STATUS64:
            assert isinstance(argument, bytearray)
            argument[:] = self.status
            return 0
        answers = self.answers[request]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, int)
        return answer


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLoops:
    return FakeLoops(tmp_path, monkeypatch)


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_exhausted(loops: FakeLoops) -> None:
    for number in (errno.ENOSPC, errno.ENODEV, errno.ENOMEM):
        loops.answers[LOOP_CTL_GET_FREE] = [system(number)]
        with pytest.raises(Busy, match="no free loop device") as caught:
            loop.attach(str(loops.file))
        assert "max_loop" in str(caught.value.hint) and "losetup" in str(caught.value.hint)
        assert caught.value.reason == "no-loop-device"


def test_no_right_to_a_free_one(loops: FakeLoops) -> None:
    loops.answers[LOOP_CTL_GET_FREE] = [system(errno.EPERM)]
    with pytest.raises(Denied) as caught:
        loop.attach(str(loops.file))
    assert caught.value.hint == "run as root"


def test_others_are_faster_at_first(loops: FakeLoops, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = loop_status.LoopStatus(5, str(loops.file), 0, 0, True, False, False, 1)
    monkeypatch.setattr(loop, "status", lambda _number: taken)
    loops.answers[LOOP_CONFIGURE] = [*[system(errno.EBUSY)] * 20, 0]
    device = loop.attach(str(loops.file))
    device.release()
    assert device.number == 5
    assert loops.calls.count(LOOP_CTL_GET_FREE) == 21


def test_others_are_always_faster(loops: FakeLoops) -> None:
    before = len(os.listdir("/proc/self/fd"))
    loops.answers[LOOP_CONFIGURE] = [system(errno.EBUSY)]
    with pytest.raises(Busy, match="256 attempts"):
        loop.attach(str(loops.file))
    assert loops.calls.count(LOOP_CONFIGURE) == loop.ATTEMPTS
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (errno.ENOTTY, Unsupported, "LOOP_CONFIGURE"),
        (errno.EPERM, Denied, "needs root"),
        (errno.EINVAL, Failed, "refused to attach"),
    ],
)
def test_refused_configuration(loops: FakeLoops, number: int, error: type[MntapiError], text: str) -> None:
    loops.answers[LOOP_CONFIGURE] = [system(number)]
    with pytest.raises(error, match=text):
        loop.attach(str(loops.file))


def test_a_device_that_is_not_what_was_asked_for(loops: FakeLoops) -> None:
    before = len(os.listdir("/proc/self/fd"))
    cases: list[tuple[bytes, int, type[MntapiError], str]] = [
        (loops.info(inode=1), 4096, Failed, "another file"),
        (loops.info(flags=0), 4096, Failed, "writable"),
        (loops.info(), 2048, Corrupt, "wrong size"),
    ]
    for loops.status, loops.size, error, text in cases:
        loops.calls.clear()
        with pytest.raises(error, match=text):
            loop.attach(str(loops.file))
        assert loops.calls[-1] == LOOP_CLR_FD
    assert len(os.listdir("/proc/self/fd")) == before


def test_devices_that_cannot_be_opened(loops: FakeLoops, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[int, type[MntapiError]]] = [
        (errno.EACCES, Denied),
        (errno.ENODEV, Unsupported),
        (errno.ENXIO, Unsupported),
        (errno.EMFILE, Failed),
    ]
    real = os.open
    for number, error in cases:

        def refuse(path: str, flags: int, *rest: int, number: int = number, **more: int) -> int:
            if str(path) == loop.CONTROL:
                raise system(number)
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(error):
            loop.attach(str(loops.file))


def test_files_that_cannot_be_opened(loops: FakeLoops, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    for number, error in ((errno.EACCES, Denied), (errno.ELOOP, Failed)):

        def refuse(path: str, flags: int, *rest: int, number: int = number, **more: int) -> int:
            if str(path) == str(loops.file):
                raise system(number)
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(error):
            loop.attach(str(loops.file))


def test_detaching_that_fails(loops: FakeLoops, monkeypatch: pytest.MonkeyPatch) -> None:
    there = loop_status.LoopStatus(5, str(loops.file), 0, 0, True, False, False, 1)
    monkeypatch.setattr(loop, "status", lambda _number: there)
    loops.answers[LOOP_CLR_FD] = [system(errno.EIO)]
    with pytest.raises(Failed, match="cannot be detached"):
        loop.detach_if(5, str(loops.file))

    def gone(_number: int) -> loop_status.LoopStatus:
        answers.append(1)
        if len(answers) == 1:
            return there
        raise NotFound("detached by somebody else between two looks")

    answers: list[int] = []
    monkeypatch.setattr(loop, "status", gone)
    assert not loop.detach_if(5, str(loops.file))


def test_the_claim_cannot_be_asked(loops: FakeLoops, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_EXCL:
            raise system(number)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    number = errno.EBUSY
    with pytest.raises(Busy, match="claimed by another program"):
        loop._refuse_if_mounted(str(loops.file), os.makedev(7, 5))
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        loop._refuse_if_mounted(str(loops.file), os.makedev(7, 5))


def test_status_of_old_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No diskseq before 5.15: the name and the offset tell attachments apart. No sysfs: said."""
    monkeypatch.setattr(loop_status, "SYSFS", str(tmp_path))
    attributes = tmp_path / "loop3" / "loop"
    attributes.mkdir(parents=True)
    (tmp_path / "sda").mkdir()
    (tmp_path / "loop9").mkdir()
    for name, text in {"backing_file": "/x/disk", "offset": "512", "sizelimit": "0", "autoclear": "1", "dio": "0"}.items():
        (attributes / name).write_text(f"{text}\n")
    (tmp_path / "loop3" / "ro").write_text("1\n")
    (tmp_path / "loop3" / "dev").write_text("7:48\n")
    found = loop_status.status(3)
    assert found == loop_status.LoopStatus(3, "/x/disk", 512, 0, True, True, False, None)
    assert loop_status.attached_below("/x") == [found]
    assert loop_status.minor(3) == 48
    assert loop_status.minor(4) == 4
    assert found.is_same(found)
    (attributes / "offset").write_text("1024\n")
    assert not loop_status.status(3).is_same(found)
    monkeypatch.setattr(loop_status, "SYSFS", str(tmp_path / "nowhere"))
    with pytest.raises(Failed, match="no sysfs"):
        loop_status.status(3)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EPERM, Denied),
        (errno.EACCES, Denied),
        (errno.EBUSY, Busy),
        (errno.ENODEV, Unsupported),
        (errno.ENOENT, NotFound),
        (errno.ENOTDIR, NotADirectory),
        (errno.ENOTCONN, Busy),
        (errno.EINVAL, Corrupt),
        (errno.EUCLEAN, Corrupt),
        (errno.ENOMEM, Failed),
    ],
)
def test_mount_errors(number: int, error: type[MntapiError]) -> None:
    explained = kernel_mount.explain(system(number), "/mnt/x", "the disk")
    assert type(explained) is error
    assert explained.path == "/mnt/x"


def test_a_mount_error_that_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(_source: str, _target: str, kind: str, _flags: int, _data: str) -> None:
        tried.append(kind)
        raise system(errno.EBUSY)

    monkeypatch.setattr(libc, "mount", refuse)
    with pytest.raises(Busy):
        kernel_mount.mount_kernel_filesystem("/dev/loop0", "/mnt", "ext2")
    assert tried == ["ext4"]


def refuse_to_unmount(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> list[int]:
    """umount2 fails with these errors in turn (0: works); the list fills with the flags of the calls."""
    answers, flags_seen = list(numbers), []

    def answer(_target: str, flags: int) -> None:
        flags_seen.append(flags)
        number = answers.pop(0)
        if number:
            raise system(number)

    monkeypatch.setattr(libc, "umount2", answer)
    return flags_seen


def test_unmount_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[int, type[MntapiError]]] = [
        (errno.EBUSY, Busy),
        (errno.EINVAL, NotFound),
        (errno.ENOENT, NotFound),
        (errno.EPERM, Denied),
        (errno.EIO, Failed),
    ]
    for number, error in cases:
        refuse_to_unmount(monkeypatch, number)
        with pytest.raises(error):
            kernel_mount.unmount(str(tmp_path))
        if number != errno.EBUSY:
            refuse_to_unmount(monkeypatch, number)
            with pytest.raises(error):
                kernel_mount.unmount(str(tmp_path), force=True)


def test_busy_by_nobody_we_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_unmount(monkeypatch, errno.EBUSY)
    with pytest.raises(Busy, match="somebody we cannot see"):
        kernel_mount.unmount(str(tmp_path))


def test_force_goes_one_step_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nofollow, force, detach = 8, 1, 2
    seen = refuse_to_unmount(monkeypatch, errno.EBUSY, 0)
    assert kernel_mount.unmount(str(tmp_path), force=True) == ()
    assert seen == [nofollow, nofollow | force]
    seen = refuse_to_unmount(monkeypatch, errno.EBUSY, errno.EBUSY, 0)
    assert kernel_mount.unmount(str(tmp_path), force=True) == ()  # held by nobody that can be named
    assert seen == [nofollow, nofollow | force, nofollow | detach]
    refuse_to_unmount(monkeypatch, errno.EBUSY, errno.EIO)
    with pytest.raises(Failed):
        kernel_mount.unmount(str(tmp_path), force=True)
    refuse_to_unmount(monkeypatch, errno.EBUSY, errno.EBUSY, errno.EPERM)
    with pytest.raises(Denied):
        kernel_mount.unmount(str(tmp_path), force=True)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf", Denied, "--allow-other"),
        ("too many FUSE filesystems mounted; mount_max=N can be set in /etc/fuse.conf", Denied, "mount_max"),
        ("user has no write access to mountpoint /etc", Denied, "setuid"),
        ("mount failed: Operation not permitted", Denied, "setuid"),
        ("fuse device not found, try 'modprobe fuse' first", Failed, "run as root"),
    ],
)
def test_what_fusermount3_says(words: str, error: type[MntapiError], hint: str) -> None:
    explained = _explain_fusermount(Failed(f"fusermount3 failed with status 1: fusermount3: {words}"), "/mnt/x")
    assert type(explained) is error
    assert hint in str(explained.hint)
    assert explained.path == "/mnt/x"


def test_fusermount3_hands_over_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(Failed, match="did not hand over"):
            _received(ours)
        theirs.send(b"\0")
        with pytest.raises(Failed, match="did not hand over"):
            _received(ours)


@pytest.fixture
def _not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an ordinary user had mounted device 0:77 here, and fusectl were mounted too."""
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "abort").touch()
    line = f"9 1 0:77 / {tmp_path} ro - fuse.mntapi disk ro\n"
    (mount,) = mountinfo.parse(line.encode())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(fusemount, "mount_at", lambda _path: mount)
    monkeypatch.setattr(fusemount, "CONNECTIONS", str(tmp_path))


@pytest.mark.usefixtures("_not_root")
def test_force_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def answer(command: list[str], **_: object) -> str:
        commands.append(command[1:-2])
        if len(commands) in refusals:
            raise Failed(f"fusermount3 failed with status 1: {words}")
        return ""

    monkeypatch.setattr(fusemount, "run", answer)
    refusals, words = {1}, "failed to unmount: Device or resource busy"
    assert fusemount.unmount_fuse(str(tmp_path), force=True) == ()
    assert commands == [["-u"], ["-u", "-z"]]
    assert (tmp_path / "77" / "abort").read_text() == "1"
    commands, refusals = [], {1, 2}
    with pytest.raises(Busy):
        fusemount.unmount_fuse(str(tmp_path), force=True)
    commands, words = [], "entry for /mnt not found in /etc/mtab"
    with pytest.raises(Denied, match="not found in"):
        fusemount.unmount_fuse(str(tmp_path))


def test_fuse_device_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise system(errno.EACCES)

    monkeypatch.setattr(fusemount, "ensure_node", lambda *_, **__: None)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Denied, match="cannot be opened"):
        fusemount._open_fuse()


def test_nodes_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise system(errno.EPERM)

    monkeypatch.setattr(os, "mknod", refuse)
    for kind, letter in ((0o060000, "b"), (0o020000, "c")):
        with pytest.raises(Denied, match="is missing and cannot be made") as caught:
            nodes.ensure_node(str(tmp_path / "node"), kind, 7, 3)
        assert f"mknod {tmp_path}/node {letter} 7 3" in str(caught.value.hint)


def test_interrupted_calls_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int | Exception] = [InterruptedError(), InterruptedError(), 7]

    def answer(*_: object) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ioctl.fcntl, "ioctl", answer)
    assert ioctl.ioctl(0, 1) == 7
    numbers = [errno.EINTR, errno.EINTR]

    def interrupted(*_: object) -> int:
        if not numbers:
            return 0
        libc.ctypes.set_errno(numbers.pop())
        return -1

    assert libc._checked(interrupted) == 0
    assert not numbers


def test_no_proc_filesystems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "FILESYSTEMS", str(tmp_path / "nowhere"))
    with pytest.raises(Failed, match="cannot be read"):
        filesystems.registered()


def test_the_table_of_drivers() -> None:
    """No entry replays a journal or lets the image choose to panic; FAT and UFS go by several names."""
    kinds = filesystems.DRIVERS
    for kind in ("ext3", "ext4"):
        assert all("noload" in driver.options for driver in kinds[kind])
    for kind in ("ext2", "ext3", "ext4", "nilfs2", "jfs", "vfat", "exfat"):
        assert all("errors=continue" in driver.options for driver in kinds[kind])
    for kind in ("xfs", "f2fs", "nilfs2"):
        assert all("norecovery" in driver.options for driver in kinds[kind])
    assert filesystems.drivers("fat32") == filesystems.drivers("vfat") != ()
    assert all(target in kinds for target in filesystems.ALIASES.values())
    assert filesystems.drivers("zfs_member") == ()
    assert not any("rw" in driver.options.split(",") for drivers in kinds.values() for driver in drivers)
