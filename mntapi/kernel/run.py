"""Run a command: a list of arguments, a time limit, and its own words in the error."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from mntapi.errors import Failed, NotFound
from mntapi.units import MIB

MAX_OUTPUT = 16 * MIB
"""Bytes of standard output that a command may write; more is an error, not a surprise for the memory."""
MAX_MESSAGE = 1000
"""Characters of standard error that go into an error: the last ones."""
_KILL_GRACE_S = 2.0
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")


def run(
    arguments: Sequence[str],
    *,
    timeout_s: float = 60.0,
    package: str | None = None,
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run to the end and return its standard output (surrogate-escaped).

    Standard input is empty, messages are in English (``LC_ALL=C``), the administrator's folders are on the path. Output goes
    through unnamed files, so that a command which leaves a daemon behind, as ntfs-3g does, does not keep us waiting.

    Args:
        package: the Debian package to name when the program is missing.
        pass_fds: descriptors the command inherits under the same numbers.
        variables: more environment variables.

    Raises:
        NotFound: there is no such program.
        Failed: it exited with an error, was ended by a signal, took too long or wrote too much.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        process = _start(arguments, package, pass_fds, _environment(variables or {}), output, messages)
        status = _wait(process, arguments[0], timeout_s)
        if status:
            raise Failed(_complaint(arguments[0], status, messages), hint=f"the command was: {' '.join(arguments)}")
        if output.seek(0, os.SEEK_END) > MAX_OUTPUT:
            raise Failed(f"{arguments[0]} wrote more than {MAX_OUTPUT} bytes")
        output.seek(0)
        return os.fsdecode(output.read())


def _start(
    arguments: Sequence[str],
    package: str | None,
    pass_fds: Sequence[int],
    environment: Mapping[str, str],
    output: IO[bytes],
    messages: IO[bytes],
) -> subprocess.Popen[bytes]:
    program = shutil.which(arguments[0], path=environment["PATH"])
    if program is None:
        hint = f"apt-get install {package}" if package else None
        raise NotFound(f"the program {arguments[0]} is not installed", hint=hint, reason="missing-program")
    try:
        return subprocess.Popen(
            [program, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=messages,
            env=environment,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise Failed(f"{arguments[0]} cannot be started: {error.strerror}") from error


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    folders = os.environ.get("PATH", "").split(os.pathsep)
    folders += [folder for folder in _SYSTEM_FOLDERS if folder not in folders]
    return {**os.environ, "PATH": os.pathsep.join(filter(None, folders)), "LC_ALL": "C", **variables}


def _wait(process: subprocess.Popen[bytes], name: str, timeout_s: float) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        _kill(process)
        raise Failed(f"{name} did not end within {timeout_s:g} s", reason="timeout") from error
    except BaseException:
        _kill(process)
        raise


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    try:
        process.wait(_KILL_GRACE_S)
    except subprocess.TimeoutExpired:
        # It waits inside the kernel and ends when the kernel lets it; the caller raises, and must not wait as well.
        return


def _complaint(name: str, status: int, messages: IO[bytes]) -> str:
    end = messages.seek(0, os.SEEK_END)
    messages.seek(max(0, end - 4 * MAX_MESSAGE))
    text = "; ".join(line.strip() for line in os.fsdecode(messages.read()).splitlines() if line.strip())
    ending = f"was ended by signal {-status}" if status < 0 else f"failed with status {status}"
    return f"{name} {ending}: {text[-MAX_MESSAGE:]}" if text else f"{name} {ending}"
