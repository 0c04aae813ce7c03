"""Real servers for tests: they inherit a listening socket of ours, so no port is guessed and nothing is waited for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

_ACTIVATE = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&"$SOCKET_FD"'
"""The socket activation of systemd, which nbdkit and qemu-nbd know: descriptor 3."""


def listen_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(16)
    return sock


def listen_tcp() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(16)
    return sock


@contextlib.contextmanager
def serving(sock: socket.socket, *argv: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on the socket until the block ends."""
    process = subprocess.Popen(
        ["bash", "-c", _ACTIVATE, "bash", *map(str, argv)],
        env={**os.environ, "SOCKET_FD": str(sock.fileno())},
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()  # asked politely, nbdkit waits for its clients to go
        process.wait()
