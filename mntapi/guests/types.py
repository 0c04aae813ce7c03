"""What is known of a guest. The words are those of ``VixOsInfo`` and ``VixVolumeInfo``: a C interface only copies them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mntapi.types import FileSystem, Signature, Volume


class Family(enum.StrEnum):
    """What kind of system it is."""

    WINDOWS = "windows"
    LINUX = "linux"
    BSD = "bsd"
    ESXI = "esxi"
    MACOS = "macos"
    ANDROID = "android"
    OTHER = "other"


class MountKind(enum.StrEnum):
    """What a mount point shows."""

    VOLUME = "volume"
    """A volume of the set, or a part of it (``subvolume``, ``folder``)."""
    BIND = "bind"
    """Another folder of the guest: ``source``."""
    MISSING = "missing"
    """A volume that is not in the set, or cannot be told."""
    NETWORK = "network"
    VIRTUAL = "virtual"
    """``/proc``, tmpfs and the like: nothing of it is on a disk."""


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One place in the guest's own tree.

    ``path`` is as the guest writes it: ``/home``, ``C:\\``, ``C:\\Data``. ``volume`` is the id of the volume there, None for
    all kinds but VOLUME. ``source`` is what the guest says is mounted: ``UUID=...``, ``/dev/sda2``, ``server:/export``.
    """

    path: str
    kind: MountKind
    source: str
    volume: str | None = None
    subvolume: str | None = None
    """A btrfs subvolume, as a path from the top of the volume or ``id:N``; None: what the volume shows by default."""
    folder: str = "/"
    """The folder of the volume that is shown."""
    filesystem: str | None = None
    options: tuple[str, ...] = ()
    reason: str | None = None
    """Why it cannot be shown, or what is doubtful about it."""


@dataclass(frozen=True, slots=True)
class User:
    """An account; no secrets."""

    name: str
    uid: str
    """A number or a SID."""
    home: str | None = None


@dataclass(frozen=True, slots=True)
class Application:
    """A program or service that is installed."""

    name: str
    version: str | None = None
    publisher: str | None = None
    kind: str = "application"
    """``application``, ``package`` or ``service``."""
    path: str | None = None
    """Where it is, as the guest writes it: a folder, or the command line of a service."""


@dataclass(frozen=True, slots=True)
class PointInTime:
    """An earlier state that is kept beside the live one: a btrfs subvolume, a folder with copies of files, or a snapshot of the
    whole volume.

    It shows, like a ``MountPoint`` of kind VOLUME, a ``subvolume`` or ``folder`` of ``volume`` in the place of ``path``.
    ``time_ns`` is when it was made, None where that is not recorded.
    """

    path: str
    volume: str
    folder: str = "/"
    subvolume: str | None = None
    time_ns: int | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Guest:
    """One installed system. Times are nanoseconds since 1970 UTC. None: the guest does not record it, or it cannot be read."""

    family: Family
    volume: str
    """Id of the volume that holds the system: its root, or ``C:``."""
    os_folder: str
    """``C:\\Windows``; ``/`` on others."""
    vendor: str | None = None
    product: str | None = None
    """``Windows Server 2022 Standard``, ``Debian GNU/Linux 12 (bookworm)``."""
    edition: str | None = None
    major: int | None = None
    minor: int | None = None
    build: str | None = None
    architecture: str | None = None
    """``x86_64``, ``x86``, ``aarch64`` ... as ``uname -m`` says it."""
    hostname: str | None = None
    machine_id: str | None = None
    timezone: str | None = None
    installed_ns: int | None = None
    last_boot_ns: int | None = None
    last_shutdown_ns: int | None = None
    mounts: tuple[MountPoint, ...] = ()
    """Sorted so that a mount point comes after the one it lies in."""
    users: tuple[User, ...] = ()
    snapshots: tuple[PointInTime, ...] = ()
    """Snapper's, Timeshift's. To these ``DiskSet.guests`` adds those of whole volumes (VSS, LVM), which are volumes too."""
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What else is known: ``hibernated``, ``pending-reboot``, ``default-deployment`` ..."""
    reasons: tuple[str, ...] = ()
    """What could not be read, and why."""
    applications: Callable[[], list[Application]] = field(default=list, compare=False, repr=False)
    """Looks for installed applications, packages and services; reads much, so only on request. Raises MntapiError."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A volume that may hold a guest or a part of one."""

    volume: Volume
    signature: Signature | None
    filesystem: Callable[[], FileSystem]
    """Opens its file system, once. Raises MntapiError where there is none that is read."""
    below: tuple[Volume, ...] = ()
    """What it lies in, as long as that is one volume: the partition of an encrypted one, then the disk."""
