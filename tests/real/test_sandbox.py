"""A confined process, tried from inside: what it must not do fails, what a worker needs still works.

The judge is the kernel: every case runs in a process of its own, as a script that says what happened.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mntapi.kernel import landlock

REPOSITORY = Path(__file__).parents[2]

PRELUDE = """
import ctypes, gc, json, os, resource, signal, socket, struct, sys, threading, traceback
from mntapi.errors import MntapiError
from mntapi.kernel import sandbox, libc

def outcome(call):
    try:
        return repr(call())
    except OSError as error:
        return error.errno
    except MemoryError:
        return "MemoryError"

def tell(value):
    print(json.dumps(value), flush=True)
"""


def run_script(script: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> Any:
    """What the script tells; it must end cleanly."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        pass_fds=pass_fds,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

EPERM, EACCES = 1, 13


def test_what_is_in_force() -> None:
    told = run_script("""
        import dataclasses
        from mntapi.units import MIB
        report = sandbox.confine(memory_limit=256 * MIB, open_files=100)
        tell([dataclasses.asdict(report), report.is_complete])
    """)
    report, complete = told
    assert report["memory_limit"] == 256 << 20
    assert report["open_files"] == 100
    assert report["no_new_privs"] and report["not_dumpable"] and report["capabilities_dropped"]
    assert report["landlock"] == landlock.abi()
    assert complete is (not report["missing"])


