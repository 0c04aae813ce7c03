"""The work that is measured: each section makes the races of one row of the README's promise. ``SECTIONS`` is the list."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import servers
from bench.commands import MNTAPI, Failure, Pattern, fio, timed
from bench.disks import BIG_FILE, BIG_SIZE, DENSE, KINDS, Disk, Disks
from bench.race import Heat, Race, Racer
from bench.report import Quantity, Role
from bench.servers import Server
from mntapi.kernel.process import resident_size
from mntapi.units import KIB, MIB

PATTERNS = (
    Pattern("4 KiB random, 1 deep", "randread", 4 * KIB, align=MIB),
    Pattern("4 KiB random, 16 deep", "randread", 4 * KIB, depth=16, align=MIB),
    Pattern("64 KiB random", "randread", 64 * KIB, align=MIB),
    Pattern("1 MiB sequential", "read", MIB, size=DENSE),
)
"""What is read of the thin disk: nothing of it is a hole, since there is an island at each multiple of a MiB."""
_ANYWHERE = Pattern("4 KiB anywhere", "randread", 4 * KIB)
_LOOK_AROUND_S = 1.0
"""How long a server is read from before its memory is looked at."""
_DISSECT = """
import sys
from dissect.target import Target
for volume in Target.open(sys.argv[1]).volumes:
    print(volume.name, volume.offset, volume.size, volume.fs)
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How thoroughly: seconds of each fio run, peers that take long, the folder with dissect's ``python``."""

    scratch: Path
    seconds: float
    slow: bool
    dissect: Path | None


