"""Mount points: what the guest says is to be mounted, matched with the volumes of the set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mntapi.errors import MntapiError
from mntapi.guests.files import MAX_PATH
from mntapi.guests.linux.devices import Devices, Match
from mntapi.guests.linux.fstab import Mounting
from mntapi.guests.subvolumes import TOP, TOP_LEVEL, Catalog, name_of
from mntapi.guests.types import Candidate, MountKind, MountPoint
from mntapi.types import VolumeState

SWAP = "swap"
_NETWORK = """9p afp afs ceph cifs coda curlftpfs davfs davfs2 fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs
fuse.vmhgfs-fuse glusterfs lustre ncpfs nfs nfs4 orangefs prl_fs rclone s3fs smb3 smbfs sshfs vboxsf virtiofs vmhgfs"""
NETWORK = frozenset(_NETWORK.split())
"""Types whose files are on another machine, or on the one that the guest runs on."""
_VIRTUAL = """autofs binderfs binfmt_misc bpf cgroup cgroup2 configfs cpuset debugfs devfs devpts devtmpfs efivarfs fdescfs
functionfs fuse.gvfsd-fuse fuse.lxcfs fusectl hugetlbfs linprocfs linsysfs mqueue nfsd none nullfs overlay proc procfs pstore
ramfs resctrl rootfs rpc_pipefs securityfs selinuxfs smackfs sysfs tmpfs tracefs usbdevfs usbfs"""
VIRTUAL = frozenset(_VIRTUAL.split())
"""Types of which nothing is on a disk of its own."""

_NUMBER = re.compile("0[0-7]{0,20}|[1-9][0-9]{0,19}")
"""An id, as the kernel reads numbers: octal if it begins with 0."""


def normal(path: str) -> str:
    """The path without ``.``, ``..`` and empty names; ``..`` never leads above the root."""
    names: list[str] = []
    for name in path[: 2 * MAX_PATH].split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    return "/" + "/".join(names)


def by_place(mounts: Iterable[MountPoint]) -> tuple[MountPoint, ...]:
    """Sorted so that each comes after the one it lies in."""
    return tuple(sorted(mounts, key=lambda mount: [name for name in mount.path.split("/") if name]))


def is_swap(entry: Mounting) -> bool:
    """Whether it is no mount point at all."""
    return entry.type == SWAP or entry.target in ("none", "swap", "ignore") or entry.type == "ignore"


def mount_points(entries: Sequence[Mounting], devices: Devices, reasons: list[str]) -> list[MountPoint]:
    """A mount point for each entry but the root's; ``reasons`` gets what is wrong with the others."""
    found: dict[str, MountPoint] = {}
    for entry in entries:
        if is_swap(entry):
            continue
        if not entry.target.startswith("/") or len(entry.target) > MAX_PATH or "\0" in entry.target:
            reasons.append(f"{entry.origin}: {entry.target[:80]!r} is no place for a mount")
            continue
        path = normal(entry.target)
        if path == "/":
            continue
        if path in found:
            reasons.append(f"{entry.origin}: {path} is mounted already, from {found[path].source}")
            continue
        found[path] = mount_point(entry, devices)
    return list(found.values())


def mount_point(entry: Mounting, devices: Devices) -> MountPoint:
    """What one entry comes to."""
    base = MountPoint(
        path=normal(entry.target),
        kind=MountKind.MISSING,
        source=entry.source,
        filesystem=entry.type,
        options=entry.options,
    )
    if entry.is_bind:
        return replace(base, kind=MountKind.BIND, folder=normal(entry.source))
    if _is_network(entry):
        return replace(base, kind=MountKind.NETWORK, reason="its files are on another machine")
    if entry.type in VIRTUAL:
        reason = "shows other folders together" if entry.type == "overlay" else "nothing of it is on a disk"
        return replace(base, kind=MountKind.VIRTUAL, reason=reason)
    if entry.type == "zfs":
        return replace(base, reason=f"{entry.source} is a ZFS dataset, which this version does not read")
    if entry.type.startswith("fuse") and not entry.source.startswith("/dev/"):
        return replace(base, kind=MountKind.VIRTUAL, reason="made by a program while the guest runs")
    if entry.source.startswith("/") and not entry.source.startswith("/dev/"):
        return replace(base, reason=f"{entry.source} is a disk image inside the guest")
    return placed(base, devices.find(entry.source))


def placed(mount: MountPoint, match: Match) -> MountPoint:
    """The mount point with its volume, if that can be told and looked into."""
    candidate = match.candidate
    if candidate is None:
        return replace(mount, reason=match.reason)
    if candidate.volume.state is VolumeState.ENCRYPTED:
        return replace(mount, reason=f"{candidate.volume.name} is locked: {candidate.volume.reason or 'needs a key'}")
    doubts = [match.reason, unreadable(candidate), "noauto: not mounted at start" if "noauto" in mount.options else None]
    return replace(
        mount,
        kind=MountKind.VOLUME,
        volume=candidate.volume.id,
        subvolume=subvolume_of(mount.options),
        folder=_subfolder(mount.options),
        reason="; ".join(filter(None, doubts)) or None,
    )


def subvolume_of(options: Sequence[str]) -> str | None:
    """The btrfs subvolume that the options choose; the path wins, as both must mean the same one."""
    chosen = dict(option.split("=", 1) for option in options if option.startswith(("subvol=", "subvolid=")))
    if "subvol" in chosen:
        return normal(chosen["subvol"]).lstrip("/") or TOP
    match = _NUMBER.fullmatch(chosen.get("subvolid", ""))
    return f"id:{int(match[0], 8 if match[0].startswith('0') else 10)}" if match else None


def settled(mount: MountPoint, catalog: Catalog | None) -> MountPoint:
    """The mount point with its subvolume by path, where that is how it can be said.

    Args:
        catalog: the subvolumes of its volume, if that has any.
    """
    if catalog is None or mount.kind is not MountKind.VOLUME:
        return mount
    one = catalog.find(mount.subvolume)
    if one is None:
        lost = f"there is no subvolume {mount.subvolume or 'by default'}"
        return replace(mount, reason="; ".join(filter(None, (lost, mount.reason))))
    is_plain = mount.subvolume is None and one.id == TOP_LEVEL
    return mount if is_plain else replace(mount, subvolume=name_of(one))


def unreadable(candidate: Candidate) -> str | None:
    """Why the volume's files cannot be read, if they cannot."""
    try:
        candidate.filesystem()
    except MntapiError as error:
        return str(error)
    return None


def _subfolder(options: Sequence[str]) -> str:
    """``X-mount.subdir=``, mount(8): a folder of the file system in the place of its root."""
    chosen = [option.partition("=")[2] for option in options if option.startswith("X-mount.subdir=")]
    return normal(chosen[-1]) if chosen else "/"


def _is_network(entry: Mounting) -> bool:
    return entry.type in NETWORK or (entry.type == "fuse" and entry.source.startswith(("sshfs#", "s3fs#", "curlftpfs#")))
