"""What a machine file says, in words that all of them share."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a disk's file is cut: each part but the last has ``size`` bytes, all have ``total``, None if that is not told."""

    size: int
    total: int | None = None


@dataclass(frozen=True, slots=True)
class MachineDisk:
    """A disk of a machine.

    ``path`` is the file as the machine file names it: relative to the machine file's folder, or absolute on the host it came
    from. ``controller`` is the place in the machine (``scsi0:1``, ``vda``), ``index`` the position among its disks.
    """

    path: str
    controller: str
    index: int
    format: str | None = None
    """The format that the machine file prescribes, to be forced and not detected: a guest can write any header into a raw
    disk."""
    chunks: Chunks | None = None
    """Where there is no such file, but parts of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Where to look for it, in this order. A machine that was copied keeps absolute names of the host it came from."""
        windows = PureWindowsPath(self.path)
        if windows.drive:
            return (windows.name,)
        path = self.path.replace("\\", "/")
        return (path, posixpath.basename(path)) if posixpath.isabs(path) else (path,)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a machine: ``disks`` are the files that hold its state, the newest link of each chain at that time."""

    uid: int | str
    """What the machine's files know it by: VMware a number, VirtualBox a UUID."""
    name: str
    parent: int | str | None
    disks: tuple[MachineDisk, ...]
    description: str | None = None
    created_ns: int | None = None
    """Nanoseconds since 1970 UTC."""
    is_current: bool = False
    """Whether the machine's present state builds on it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine: ``kind`` of file (``vmx``, ``ovf``, ``libvirt``, ``vbox``), name, and disks in the order it has them.

    ``left_out`` names drives that are no disks, or have no file, and why.
    """

    kind: str
    name: str | None
    disks: tuple[MachineDisk, ...]
    snapshots: tuple[Snapshot, ...] = ()
    left_out: tuple[str, ...] = ()
    media: Mapping[str, MachineDisk] = field(default_factory=dict)
    """Other disks of the machine by the names that its disks have for them, where those are not what the files are called."""
