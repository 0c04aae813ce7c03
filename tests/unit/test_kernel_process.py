"""Processes. Oracle: psutil, which reads the same kernel in another way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mntapi.errors import Busy, Denied, NotFound
from mntapi.kernel import process
from mntapi.kernel.process import is_alive, resident_size, start_time, terminate, users_of, wait_until_ended

NO_PID = 2**22 + 1  # above the largest that Linux gives out


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as running:
        yield running
        running.kill()


@pytest.fixture(params=["pidfd", "old kernel", "container"])
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pidfds, without them (before Linux 5.3), and where a filter forbids them."""
    number = {"old kernel": 38, "container": 1}.get(request.param)
    if number is None:
        return

    def refuse(_pid: int, _flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)


def test_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    seconds = psutil.Process(sleeper.pid).create_time() - psutil.boot_time()
    assert start_time(sleeper.pid) / os.sysconf("SC_CLK_TCK") == pytest.approx(seconds, abs=2)
    with pytest.raises(NotFound, match="no process"):
        start_time(NO_PID)


def test_a_name_with_parentheses(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "100"]) as running:
        seconds = psutil.Process(running.pid).create_time() - psutil.boot_time()
        assert start_time(running.pid) / os.sysconf("SC_CLK_TCK") == pytest.approx(seconds, abs=2)
        running.kill()


def test_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    started = start_time(sleeper.pid)
    assert is_alive(sleeper.pid, started)
    assert not is_alive(sleeper.pid, started + 1)  # the number was used again
    assert not is_alive(NO_PID, started)


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    started = start_time(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE
    assert not is_alive(sleeper.pid, started)


def test_resident_size() -> None:
    command = [sys.executable, "-S", "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        size = resident_size(running.pid)
        assert size is not None
        assert size == pytest.approx(psutil.Process(running.pid).memory_info().rss, rel=0.1)
        running.communicate(b"\n")
    assert resident_size(NO_PID) is None


@pytest.mark.usefixtures("_kernel")
def test_terminate(sleeper: subprocess.Popen[bytes]) -> None:
    started = start_time(sleeper.pid)
    assert not terminate(sleeper.pid, started + 1)
    assert sleeper.poll() is None
    assert terminate(sleeper.pid, started)
    assert sleeper.wait() == -signal.SIGTERM
    assert not terminate(sleeper.pid, started)
    assert not terminate(NO_PID, started)


@pytest.mark.usefixtures("_kernel")
def test_terminate_what_does_not_listen() -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert terminate(running.pid, start_time(running.pid), timeout_s=0.1)
        assert running.wait() == -signal.SIGKILL


def test_terminate_what_cannot_end(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)  # as if it waited inside the kernel
    with pytest.raises(Busy, match="waits inside the kernel"):
        terminate(sleeper.pid, start_time(sleeper.pid), timeout_s=0.01)


def test_terminate_what_has_just_ended(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_fd: int, _number: int) -> None:
        sleeper.kill()
        raise ProcessLookupError

    monkeypatch.setattr(signal, "pidfd_send_signal", gone)
    assert terminate(sleeper.pid, start_time(sleeper.pid))


def test_terminate_what_is_not_ours(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with pytest.raises(Denied, match="another user"):
        terminate(sleeper.pid, start_time(sleeper.pid))


def test_no_descriptor_for_a_handle(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _flags: int = 0) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(Busy, match="cannot be watched"):
        terminate(sleeper.pid, start_time(sleeper.pid))


@pytest.mark.usefixtures("_kernel")
def test_wait_until_ended(sleeper: subprocess.Popen[bytes]) -> None:
    started = start_time(sleeper.pid)
    assert not wait_until_ended(sleeper.pid, started, timeout_s=0.01)
    sleeper.kill()
    assert wait_until_ended(sleeper.pid, started, timeout_s=30)
    sleeper.wait()
    assert wait_until_ended(sleeper.pid, started, timeout_s=0)


def test_users_of(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "folder2").mkdir()
    file = folder / "file"
    file.write_bytes(bytes(5000))
    program = folder / "program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    mapped = "import mmap, sys, time; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=1); f.close(); "
    say = "print(1, flush=True); time.sleep(100)"
    commands = {
        "cwd": (["sh", "-c", "echo 1; exec sleep 100"], folder, folder),
        "program": (["sh", "-c", f"echo 1; exec {program} 100"], tmp_path, program),
        "open": ([sys.executable, "-c", "import sys, time; f = open(sys.argv[1]); " + say, str(file)], tmp_path, file),
        "mapped": ([sys.executable, "-c", mapped + say, str(file)], tmp_path, file),
        "neighbour": (["sh", "-c", "echo 1; exec sleep 100"], tmp_path / "folder2", None),
    }
    running = {}
    try:
        for name, (command, cwd, _) in commands.items():
            running[name] = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE)
        for one in running.values():
            assert one.stdout is not None
            one.stdout.readline()
        while Path(f"/proc/{running['program'].pid}/exe").readlink() != program:
            os.sched_yield()  # until the shell has become it
        found = {user.pid: user for user in users_of(str(folder))}
        for name, (_, _, path) in commands.items():
            if path is None:
                assert running[name].pid not in found
            else:
                assert found[running[name].pid].path == str(path), name
        text = str(found[running["program"].pid])
        assert text == f"program (pid {running['program'].pid}) uses {program}"
    finally:
        for one in running.values():
            one.kill()
            one.communicate()


def test_a_name_of_what_has_ended() -> None:
    assert process._name_of(str(NO_PID)) == "a process that has just ended"
    assert list(process._paths_of(str(NO_PID))) == []
