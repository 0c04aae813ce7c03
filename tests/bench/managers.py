"""Volumes over several disks beside a raw file of the same size, both through our own block files: what a manager costs.

Processor time is told besides speed: that of the worker alone, which other programs on the machine disturb less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench import servers
from bench.commands import MNTAPI, Pattern, cache, fio, output
from bench.race import Heat, Race, Racer
from bench.report import Quantity, Role
from bench.servers import Server
from bench.work import Bench, Section
from mntapi.units import KIB, MIB

_PATTERNS = (
    Pattern("4 KiB random", "randread", 4 * KIB),
    Pattern("1 MiB sequential", "read", MIB),
)


def managers(bench: Bench) -> Iterator[Race[Any]]:
    """Linear, striped, and RAID 5 without one of its disks."""
    raw, group, degraded = bench.disks.random(), bench.disks.group(), bench.disks.degraded()
    for name, disks, volume in (
        ("LVM linear", group, "bench-linear"),
        ("LVM striped", group, "bench-striped"),
        ("RAID 5, degraded", degraded, None),
    ):
        for path in (raw, *disks):
            _cache_anew(path)
        racers = [
            Racer("mntapi", _opener(bench, disks, volume), ("fio",), Role.OURS, tuple(disks)),
            Racer("raw, mntapi", _opener(bench, [raw], "disk0"), ("fio",), reads=(raw,)),
        ]
        yield Race(name, racers, [_heat(bench, pattern, name) for pattern in _PATTERNS])


def _cache_anew(path: Path) -> None:
    """Bring files that are compared into the page cache in one way and at one time: it keeps them in large pieces or page by
    page, as they came, and a megabyte of the latter costs twice as much to read."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    cache(path)


def _heat(bench: Bench, pattern: Pattern, work: str) -> Heat[Server]:
    """As many direct reads as there is time for, and what each of them costs the worker."""
    speed = bench.fio_heat(pattern, work)
    cost = Quantity(f"{work}, {pattern.name}, processor", "µs a read", higher_is_better=False)

    def run(server: Server) -> Sequence[float]:
        before = _seconds(server.pid)
        read = fio(server.path, pattern, bench._settings.seconds)
        microseconds = (_seconds(server.pid) - before) * 1e6 / read["total_ios"]
        return (read["iops"] if pattern.block_size < 64 * KIB else read["bw_bytes"] / MIB, microseconds)

    return Heat((*speed.quantities, cost), run)


def _seconds(pid: int) -> float:
    """Processor time that a process has used, in its own code and in the kernel."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _opener(bench: Bench, disks: Sequence[Path], volume: str | None) -> Any:
    @contextmanager
    def opened() -> Iterator[Server]:
        with servers.mntapi(disks[0], bench.place(), layout="blocks", more=disks[1:]) as server:
            name = volume or _array(disks)
            yield Server(server.path / "volumes" / name, server.pid)

    return opened


def _array(disks: Sequence[Path]) -> str:
    more = [argument for disk in disks[1:] for argument in ("-d", disk)]
    volumes = json.loads(output(MNTAPI, "info", "--json", disks[0], *more))["volumes"]
    return next(str(volume["name"]) for volume in volumes if volume["kind"] == "md")


SECTIONS: dict[str, Section] = {"managers": managers}