def test_the_kernel_says_so() -> None:
    """/proc/PID/status of the confined process, read from outside, is the oracle."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + "sandbox.confine(memory_limit=1 << 28); tell(1); sys.stdin.read(1)"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        limits = Path(f"/proc/{process.pid}/limits").read_text() if os.geteuid() == 0 else None
    finally:
        process.communicate(b"x", timeout=30)
    assert process.returncode == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    if os.geteuid() == 0:
        assert int(fields["CapBnd"], 16) == 0
    if limits:
        rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
        assert rows["Max core file size"] == ["0", "0"]
        assert rows["Max data size"] == [str(1 << 28)] * 2
        assert rows["Max file size"] == [str(16 << 20)] * 2


def test_no_paths_no_programs_no_sockets(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    told = run_script(
        """
        victim, parent = sys.argv[1], os.getppid()
        a, b = socket.socketpair()
        sandbox.confine()
        tell({
            "open": outcome(lambda: open("/etc/passwd")),
            "open for writing": outcome(lambda: open(victim, "w")),
            "os.open": outcome(lambda: os.open(victim, os.O_RDONLY)),
            "listdir": outcome(lambda: os.listdir("/")),
            "stat": outcome(lambda: os.stat(victim)),
            "unlink": outcome(lambda: os.unlink(victim)),
            "mkdir": outcome(lambda: os.mkdir(victim + ".d")),
            "rename": outcome(lambda: os.rename(victim, victim + ".2")),
            "symlink": outcome(lambda: os.symlink("x", victim + ".l")),
            "chdir": outcome(lambda: os.chdir("/tmp")),
            "readlink": outcome(lambda: os.readlink("/proc/self/exe")),
            "fork": outcome(os.fork),
            "execve": outcome(lambda: os.execv("/bin/true", ["true"])),
            "spawn": outcome(lambda: os.posix_spawn("/bin/true", ["true"], {})),
            "socket": outcome(socket.socket),
            "socketpair": outcome(socket.socketpair),
            "bind": outcome(lambda: a.bind("x")),
            "connect": outcome(lambda: a.connect("/run/x")),
            "kill parent": outcome(lambda: os.kill(parent, 0)),
            "setuid": outcome(lambda: os.setuid(0)),
            "memfd": outcome(lambda: os.memfd_create("x")),
            "mount": outcome(lambda: libc.mount("x", "/mnt", "tmpfs", 0, None)),
            "ptrace": outcome(lambda: libc.syscall(101, 0, 0, 0, 0)),
            "unshare": outcome(lambda: libc.syscall(272, 0x10000000)),
            "clone new user": outcome(lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)),
            "io_uring_setup": outcome(lambda: libc.syscall(425, 1, None)),
            "executable memory": outcome(lambda: libc.syscall(9, 0, 4096, 7, 0x22, -1, 0)),
        })
    """,
        str(victim),
    )
    assert all(answer in (EPERM, EACCES) for answer in told.values()), told
    assert victim.read_text() == "keep me"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["victim"]


def test_what_a_worker_does_still_works(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"0123456789" * 1000)
    log = tmp_path / "log"
    ours, theirs = socket.socketpair()
    with ours, theirs, disk.open("rb") as image, log.open("ab") as log_file:
        ours.sendmsg([b"hello"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct_fd(image.fileno()))])
        told = run_script(
            """
            import time, mmap, random
            channel, log = int(sys.argv[1]), int(sys.argv[2])
            sandbox.confine(memory_limit=1 << 29)
            sock = socket.socket(fileno=channel)
            message, fds, _, _ = socket.recv_fds(sock, 100, 1)
            buffer = bytearray(10)
            results = [message.decode(), os.preadv(fds[0], [buffer], 20), buffer.decode(), os.lseek(fds[0], 0, os.SEEK_DATA)]
            results.append(os.fstat(fds[0]).st_size)
            results.append(len(mmap.mmap(fds[0], 0, prot=mmap.PROT_READ)[:]))

            sums, lock = [], threading.Lock()
            def work(number):
                block = bytearray(4096)
                for _ in range(50):
                    os.preadv(fds[0], [block], random.randrange(5000))
                with lock:
                    sums.append(number)
            threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            results.append(sorted(sums))

            try:
                import a_module_that_is_nowhere
            except ImportError:
                results.append("import fails cleanly")
            try:
                1 / 0
            except ZeroDivisionError:
                results.append("ZeroDivisionError" in traceback.format_exc())
            gc.collect()
            results.append(len(os.urandom(8)))
            time.sleep(0.001)
            os.write(log, b"a line in the log\\n")
            os.dup(log)
            os.kill(os.getpid(), 0)
            sock.sendmsg([b"reply"])
            tell(results)
            threading.Thread(target=threading.Event().wait, daemon=True).start()  # still there at exit
        """,
            str(theirs.fileno()),
            str(log_file.fileno()),
            pass_fds=(theirs.fileno(), log_file.fileno()),
        )
        assert ours.recv(10) == b"reply"
    assert told == [
        *("hello", 10, "0123456789", 0, 10000, 10000),
        [0, 1, 2, 3, 4, 5, 6, 7],
        *("import fails cleanly", True, 8),
    ]
    assert log.read_text() == "a line in the log\n"


def struct_fd(fd: int) -> bytes:
    return fd.to_bytes(4, sys.byteorder)


def test_memory_ends_with_an_exception() -> None:
    told = run_script("""
        sandbox.confine(memory_limit=128 << 20)
        first = outcome(lambda: len(bytearray(1 << 28)))
        tell([first, outcome(lambda: len(bytearray(1 << 20)))])
    """)
    assert told == ["MemoryError", str(1 << 20)]


def test_a_log_cannot_fill_the_disk(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        told = run_script(
            """
            fd = int(sys.argv[1])
            sandbox.confine(file_size_limit=1000)
            tell([os.write(fd, bytes(2000)), outcome(lambda: os.write(fd, b"x"))])
        """,
            str(log.fileno()),
            pass_fds=(log.fileno(),),
        )
    assert told == [1000, 27]  # EFBIG


def test_an_uncaught_error_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + "sandbox.confine()\nraise MntapiError('last words')"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "MntapiError: last words" in done.stderr


def test_abort_signals_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + "sandbox.confine()\nos.abort()"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT


@pytest.mark.skipif(landlock.abi() is None, reason="this kernel has no Landlock")
def test_kept_paths(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("inside")
    (tmp_path / "single").write_text("alone")
    (tmp_path / "other").write_text("outside")
    told = run_script(
        """
        root = sys.argv[1]
        sandbox.confine(keep_read_paths=[root + "/kept", root + "/single"])
        tell([
            open(root + "/kept/file").read(), open(root + "/single").read(), os.listdir(root + "/kept"),
            outcome(lambda: open(root + "/other")),
            outcome(lambda: os.listdir(root)),
            outcome(lambda: open(root + "/kept/new", "w")),
            outcome(lambda: open(root + "/kept/file", "a")),
            outcome(lambda: os.unlink(root + "/kept/file")),
            outcome(lambda: open("/etc/passwd")),
        ])
    """,
        str(tmp_path),
    )
    assert told[:3] == ["inside", "alone", ["file"]]
    assert all(answer in (EPERM, EACCES) for answer in told[3:]), told


@pytest.mark.skipif(landlock.abi() is None, reason="this kernel has no Landlock")
def test_a_kept_path_that_is_not_there(tmp_path: Path) -> None:
    told = run_script(
        """
        try:
            sandbox.confine(keep_read_paths=[sys.argv[1] + "/nowhere"])
        except MntapiError as error:
            tell([type(error).__name__, error.path])
    """,
        str(tmp_path),
    )
    assert told == ["NotFound", f"{tmp_path}/nowhere"]


@pytest.mark.skipif(landlock.abi() is None, reason="this kernel has no Landlock")
def test_landlock_alone(tmp_path: Path) -> None:
    """Each layer holds by itself: here without the system call filter."""
    told = run_script(
        """
        from mntapi.kernel import landlock
        sandbox._prctl(38, 1)
        s = socket.socket()
        version = landlock.restrict()
        tell([version, outcome(lambda: open("/etc/passwd")), outcome(lambda: open(sys.argv[1] + "/x", "w")),
              outcome(lambda: s.bind(("127.0.0.1", 0))), outcome(lambda: os.execv("/bin/true", ["true"]))])
    """,
        str(tmp_path),
    )
    assert told[0] == landlock.abi()
    assert told[1:3] == [EACCES, EACCES]
    assert told[3] == (EACCES if told[0] >= 4 else "None")
    assert told[4] == EACCES


def test_seccomp_alone() -> None:
    told = run_script("""
        from mntapi.kernel import seccomp
        sandbox._prctl(38, 1)
        seccomp.install()
        tell([outcome(lambda: open("/etc/passwd")), outcome(os.fork), outcome(socket.socket)])
    """)
    assert told == [EPERM, EPERM, EPERM]


def test_threads_come_too_late() -> None:
    told = run_script("""
        done = threading.Event()
        threading.Thread(target=done.wait).start()
        try:
            sandbox.confine()
        except MntapiError as error:
            tell(str(error))
        done.set()
    """)
    assert "several threads" in told


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_unprivileged() -> None:
    """Without root all but the bounding set, which nobody could use anyway, is in force, and the report says so."""
    told = run_script(
        """
        import dataclasses
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        report = sandbox.confine()
        tell([dataclasses.asdict(report), outcome(lambda: open("/etc/passwd"))])
    """
    )
    report, opened = told
    assert not report["bounding_set_dropped"]
    assert any("bounding set" in line for line in report["missing"])
    assert report["seccomp"] and report["no_new_privs"] and report["capabilities_dropped"]
    assert opened in (EPERM, EACCES)


def test_missing_pieces_are_named() -> None:
    """A kernel without Landlock and seccomp, played by a filter that answers ENOSYS: everything else is put in force."""
    told = run_script("""
        import dataclasses
        from mntapi.kernel import landlock, seccomp
        sandbox._prctl(38, 1)
        landlock.abi = lambda: None
        seccomp.ARCHITECTURES.clear()
        report = sandbox.confine(keep_read_paths=["/etc"])
        tell([dataclasses.asdict(report), report.is_complete])
    """)
    report, complete = told
    assert not complete
    assert report["landlock"] is None and not report["seccomp"]
    assert report["no_new_privs"]
    text = "\\n".join(report["missing"])
    assert "no Landlock: no path stays readable" in text
    assert "system call list" in text
