"""The disks that are read, each made once into the cache folder by foreign programs, and the same bytes every time."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import systems
from bench.commands import MNTAPI, output
from bench.servers import kernel, ntfs_3g, qemu_storage_daemon
from contract.md_builder import member1
from mntapi.units import GIB, KIB, MIB, SECTOR, TIB

KINDS = ("ext4", "ntfs")
BIG_FILE = "big.bin"
BIG_SIZE = 400 * MIB
ENTRIES = 75_000
IN_ONE_FOLDER = 100_000
DENSE, ISLAND = GIB, 64 * KIB
CLUSTER = 64 * KIB
VOLUME = 256 * MIB
CONTAINERS = {
    "raw": ("-O", "raw"),
    "vmdk": ("-O", "vmdk"),
    "stream.vmdk": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "qcow2": ("-O", "qcow2"),
    "zlib.qcow2": ("-O", "qcow2", "-c"),
    "zstd.qcow2": ("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
    "vhd": ("-O", "vpc", "-o", "force_size"),
    "vhdx": ("-O", "vhdx"),
    "vdi": ("-O", "vdi"),
    "parallels": ("-O", "parallels"),
    "qed": ("-O", "qed"),
}
"""How qemu-img makes each; the second word is QEMU's name of the format."""
_THIN_SIZE = 16 * GIB
_VOLUME_SIZE = 2560 * MIB
_SMALL_FILES = 5_000
_PER_FOLDER = 100
_RECIPE = "1"
"""To be changed with anything that changes the disks: each recipe has a folder of its own."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A VMDK, and what peers that know no VMDK are given: the same bytes raw, by kind of volume or whole."""

    vmdk: Path
    raw: dict[str, Path]

    def volume(self, kind: str) -> str:
        """The name that mntapi gives to the volume with that file system."""
        volumes = json.loads(output(MNTAPI, "info", "--json", self.vmdk))["volumes"]
        return next(str(volume["name"]) for volume in volumes if volume["filesystem"] == kind)


