"""Work on containers: every format beside QEMU's readers, chains beside a single link, converting beside qemu-img."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from bench import servers
from bench.commands import MNTAPI, Pattern, timed
from bench.disks import CLUSTER, CONTAINERS
from bench.race import Heat, Race, Racer
from bench.report import Quantity, Role
from bench.servers import Server
from bench.work import Bench, Section, checked
from mntapi.units import KIB, MIB

_PATTERNS = (
    Pattern("4 KiB random", "randread", 4 * KIB, align=2 * MIB),
    Pattern("1 MiB sequential", "read", MIB),
)
_CHAIN_PATTERNS = (
    Pattern("4 KiB random", "randread", 4 * KIB, align=CLUSTER),
    Pattern("1 MiB sequential", "read", MIB),
)
_TARGETS = {"raw": "raw", "qcow2": "qcow2", "vmdk-stream": "vmdk", "vhdx": "vhdx"}
"""Formats that mntapi writes, and qemu-img's name of each."""


def formats(bench: Bench) -> Iterator[Race[Any]]:
    """The disk of each format as a file."""
    for name, options in CONTAINERS.items():
        disk, raw = bench.disks.container(name)
        racers = _racers(bench, disk, raw, options[1])
        yield Race(name, racers, [bench.fio_heat(pattern, name) for pattern in _PATTERNS])


def chains(bench: Bench) -> Iterator[Race[Any]]:
    """QCOW2 chains of 1, 8 and 32 links, and the longest of them beside the shortest."""
    for links in (1, 8, 32):
        disk, raw = bench.disks.chain(links)
        heats = [bench.fio_heat(pattern, f"chain of {links}") for pattern in _CHAIN_PATTERNS]
        yield Race(f"chain {links}", _racers(bench, disk, raw, "qcow2"), heats)
    single, long = (bench.disks.chain(links) for links in (1, 32))
    racers = [
        Racer("mntapi, 32 links", lambda: bench.block_file(long[0]), role=Role.OURS),
        Racer("mntapi, 1 link", lambda: bench.block_file(single[0])),
    ]
    yield Race("depth", racers, [bench.fio_heat(pattern, "32 links beside 1") for pattern in _CHAIN_PATTERNS])


def convert(bench: Bench) -> Iterator[Race[Any]]:
    """A sparse VMDK to each format that is written.

    Both promise that the new file is on the medium when they end; qemu-img does so only with ``-t writeback``.
    """
    disk, _raw = bench.disks.container("vmdk")
    for ours, theirs in _TARGETS.items():
        options = ["-o", "subformat=streamOptimized"] if ours == "vmdk-stream" else []
        commands = {
            "mntapi": [MNTAPI, "convert", "--format", ours],
            "qemu-img": ["qemu-img", "convert", "-t", "writeback", "-O", theirs, *options],
        }
        racers = [
            Racer(name, partial(nullcontext, [*command, str(disk)]), (command[0],), _role(name), (disk,))
            for name, command in commands.items()
        ]
        quantities = (
            Quantity(f"convert 1 GiB to {ours}", "s", higher_is_better=False),
            Quantity(f"convert 1 GiB to {ours}, processor time", "s", higher_is_better=False),
        )
        yield Race(f"convert {ours}", racers, [Heat(quantities, partial(_converted, bench))])


def _role(name: str) -> Role:
    return Role.OURS if name == "mntapi" else Role.PEER


def _converted(bench: Bench, command: list[str]) -> Sequence[float]:
    target = bench.place()
    try:
        timing = timed([*command, str(target)])
        return timing.wall, timing.cpu
    finally:
        target.unlink(missing_ok=True)


def _racers(bench: Bench, disk: Path, raw: Path, driver: str) -> list[Racer[Server]]:
    def ours() -> AbstractContextManager[Server]:
        return bench.block_file(disk)

    def daemon() -> AbstractContextManager[Server]:
        return servers.qemu_storage_daemon(disk, bench.place(), driver=driver)

    def nbd() -> AbstractContextManager[Server]:
        return servers.nbdfuse(disk, bench.place(), driver=driver)

    return [
        Racer("mntapi", checked(ours, raw), ("fio",), Role.OURS, (disk,)),
        Racer("qemu-storage-daemon", checked(daemon, raw), ("fio", "qemu-storage-daemon"), reads=(disk,)),
        Racer("nbdfuse", checked(nbd, raw), ("fio", "nbdfuse", "qemu-nbd"), reads=(disk,)),
    ]


SECTIONS: dict[str, Section] = {"formats": formats, "chains": chains, "convert": convert}
