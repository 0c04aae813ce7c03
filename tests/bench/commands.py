"""Running programs: to the end and timed, as load (fio), and as figures of the machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from mntapi.units import MIB

MNTAPI = str(Path(sys.executable).with_name("mntapi"))
"""Our command, of the environment that runs the bench."""
_SEED = 20260101


class Failure(Exception):
    """A program failed, or did not do what it was measured for. The text names it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: on the clock, and of all processors (user and system) for the program and the children it waited for."""

    wall: float
    cpu: float


def output(*command: object) -> str:
    """What a program prints; raises Failure with its last words if it fails."""
    argv = [str(one) for one in command]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise _failure(argv, done.returncode, done.stderr)
    return done.stdout


def timed(command: Sequence[str]) -> Timing:
    """Run a program to its end, its output thrown away. Raises Failure."""
    with tempfile.TemporaryFile("w+") as errors:
        began = perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            _pid, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise _failure(command, process.returncode, _all_of(errors))
    return Timing(wall, usage.ru_utime + usage.ru_stime)


def _all_of(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _failure(command: Sequence[str], status: int, errors: str) -> Failure:
    last = errors.strip().splitlines()[-1:] or ["says nothing"]
    return Failure(f"{Path(command[0]).name} ended with status {status}: {last[0]}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """How fio reads: ``block_size`` bytes at a time, ``depth`` of them asked for at once.

    ``align``: only at multiples of so many bytes; ``size``: only so many first bytes of the file.
    """

    name: str
    rw: str
    block_size: int
    depth: int = 1
    align: int | None = None
    size: int | None = None


def fio(path: Path, pattern: Pattern, seconds: float) -> dict[str, Any]:
    """Read a file with direct I/O for some seconds; returns fio's figures of the reads. The same offsets every time."""
    engine = "libaio" if pattern.depth > 1 else "psync"
    where = [f"--blockalign={pattern.align}"] if pattern.align else []
    where += [f"--size={pattern.size}"] if pattern.size else []
    report = output(
        "fio", "--name=bench", "--readonly", "--thread", "--direct=1", "--norandommap", "--time_based",
        "--output-format=json", f"--filename={path}", f"--rw={pattern.rw}", f"--bs={pattern.block_size}",
        f"--ioengine={engine}", f"--iodepth={pattern.depth}", f"--runtime={seconds}", f"--randseed={_SEED}", *where,
    )  # fmt: skip
    job = json.loads(report[report.index("{") :])["jobs"][0]
    if job["error"] or not job["read"]["total_ios"]:
        raise Failure(f"fio read nothing, error {job['error']}")
    read: dict[str, Any] = job["read"]
    return read


def cache(path: Path) -> None:
    """Read a file of the host, so that it is in the page cache: virtual machines are made to give cold pages back soon."""
    buffer = memoryview(bytearray(4 * MIB))
    with path.open("rb", buffering=0) as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while (start := _next_data(file.fileno(), end)) < size:
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < end:
                start += os.preadv(file.fileno(), [buffer[: end - start]], start)


def _next_data(fd: int, offset: int) -> int:
    """The first byte at or after ``offset`` that is no hole, or the end of the file."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(fd).st_size
        raise