class Bench:
    """Makes races from disks. A section is a method; each racer gets a fresh place below the scratch folder."""

    def __init__(self, settings: Settings, disks: Disks) -> None:
        self._settings = settings
        self._disks = disks
        self._numbers = itertools.count()

    @property
    def disks(self) -> Disks:
        """What is read."""
        return self._disks

    @property
    def dissect(self) -> Path | None:
        """The folder with dissect's programs, None where there is none."""
        return self._settings.dissect

    def place(self) -> Path:
        """A fresh path below the scratch folder."""
        return self._settings.scratch / f"at{next(self._numbers)}"

    def open(self) -> Iterator[Race[Any]]:
        """A new process opens a disk and lists its volumes with their file systems."""
        for name, disk in (("6 GiB", self._disks.small()), ("62 TiB", self._disks.huge())):
            quantities = (
                Quantity(f"open and list {name}, time", "s", higher_is_better=False),
                Quantity(f"open and list {name}, processor time", "s", higher_is_better=False),
            )
            yield Race(f"open {name}", self._listers(disk.vmdk), [Heat(quantities, _time_and_cpu)])

    def _listers(self, vmdk: Path) -> list[Racer[list[str]]]:
        dissect = str(self._settings.dissect / "python") if self._settings.dissect else "dissect: set MNTAPI_BENCH_DISSECT"
        racers = [
            _lister("mntapi", [MNTAPI, "info", "--json"], vmdk, role=Role.OURS),
            _lister("dissect", [dissect, "-c", _DISSECT], vmdk),
        ]
        if self._settings.slow:
            racers.append(_lister("virt-filesystems", ["virt-filesystems", "--all", "--long", "--format=vmdk", "-a"], vmdk))
        return racers

    def blocks(self) -> Iterator[Race[Any]]:
        """The disk as a file, read with direct I/O."""
        disk = self._disks.thin()
        raw = disk.raw["disk"]
        openers: dict[str, Callable[[], AbstractContextManager[Server]]] = {
            "mntapi": lambda: self.block_file(disk.vmdk),
            "qemu-storage-daemon": lambda: self._block_file_of_qemu(disk.vmdk),
            "nbdfuse": lambda: servers.nbdfuse(disk.vmdk, self.place()),
            "vmdkmount": lambda: servers.vmdkmount(disk.vmdk, self.place()),
            "bindfs": lambda: servers.bindfs(raw, self.place()),
        }
        needs = {"mntapi": (), "nbdfuse": ("nbdfuse", "qemu-nbd")}
        roles = {"mntapi": Role.OURS, "bindfs": Role.LIMIT}
        racers = [
            Racer(
                name,
                checked(opener, raw),
                ("fio", *needs.get(name, (name,))),
                roles.get(name, Role.PEER),
                (raw if name == "bindfs" else disk.vmdk,),
            )
            for name, opener in openers.items()
        ]
        yield Race("blocks", racers, [self.fio_heat(pattern) for pattern in PATTERNS])

    def fio_heat(self, pattern: Pattern, work: str = "block file") -> Heat[Server]:
        """Direct reads of a block file; small ones are counted, large ones weighed."""
        small = pattern.block_size < 64 * KIB
        quantity = Quantity(f"{work}, {pattern.name}", "IOPS" if small else "MiB/s", higher_is_better=True)

        def run(server: Server) -> Sequence[float]:
            read = fio(server.path, pattern, self._settings.seconds)
            return (read["iops"] if small else read["bw_bytes"] / MIB,)

        return Heat((quantity,), run)

    def files(self) -> Iterator[Race[Any]]:
        """A large file out of a file system: the host file is in the page cache, the served file is not."""
        disk = self._disks.small()
        for kind in KINDS:
            quantity = Quantity(f"{BIG_SIZE // MIB} MiB file of {kind}", "MiB/s", higher_is_better=True)
            yield Race(f"files {kind}", self._readers(disk, kind), [Heat((quantity,), _megabytes_a_second)])

    def _readers(self, disk: Disk, kind: str) -> list[Racer[_Reading]]:
        volume, raw = disk.volume(kind), disk.raw[kind]

        @contextmanager
        def mounted() -> Iterator[_Reading]:
            with servers.mntapi(disk.vmdk, self.place(), layout="volumes") as server:
                yield _cat(server.path / volume / BIG_FILE)

        @contextmanager
        def native() -> Iterator[_Reading]:
            with self._native(raw, kind) as server:
                yield _cat(server.path / BIG_FILE)

        ours = _Reading([MNTAPI, "cat", str(disk.vmdk), f"/{volume}/{BIG_FILE}"], None)
        return [
            Racer("mntapi mount", mounted, role=Role.OURS, reads=(disk.vmdk,)),
            Racer("mntapi cat", lambda: nullcontext(ours), role=Role.OURS, reads=(disk.vmdk,)),
            Racer(_native_name(kind), native, _native_needs(kind), reads=(raw,)),
        ]

    def walk(self) -> Iterator[Race[Any]]:
        """Every name, inode and size of a volume with 75,000 entries; one folder with 100,000, as ``ls -l`` reads it, which
        asks for two extended attributes of each file. Nothing is cached."""
        for kind in KINDS:
            quantity = Quantity(f"walk 75,000 entries of {kind}", "s", higher_is_better=False)
            yield Race(f"walk {kind}", self._walkers(self._disks.crowd(kind), kind), [Heat((quantity,), lambda run: (run(),))])
        quantity = Quantity("ls -l of 100,000 files in one folder of xfs", "s", higher_is_better=False)
        yield Race("walk folder", self._listers_of_a_folder(self._disks.folder()), [Heat((quantity,), lambda run: (run(),))])

    def _listers_of_a_folder(self, disk: Disk) -> list[Racer[Callable[[], float]]]:
        raw, volume = disk.raw["xfs"], disk.volume("xfs")

        def mounted() -> float:
            with servers.mntapi(disk.vmdk, self.place(), layout="volumes") as server:
                return _list(server.path / volume / "many")

        def native() -> float:
            with self._native(raw, "xfs") as server:
                return _list(server.path / "many")

        return [
            Racer("mntapi mount", lambda: nullcontext(mounted), role=Role.OURS, reads=(disk.vmdk,)),
            Racer("ls on kernel xfs", lambda: nullcontext(native), ("mkfs.xfs",), reads=(raw,)),
        ]

    def _walkers(self, disk: Disk, kind: str) -> list[Racer[Callable[[], float]]]:
        raw = disk.raw[kind]

        def mounted() -> float:
            with servers.mntapi(disk.vmdk, self.place(), layout="volumes") as server:
                return _find(server.path)

        def native() -> float:
            with self._native(raw, kind) as server:
                return _find(server.path)

        def ours() -> float:
            return timed([MNTAPI, "find", str(disk.vmdk)]).wall

        def fls() -> float:
            return timed(["fls", "-r", str(raw)]).wall

        return [
            Racer("mntapi mount", lambda: nullcontext(mounted), role=Role.OURS, reads=(disk.vmdk,)),
            Racer("mntapi find", lambda: nullcontext(ours), role=Role.OURS, reads=(disk.vmdk,)),
            Racer("fls -r", lambda: nullcontext(fls), ("fls",), reads=(raw,)),
            Racer(f"find on {_native_name(kind)}", lambda: nullcontext(native), _native_needs(kind), reads=(raw,)),
        ]

    def memory(self) -> Iterator[Race[Any]]:
        """Resident size of the serving process, after each round of reading through it."""
        for name, disk in (("6 GiB", self._disks.small()), ("62 TiB", self._disks.huge())):
            racers = [
                Racer("mntapi", partial(self.block_file, disk.vmdk), ("fio",), Role.OURS),
                Racer("qemu-storage-daemon", partial(self._block_file_of_qemu, disk.vmdk), ("fio", "qemu-storage-daemon")),
            ]
            quantity = Quantity(f"memory, {name} disk read at random", "MiB", higher_is_better=False)
            yield Race(f"memory {name}", racers, [Heat((quantity,), _memory_after_reading)])
        quantity = Quantity("memory, 6 GiB disk, after find and cat", "MiB", higher_is_better=False)
        small = self._disks.small()
        racer = Racer("mntapi", lambda: servers.mntapi(small.vmdk, self.place(), layout="volumes"), role=Role.OURS)
        volumes = [small.volume(kind) for kind in KINDS]
        yield Race("memory files", [racer], [Heat((quantity,), partial(_memory_after_files, volumes))])

    @contextmanager
    def block_file(self, disk: Path) -> Iterator[Server]:
        """The disk as a file, by ``mntapi mount``."""
        with servers.mntapi(disk, self.place(), layout="blocks") as server:
            yield Server(server.path / "disks" / "disk0", server.pid)

    def _block_file_of_qemu(self, vmdk: Path) -> AbstractContextManager[Server]:
        return servers.qemu_storage_daemon(vmdk, self.place())

    def _native(self, raw: Path, kind: str) -> AbstractContextManager[Server]:
        place = self.place()
        return servers.ntfs_3g(raw, place) if kind == "ntfs" else servers.kernel(raw, place, kind=kind)


