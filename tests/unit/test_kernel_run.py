"""Running commands, with the programs every Debian has."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mntapi.errors import Failed, NotFound
from mntapi.kernel import run as run_module
from mntapi.kernel.run import run


def test_output() -> None:
    assert run(["printf", "a b\n\\377"]) == "a b\n\udcff"


def test_no_shell() -> None:
    assert run(["printf", "%s", "$HOME; `id`"]) == "$HOME; `id`"


def test_standard_input_is_empty() -> None:
    assert run(["cat"]) == ""


def test_environment() -> None:
    told = dict(line.split("=", 1) for line in run(["env"], variables={"EXTRA": "1"}).splitlines() if "=" in line)
    assert told["LC_ALL"] == "C"
    assert told["EXTRA"] == "1"
    assert {"/usr/sbin", "/sbin"} <= set(told["PATH"].split(":"))


def test_descriptors() -> None:
    reading, writing = os.pipe()
    try:
        run(["sh", "-c", f"echo through >/proc/self/fd/{writing}"], pass_fds=[writing])
        assert os.read(reading, 100) == b"through\n"
        with pytest.raises(Failed):
            run(["sh", "-c", f"echo through >/proc/self/fd/{writing}"])
    finally:
        os.close(reading)
        os.close(writing)


def test_failure_with_its_own_words() -> None:
    with pytest.raises(Failed, match=r"sh failed with status 3: first; second") as caught:
        run(["sh", "-c", "echo first >&2; echo; echo second >&2; exit 3"])
    assert "the command was: sh -c" in str(caught.value.hint)


def test_failure_without_words() -> None:
    with pytest.raises(Failed, match=r"false failed with status 1$"):
        run(["false"])


def test_ended_by_a_signal() -> None:
    with pytest.raises(Failed, match="was ended by signal 9"):
        run(["sh", "-c", "kill -9 $$"])


def test_words_are_bounded() -> None:
    with pytest.raises(Failed) as caught:
        run(["sh", "-c", "yes x | head -c 1000000 >&2; echo the end >&2; exit 1"])
    assert len(caught.value.what) < run_module.MAX_MESSAGE + 100
    assert caught.value.what.endswith("the end")


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "MAX_OUTPUT", 10)
    assert run(["printf", "0123456789"]) == "0123456789"
    with pytest.raises(Failed, match="wrote more than 10 bytes"):
        run(["printf", "0123456789a"])


def test_missing_program() -> None:
    with pytest.raises(NotFound, match="fusermount9 is not installed") as caught:
        run(["fusermount9"], package="fuse9")
    assert caught.value.hint == "apt-get install fuse9"
    assert caught.value.reason == "missing-program"
    with pytest.raises(NotFound) as caught:
        run(["fusermount9"])
    assert caught.value.hint is None


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(Failed, match="cannot be started"):
        run([str(path)])


def test_too_slow() -> None:
    with pytest.raises(Failed, match=r"sleep did not end within 0.05 s") as caught:
        run(["sleep", "100"], timeout_s=0.05)
    assert caught.value.reason == "timeout"


def test_a_process_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits inside the kernel: the error comes all the same. Played by a kill that does nothing."""
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(run_module, "_KILL_GRACE_S", 0.05)
    monkeypatch.setattr(subprocess.Popen, "kill", lambda self: started.append(self))
    with pytest.raises(Failed, match="did not end"):
        run(["sleep", "100"], timeout_s=0.05)
    monkeypatch.undo()
    started[0].kill()
    started[0].wait()


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it runs: the program is ended before the exception goes on."""
    started: list[subprocess.Popen[bytes]] = []
    wait = subprocess.Popen.wait

    def interrupt(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if not started:
            started.append(self)
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "100"])
    assert started[0].returncode == -signal.SIGKILL


def test_a_daemon_left_behind_does_not_keep_us(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    before = time.monotonic()
    run(["sh", "-c", f"sleep 30 & echo $! > {pid_file}"])
    os.kill(int(pid_file.read_text()), signal.SIGKILL)  # it lives: run() did not wait for it
    assert time.monotonic() - before < 30
