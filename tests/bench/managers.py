"""Volumes over several disks beside a raw file of the same size, both through our own block files: what a manager costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import servers
from bench.commands import MNTAPI, Pattern, output
from bench.race import Race, Racer
from bench.report import Role
from bench.servers import Server
from bench.work import Bench, Section
from mntapi.units import KIB, MIB

_PATTERNS = (
    Pattern("4 KiB random", "randread", 4 * KIB),
    Pattern("1 MiB sequential", "read", MIB),
)


def managers(bench: Bench) -> Iterator[Race[Any]]:
    """Linear, striped, and RAID 5 without one of its disks."""
    raw = bench.disks.random()
    for name, disks, volume in (
        ("LVM linear", bench.disks.group(), "bench-linear"),
        ("LVM striped", bench.disks.group(), "bench-striped"),
        ("RAID 5, degraded", bench.disks.degraded(), None),
    ):
        racers = [
            Racer("mntapi", _opener(bench, disks, volume), ("fio",), Role.OURS, tuple(disks)),
            Racer("raw, mntapi", _opener(bench, [raw], "disk0"), ("fio",), reads=(raw,)),
        ]
        yield Race(name, racers, [bench.fio_heat(pattern, name) for pattern in _PATTERNS])


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
