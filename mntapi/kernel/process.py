"""Processes by number and start time, since numbers alone are used again; and who keeps a folder busy."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Busy, Denied, NotFound
from mntapi.kernel.mountinfo import is_below

_POLL_S = 0.02


def start_time(pid: int) -> int:
    """When the process was started, in clock ticks since boot: with ``pid`` it names a process for good.

    Source: proc(5), /proc/pid/stat field 22.

    Raises:
        NotFound: there is no such process.
    """
    return _stat(pid)[1]


def is_alive(pid: int, started: int) -> bool:
    """Whether the process of that start time still runs. One that only waits to be collected (a zombie) does not."""
    try:
        state, now = _stat(pid)
    except NotFound:
        return False
    return now == started and state not in "ZXx"


def _stat(pid: int) -> tuple[str, int]:
    """State letter and start time. The name in field 2 may hold spaces and parentheses, so the last one counts."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound(f"there is no process {pid}") from error
    return fields[0].decode(), int(fields[19])


def terminate(pid: int, started: int, *, timeout_s: float = 5.0) -> bool:
    """End a process: SIGTERM, and SIGKILL when it has not ended after ``timeout_s`` seconds.

    Returns whether there was anything to end. A child of ours is left to its parent to collect.

    Raises:
        Denied: it belongs to somebody else.
        Busy: it does not even end by SIGKILL; it waits inside the kernel.
    """
    with _handle(pid) as handle:
        if not is_alive(pid, started):  # checked after the handle was taken: from here on the number cannot change hands
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            handle.send(number)
            if handle.wait(timeout_s, started):
                return True
    raise Busy(f"process {pid} cannot be ended: it waits inside the kernel", hint="abort the FUSE connection it waits for")


def wait_until_ended(pid: int, started: int, *, timeout_s: float) -> bool:
    """Whether the process has ended, or ends within ``timeout_s`` seconds."""
    with _handle(pid) as handle:
        return not is_alive(pid, started) or handle.wait(timeout_s, started)


def resident_size(pid: int) -> int | None:
    """Bytes of memory the process holds at the moment (VmRSS), None if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return None


class _Handle:
    """A process to signal and wait for: by pidfd, or by number where the kernel has none (before 5.3)."""

    def __init__(self, pid: int, fd: int | None) -> None:
        self._pid = pid
        self._fd = fd

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def send(self, number: signal.Signals) -> None:
        try:
            if self._fd is None:
                os.kill(self._pid, number)
            else:
                signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return  # it has ended by itself, and wait() will see that
        except PermissionError as error:
            raise Denied(f"process {self._pid} belongs to another user", hint="run as root") from error

    def wait(self, timeout_s: float, started: int) -> bool:
        """Whether it has ended within the time."""
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        deadline = time.monotonic() + timeout_s
        while is_alive(self._pid, started):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def _handle(pid: int) -> _Handle:
    try:
        return _Handle(pid, os.pidfd_open(pid))
    except OSError as error:
        if error.errno == errno.ESRCH:
            return _Handle(pid, None)  # gone: is_alive() says so
        if error.errno in (errno.ENOSYS, errno.EPERM):  # an old kernel, or a container's filter
            return _Handle(pid, None)
        raise Busy(f"process {pid} cannot be watched: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses something below a folder, and the first such thing found."""

    pid: int
    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}) uses {self.path}"


def users_of(folder: str) -> Iterator[User]:
    """The processes with a working folder, root, program, open file or mapped file at or below ``folder`` (absolute).

    Only links of /proc are read, nothing is looked up below the folder: psutil's ``open_files`` would ``stat`` there, and
    hang where a FUSE server does not answer. Other users' processes are seen by root only.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            path = next((path for path in _paths_of(name) if is_below(path, folder)), None)
            if path is not None:
                yield User(int(name), _name_of(name), path)


def _paths_of(pid: str) -> Iterator[str]:
    for link in ("cwd", "root", "exe"):
        yield from _links([f"/proc/{pid}/{link}"])
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
        yield from _links([f"/proc/{pid}/fd/{number}" for number in descriptors])
        with open(f"/proc/{pid}/maps", "rb") as file:
            columns = [line.split(None, 5) for line in file.read().split(b"\n")]
        yield from (os.fsdecode(fields[5]) for fields in columns if len(fields) == 6)
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        return  # another user's, or just gone: no user of the folder that we could name


def _links(links: list[str]) -> Iterator[str]:
    for link in links:
        try:
            yield os.readlink(link)
        except OSError:
            continue  # closed meanwhile, a kernel thread without a program, or not ours to see


def _name_of(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return "a process that has just ended"