Section = Callable[[Bench], Iterator[Race[Any]]]
SECTIONS: dict[str, Section] = {
    "open": Bench.open,
    "blocks": Bench.blocks,
    "files": Bench.files,
    "walk": Bench.walk,
    "memory": Bench.memory,
}
"""``formats.py``, ``managers.py`` and ``guests.py`` have more."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A command that reads the large file, and the mounted file to drop from the page cache first."""

    command: list[str]
    cached: Path | None


def _cat(path: Path) -> _Reading:
    return _Reading(["cat", str(path)], path)


def _megabytes_a_second(reading: _Reading) -> Sequence[float]:
    if reading.cached:
        with reading.cached.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return (BIG_SIZE / MIB / timed(reading.command).wall,)


def _time_and_cpu(command: list[str]) -> Sequence[float]:
    timing = timed(command)
    return timing.wall, timing.cpu


def _find(folder: Path) -> float:
    """Seconds for all names with inode and size; the size makes ``find`` ask for every inode."""
    return timed(["find", str(folder), "-printf", "%i %s %p\\n"]).wall


def _list(folder: Path) -> float:
    return timed(["ls", "-lU", str(folder)]).wall


def _memory_after_reading(server: Server) -> Sequence[float]:
    fio(server.path, _ANYWHERE, _LOOK_AROUND_S)
    fio(server.path, PATTERNS[-1], _LOOK_AROUND_S)
    return (_memory(server),)


def _memory_after_files(volumes: Sequence[str], server: Server) -> Sequence[float]:
    for volume in volumes:
        _find(server.path / volume)
        timed(["cat", str(server.path / volume / BIG_FILE)])
    return (_memory(server),)


def _memory(server: Server) -> float:
    size = resident_size(server.pid)
    if size is None:
        raise Failure("the server has ended")
    return size / MIB


def _lister(name: str, command: list[str], vmdk: Path, *, role: Role = Role.PEER) -> Racer[list[str]]:
    return Racer(name, lambda: nullcontext([*command, str(vmdk)]), (command[0],), role, (vmdk,))


def checked(opener: Callable[[], AbstractContextManager[Server]], raw: Path) -> Callable[[], AbstractContextManager[Server]]:
    """A server that gives other bytes than it should takes no part."""

    @contextmanager
    def compared() -> Iterator[Server]:
        with opener() as server:
            servers.same_bytes(server.path, raw)
            yield server

    return compared


def _native_name(kind: str) -> str:
    return "ntfs-3g" if kind == "ntfs" else f"kernel {kind}"


def _native_needs(kind: str) -> tuple[str, ...]:
    return ("ntfs-3g",) if kind == "ntfs" else ()
