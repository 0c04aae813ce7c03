"""Whether idle processors are kept from halting while the bench runs.

On some hosts of virtual machines, waking a halted processor costs 100 µs and more: a server that is asked one question at a
time then shows the mood of the host and not its own speed. A process that spins on each processor, and runs only when nothing
else wants to, keeps them awake. On other hosts two processors are one core, and such a spinner halves the speed of its
neighbour. So what is better at the moment is measured before each race.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from time import perf_counter

_SPIN = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
while True:
    pass
"""
_ROUNDS = 5
_ROUND_S = 0.1


@contextmanager
def steady() -> Iterator[dict[str, float]]:
    """Keep the processors awake if that makes this machine faster; gives what was measured.

    The values are ``asleep`` and ``awake``: seconds in which two processes wake each other, without spinners and with them.
    """
    costs = _measure()
    with _spinners() if costs["awake"] < costs["asleep"] else nullcontext():
        yield costs


def _measure() -> dict[str, float]:
    asleep, awake = [], []
    for _ in range(_ROUNDS):
        asleep.append(_round_trip())
        with _spinners():
            awake.append(_round_trip())
    return {"asleep": median(asleep), "awake": median(awake)}


@contextmanager
def _spinners() -> Iterator[None]:
    spinners: list[subprocess.Popen[bytes]] = []
    try:
        for cpu in sorted(os.sched_getaffinity(0)):
            spinners.append(subprocess.Popen([sys.executable, "-S", "-c", _SPIN, str(cpu)], start_new_session=True))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def _round_trip() -> float:
    """Seconds that a byte takes to another process and back."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as echo:
        assert echo.stdin and echo.stdout  # for mypy: both are pipes
        there, back = echo.stdin.fileno(), echo.stdout.fileno()
        _pass(there, back)  # it runs
        began, count = perf_counter(), 0
        while (now := perf_counter()) < began + _ROUND_S:
            _pass(there, back)
            count += 1
    return (now - began) / count


def _pass(there: int, back: int) -> None:
    os.write(there, b".")
    os.read(back, 1)
