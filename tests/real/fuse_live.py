"""A live mount for tests: mounts, starts ``fuse_server.py``, and leaves neither mount nor process behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mntapi.kernel.fusemount import open_fuse_and_mount
from mntapi.kernel.mountinfo import mount_at

ROOT = Path(__file__).parents[2]
CONFORMANCE = ROOT / "fuse" / "conformance"
BACKENDS = ("kernel", "fusepy")
LIMIT_S = 60
"""A hang is a failure; nothing measures time."""
SERVER = Path(__file__).with_name("fuse_server.py")


def need(*programs: str) -> None:
    """Skip unless FUSE can be mounted here and the programs are installed."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


class Live:
    """A mount and the process that serves it. ``fd`` is our copy of its descriptor, -1 once dropped."""

    def __init__(self, target: Path, fd: int) -> None:
        self.target = target
        self.fd = fd
        entry = mount_at(str(target))
        self._device = ":".join(map(str, entry.device)) if entry else ""
        self._listen, self._status = os.pipe()
        self._gate, self.gate = os.pipe()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, tree: dict[str, Any], **spec: Any) -> None:
        """Start a server and wait until it is ready."""
        self.launch(tree, **spec)
        self.told("R")

    def told(self, letter: str) -> None:
        """Wait until the server says so on its status pipe; see ``fuse_server.py``."""
        assert self.process is not None
        ended = os.pidfd_open(self.process.pid)
        ready, _, _ = select.select([self._listen, ended], [], [], LIMIT_S)
        os.close(ended)
        assert self._listen in ready, "the server said nothing"
        assert os.read(self._listen, 1).decode() == letter

    def launch(self, tree: dict[str, Any], *, backend: str = "kernel", gated: bool = False, **spec: Any) -> None:
        """Start a server."""
        spec |= {"tree": tree, "backend": backend, "fd": self.fd, "status": self._status}
        spec |= {"gate": self._gate} if gated else {}
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "fuse", ROOT / "tests"))
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), json.dumps(spec)],
            env=os.environ | {"PYTHONPATH": paths},
            pass_fds=[self.fd, self._status, self._gate],
            stdin=subprocess.DEVNULL,
        )

    def drop(self) -> None:
        """Close our copy of the descriptor: the mount now dies with its server."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def wait(self) -> int:
        """The server's exit code, when it has ended."""
        assert self.process is not None
        try:
            return self.process.wait(LIMIT_S / 4)
        except subprocess.TimeoutExpired:
            if not self._is_mounted_elsewhere():
                raise
            pytest.skip("another mount namespace, made meanwhile by another program, still holds the mount")

    def _is_mounted_elsewhere(self) -> bool:
        for path in Path("/proc").glob("[0-9]*/mountinfo"):
            with contextlib.suppress(OSError):
                if self._device in path.read_text(errors="replace").split():
                    return True
        return False

    def unmount(self) -> None:
        subprocess.run(["umount", self.target], check=True, capture_output=True)

    def close(self) -> None:
        self.drop()
        with contextlib.suppress(OSError):
            os.write(self.gate, b"x" * 4096)
        for fd in (self._listen, self._status, self._gate, self.gate):
            os.close(fd)
        if mount_at(str(self.target)) is not None:
            subprocess.run(["umount", "-l", self.target], check=True)
        if self.process is not None:
            self.process.kill()  # that it ends by itself is what wait() is for
            self.process.wait()


@contextlib.contextmanager
def live(target: Path, tree: dict[str, Any] | None = None, **spec: Any) -> Iterator[Live]:
    """Mount on ``target`` (made if absent) and serve ``tree``; the caller starts a server itself where it is None."""
    target.mkdir(exist_ok=True)
    fd = open_fuse_and_mount(str(target), fsname="test", allow_other=True, default_permissions=True)
    mount = Live(target, fd)
    try:
        if tree is not None:
            mount.start(tree, **spec)
            mount.drop()
        yield mount
    finally:
        mount.close()


def run(*command: str | Path) -> str:
    """The program's output; its standard error is in the failure, if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, timeout=300)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{command}: {output[-3000:]}{done.stderr.decode(errors='replace')[-3000:]}"
    return output