class Disks:
    """The disks of a cache folder; each is made when it is first asked for."""

    def __init__(self, cache: Path, say: Callable[[str], None]) -> None:
        self._folder = cache / f"disks-{_RECIPE}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._say = say

    def small(self) -> Disk:
        """6 GiB with GPT: ext4 and NTFS, each with 5,000 small files and one of 400 MiB."""
        return Disk(self._once("small.vmdk", partial(self._partitioned, 6 * GIB)), self._volumes())

    def huge(self) -> Disk:
        """The same two volumes on 62 TiB, the rest a partition without anything on it."""
        return Disk(self._once("huge.vmdk", partial(self._partitioned, 62 * TIB)), self._volumes())

    def thin(self) -> Disk:
        """16 GiB of which 2 GiB are stored, as random bytes: ``DENSE`` bytes without a gap, then ``ISLAND`` bytes in each MiB.

        So its tables are larger than what the peers keep of them in memory, as those of a real disk are, while all that is
        stored fits into the page cache.
        """
        raw = self._once("thin.raw", _write_thin)
        return Disk(self._once("thin.vmdk", partial(_to_vmdk, raw)), {"disk": raw})

    def container(self, name: str) -> tuple[Path, Path]:
        """``CONTAINERS[name]`` of 1 GiB, of which every second MiB is stored, and the same bytes raw."""
        raw = self._once("contained.raw", _write_contained)
        options = CONTAINERS[name]
        return self._once(f"contained.{name}", lambda path: _convert(raw, path, options)), raw

    def random(self) -> Path:
        """``VOLUME`` random bytes."""
        return self._once("random.raw", partial(_write_random, VOLUME))

    def group(self) -> list[Path]:
        """Two physical volumes of a group ``bench`` with the logical volumes ``linear`` and ``striped`` of ``VOLUME`` bytes."""
        folder = self._once("group", _write_group)
        return [folder / "pv0", folder / "pv1"]

    def degraded(self) -> list[Path]:
        """Two of three members of an MD RAID 5 with chunks of 512 KiB, so half of what is read has to be computed."""
        folder = self._once("degraded", _write_degraded)
        return [folder / "member0", folder / "member1"]

    def chain(self, links: int) -> tuple[Path, Path]:
        """The top of a chain of so many QCOW2 files, each with clusters of its own all over, and the same bytes raw."""
        folder = self._once(f"chain{links}", partial(_write_chain, links))
        return folder / f"link{links - 1}.qcow2", folder / "whole.raw"

    def linux(self) -> Path:
        """A folder with the disks of a Linux; see ``systems.py``."""
        return self._once("linux", systems.write_linux)

    def windows(self) -> Path:
        """The disk of a Windows; see ``systems.py``."""
        return self._once("windows.raw", systems.write_windows)

    def crowd(self, kind: str) -> Disk:
        """A volume with 75,000 entries, and no partition table around it."""
        raw = self._once(f"crowd.{kind}", partial(_volume, kind, GIB, _crowd))
        return Disk(self._once(f"crowd-{kind}.vmdk", partial(_to_vmdk, raw)), {kind: raw})

    def folder(self) -> Disk:
        """An XFS volume, written by the kernel, with one folder ``many`` of ``IN_ONE_FOLDER`` files."""
        raw = self._once("folder.xfs", _write_folder)
        return Disk(self._once("folder-xfs.vmdk", partial(_to_vmdk, raw)), {"xfs": raw})

    def _volumes(self) -> dict[str, Path]:
        return {kind: self._once(f"mixed.{kind}", partial(_volume, kind, _VOLUME_SIZE, _mixed)) for kind in KINDS}

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The file of that name, made aside and renamed when it is whole, so an interrupt leaves none that is half made."""
        path = self._folder / name
        if not path.exists():
            self._say(f"making {name} (once)")
            aside = self._folder / f"making-{name}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            make(aside / name)
            (aside / name).rename(path)
            shutil.rmtree(aside)
        return path

    def _partitioned(self, size: int, path: Path) -> None:
        """Written through QEMU: no file of the host could be as large as the larger disk is raw."""
        volumes = self._volumes()
        output("qemu-img", "create", "-q", "-f", "vmdk", path, size)
        lengths = "".join(f"size={_VOLUME_SIZE // MIB}MiB, type={_TYPES[kind]}, name={kind}\n" for kind in KINDS)
        table = path.with_name("table")
        table.write_text(f"label: gpt\nlabel-id: {_GUID}\n{lengths}type=linux, name=rest\n")
        with qemu_storage_daemon(path, path.with_name("export"), writable=True) as server:
            output("sh", "-c", 'sfdisk --quiet --no-reread --no-tell-kernel "$1" < "$2"', "sh", server.path, table)
            for index, kind in enumerate(KINDS):
                offset = 1 + index * _VOLUME_SIZE // MIB
                output(
                    "dd",
                    f"if={volumes[kind]}",
                    f"of={server.path}",
                    "bs=1M",
                    f"seek={offset}",
                    "conv=notrunc,sparse",
                    "status=none",
                )


_TYPES = {"ext4": "linux", "ntfs": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"}
_GUID = "5C0A2A6B-9E14-4B3B-8F0C-0D6B1C5F7A11"


def _write_random(size: int, path: Path) -> None:
    generator = random.Random(size)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(generator.randbytes(MIB))


def _write_thin(path: Path) -> None:
    _write_random(DENSE, path)
    generator = random.Random(3)
    with path.open("r+b") as file:
        for offset in range(DENSE, _THIN_SIZE, MIB):
            file.seek(offset)
            file.write(generator.randbytes(ISLAND))
        file.truncate(_THIN_SIZE)


def _write_contained(path: Path) -> None:
    """Half of what is stored compresses to nothing, half of it not at all."""
    generator = random.Random(5)
    with path.open("wb") as file:
        for offset in range(0, GIB, 2 * MIB):
            file.seek(offset)
            file.write(generator.randbytes(MIB // 2) + b"contents of a file, " * (MIB // 40))
        file.truncate(GIB)


def _convert(raw: Path, path: Path, options: Sequence[str]) -> None:
    output("qemu-img", "convert", "-q", "-f", "raw", *options, raw, path)


def _write_chain(links: int, folder: Path) -> None:
    """Each link stores every ``links``-th of the first 4096 clusters, in an order that no two of them share."""
    folder.mkdir()
    clusters = list(range(4096))
    random.Random(11).shuffle(clusters)
    for index in range(links):
        path = folder / f"link{index}.qcow2"
        backing = ["-b", f"link{index - 1}.qcow2", "-F", "qcow2"] if index else []
        output("qemu-img", "create", "-q", "-f", "qcow2", *backing, path, *([] if index else [str(4096 * CLUSTER)]))
        writes = [f"write -q -P {index + 1} {at * CLUSTER} {CLUSTER}" for at in sorted(clusters[index::links])]
        for start in range(0, len(writes), 256):
            output("qemu-io", "-f", "qcow2", *(one for write in writes[start : start + 256] for one in ("-c", write)), path)
    output("qemu-img", "convert", "-q", "-O", "raw", folder / f"link{links - 1}.qcow2", folder / "whole.raw")


def _write_group(folder: Path) -> None:
    """LVM without the device mapper: it only writes its metadata, and the volumes hold what was there before."""
    folder.mkdir()
    names = ("pv0", "pv1")
    for name in names:
        _write_random(VOLUME + 16 * MIB, folder / name)
    loops = [output("losetup", "--find", "--show", folder / name).strip() for name in names]
    lvm = ("lvm",)
    only = ("--driverloaded", "n")
    new = (*only, "-an", "-Zn", "-Wn", "-y", "-L", f"{VOLUME // MIB // 2}m")
    try:
        output(*lvm, "pvcreate", *only, "-ff", "-y", *loops)
        output(*lvm, "vgcreate", *only, "bench", *loops)
        output(*lvm, "lvcreate", *new, "-n", "linear", "bench")
        output(*lvm, "lvcreate", *new, "-i", "2", "-I", "64k", "-n", "striped", "bench")
    finally:
        for loop in loops:
            output("losetup", "--detach", loop)


def _write_degraded(folder: Path) -> None:
    folder.mkdir()
    size = VOLUME // 2
    fields = {"level": 5, "layout": 2, "chunk": 1024, "data_size": size // SECTOR, "size": size // SECTOR}
    for number in (0, 1):
        path = folder / f"member{number}"
        _write_random(size, path)
        content = path.read_bytes()
        path.write_bytes(member1(b"", (0, 1, 2), number=number, **fields) + content)


def _to_vmdk(raw: Path, vmdk: Path) -> None:
    output("qemu-img", "convert", "-q", "-f", "raw", "-O", "vmdk", raw, vmdk)


def _volume(kind: str, size: int, fill: Callable[[Path], None], path: Path) -> None:
    files = path.with_name("files")
    with path.open("wb") as file:
        file.truncate(size)
    if kind == "ext4":
        files.mkdir()
        fill(files)
        output("mke2fs", "-q", "-t", "ext4", "-N", 2 * ENTRIES, "-d", files, path)
        return
    output("mkntfs", "-qFQ", path)
    with _writable_ntfs(path, files) as mounted:
        fill(mounted)


@contextmanager
def _writable_ntfs(path: Path, folder: Path) -> Iterator[Path]:
    with ntfs_3g(path, folder, writable=True) as server:
        yield server.path
        os.sync()


def _mixed(top: Path) -> None:
    generator = random.Random(7)
    _write_random(BIG_SIZE, top / BIG_FILE)
    for number in range(_SMALL_FILES):
        folder = top / f"folder{number // _PER_FOLDER:03}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number:05}.dat").write_bytes(generator.randbytes(generator.randrange(16 * KIB)))


def _crowd(top: Path) -> None:
    """Folders of 99 files: with the folders themselves, that makes ``ENTRIES``. One file in ten has contents."""
    for number in range(ENTRIES // _PER_FOLDER):
        folder = top / f"folder{number:04}"
        folder.mkdir()
        for index in range(_PER_FOLDER - 1):
            (folder / f"a file called {index:03}.txt").write_bytes(b"" if index % 10 else b"contents")


def _write_folder(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(GIB)
    output("mkfs.xfs", "-q", path)
    top = path.with_name("files")
    with kernel(path, top, kind="xfs", writable=True):
        many = top / "many"
        many.mkdir()
        for number in range(IN_ONE_FOLDER):
            (many / f"a file called {number:06}.txt").write_bytes(b"" if number % 10 else b"contents")
