"""Starting a process that outlives the command which starts it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mntapi.errors import Failed


def spawn_detached(arguments: Sequence[str], *, pass_fds: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: no terminal, no Ctrl-C from one, standard output and error into ``log``.

    Args:
        arguments: the program and its arguments; nothing goes through a shell.
        pass_fds: descriptors it inherits, under the same numbers.
        log: made new, readable by the owner only.

    Raises:
        Failed: it cannot be started.
    """
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            cwd="/",
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise Failed(f"cannot be started: {error.strerror}", path=arguments[0]) from error
    finally:
        os.close(fd)
