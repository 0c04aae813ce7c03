"""One Linux system, put together from all that it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mntapi.errors import MntapiError
from mntapi.guests.files import GuestFiles
from mntapi.guests.finder import readable
from mntapi.guests.linux import facts
from mntapi.guests.linux.devices import Devices
from mntapi.guests.linux.discoverable import discovered
from mntapi.guests.linux.fstab import MAX_FSTAB, Mounting, parse_crypttab, parse_fstab
from mntapi.guests.linux.joined import Joined
from mntapi.guests.linux.mounts import is_swap, mount_point, mount_points, normal, settled, subvolume_of
from mntapi.guests.linux.order import in_order
from mntapi.guests.linux.packages import find_packages
from mntapi.guests.linux.release import Release, find_release
from mntapi.guests.linux.roots import Root, filesystem_of, find_roots
from mntapi.guests.linux.snapshots import Kept, described, snapper, timeshift
from mntapi.guests.linux.subvolume_points import subvolume_points
from mntapi.guests.linux.units import find_units
from mntapi.guests.linux.users import MAX_PASSWD, parse_passwd
from mntapi.guests.subvolumes import Catalog, catalog_of, shown_by
from mntapi.guests.types import Candidate, Family, Guest, MountKind, MountPoint, PointInTime
from mntapi.types import FileSystem

_MAX_TOLD = 8
"""Lines of an fstab that are named as wrong; one with more is not an fstab."""


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """Every Linux system whose root is on one of the volumes."""
    opened = list(readable(candidates))
    filesystems = {candidate.volume.id: fs for candidate, fs in opened}
    catalogs = _catalogs(filesystems)
    untold: list[str] = []
    kept = timeshift(opened, untold)
    for candidate, fs in opened:
        for root in find_roots(fs, list(filesystems.values()), catalogs.get(candidate.volume.id)):
            yield _Inspection(candidates, filesystems, catalogs, kept, tuple(untold), candidate, root).guest()


def _catalogs(filesystems: Mapping[str, FileSystem]) -> dict[str, Catalog]:
    """The subvolumes of those volumes that have any."""
    found = {}
    for volume, fs in filesystems.items():
        try:
            catalog = catalog_of(fs)
        except MntapiError:
            continue  # whoever reads one of them is told why
        if catalog is not None:
            found[volume] = catalog
    return found


@dataclass(frozen=True, slots=True)
class _Inspection:
    """The set, and the root that is looked at. ``filesystems`` and ``catalogs`` are by volume."""

    candidates: Sequence[Candidate]
    filesystems: Mapping[str, FileSystem]
    catalogs: Mapping[str, Catalog]
    kept: Sequence[Kept]
    kept_reasons: tuple[str, ...]
    candidate: Candidate
    root: Root

    def guest(self) -> Guest:
        """All that can be found out about it."""
        tree = Joined(filesystem_of(self.root))
        files = GuestFiles(tree)
        etc = self.root.etc
        entries, devices = self._entries(tree, files)
        mounts = self._all_mounts(tree, files, self._mounts(files, entries, devices))
        release = find_release(files, etc) or Release("")
        machine = facts.machine(files)
        uptimes = facts.uptimes(files, big_endian=machine.is_big_endian)
        made = facts.installed(files, etc)
        snapshots = self._snapshots(files, mounts)
        return Guest(
            family=Family.LINUX,
            volume=self.candidate.volume.id,
            os_folder=self.root.folder,
            vendor=release.vendor,
            product=release.product,
            edition=release.edition,
            major=release.major,
            minor=release.minor,
            build=release.build,
            architecture=machine.architecture,
            hostname=facts.hostname(files, etc),
            machine_id=facts.machine_id(files, etc),
            timezone=facts.timezone(files, etc),
            installed_ns=made[0] if made else None,
            last_boot_ns=uptimes.last_boot_ns,
            last_shutdown_ns=uptimes.last_shutdown_ns,
            mounts=mounts,
            users=parse_passwd(files.text(f"{etc}/passwd", MAX_PASSWD) or ""),
            snapshots=snapshots,
            details={**_told(release, made), **self.root.details, **_swaps(entries), **described(snapshots)},
            reasons=(*files.reasons, *self.kept_reasons),
            applications=lambda: find_packages(tree),
        )

    def _all_mounts(self, tree: Joined, files: GuestFiles, mounts: tuple[MountPoint, ...]) -> tuple[MountPoint, ...]:
        """What is mounted by name, and then by type, with all of it joined to the tree."""
        self._join(tree, mounts)
        left, taken = self._not_mounted(mounts), [one.path for one in mounts]
        more = self._settled(discovered(left, self.candidate, files, facts.machine_id(files, self.root.etc), taken))
        if not more:
            return mounts
        self._join(tree, more)
        return in_order([*mounts, *more], [])

    def _snapshots(self, files: GuestFiles, mounts: Sequence[MountPoint]) -> tuple[PointInTime, ...]:
        kept = (*snapper(files, self.root.etc, mounts, self.catalogs), *self._copies())
        return (*kept, *subvolume_points(mounts, self.catalogs, self.filesystems, kept, files.reasons))

    def _not_mounted(self, mounts: Sequence[MountPoint]) -> list[Candidate]:
        """Volumes that no line or unit names: only those are mounted for the type of their partition."""
        named = {mount.volume for mount in mounts}
        return [one for one in self.candidates if one.volume.id not in named or one is self.candidate]

    def _copies(self) -> Iterator[PointInTime]:
        uuid = self.candidate.signature.uuid if self.candidate.signature else None
        yield from (one.point for one in self.kept if uuid is not None and one.uuid == uuid)

    def _entries(self, tree: Joined, files: GuestFiles) -> tuple[list[Mounting], Devices]:
        """What fstab and units want mounted, each place once or with a reason; and the names of this guest's devices."""
        etc = self.root.etc
        table = parse_fstab(files.text(f"{etc}/fstab", MAX_FSTAB) or "", f"{etc}/fstab")
        files.reasons.extend(table.reasons[:_MAX_TOLD])
        crypttab = parse_crypttab(files.text(f"{etc}/crypttab", MAX_FSTAB) or "")
        devices = Devices(self.candidates, self.candidate, crypttab, _arrays(files, etc))
        named = next((one for one in table.entries if normal(one.target) == "/" and not is_swap(one)), None)
        if named is not None:
            devices.anchor(named.source)
        self._join(tree, [mount_point(one, devices) for one in table.entries if one.target == "/usr"])  # units are there
        units = find_units(files)
        own = {normal(entry.target) for entry in units.own}
        listed = [one for one in table.entries if normal(one.target) not in own and normal(one.target) not in units.masked]
        known = own | {normal(entry.target) for entry in listed}
        return [*units.own, *listed, *(one for one in units.vendor if normal(one.target) not in known)], devices

    def _mounts(self, files: GuestFiles, entries: Sequence[Mounting], devices: Devices) -> tuple[MountPoint, ...]:
        """The mount points of all entries, in the order in which they are mounted, the root first."""
        reasons: list[str] = []
        named = next((one for one in entries if normal(one.target) == "/" and not is_swap(one)), None)
        found = [self._root_mount(named, devices), *mount_points(entries, devices, reasons)]
        found += self._deployed(files, {mount.path for mount in found})
        ordered = in_order(self._settled(found), reasons)
        files.reasons.extend(reasons[:_MAX_TOLD])
        return ordered

    def _settled(self, mounts: Sequence[MountPoint]) -> list[MountPoint]:
        return [settled(mount, self.catalogs.get(mount.volume or "")) for mount in mounts]

    def _root_mount(self, named: Mounting | None, devices: Devices) -> MountPoint:
        """The root is where it was found; what the guest says of it may contradict that."""
        mount = MountPoint(
            path="/",
            kind=MountKind.VOLUME,
            source=named.source if named else "",
            volume=self.candidate.volume.id,
            subvolume=self.root.subvolume,
            folder=self.root.folder,
            filesystem=self.candidate.signature.kind if self.candidate.signature else None,
            options=named.options if named else (),
        )
        if named is None:
            return mount
        match = devices.find(named.source)
        reason = match.reason
        if match.candidate is not None and match.candidate is not self.candidate:
            reason = (
                f"by its fstab the root is {named.source}, which is {match.candidate.volume.name}: this may be a copy of it"
            )
        elif match.candidate is None:
            reason = f"by its fstab the root is {named.source}, which this may be or not: {match.reason}"
        else:
            reason = reason or self._other_subvolume(named)
        return replace(mount, reason=reason)

    def _other_subvolume(self, named: Mounting) -> str | None:
        """What is to be said if the guest's root is another subvolume of the same volume."""
        catalog = self.catalogs.get(self.candidate.volume.id)
        wanted = subvolume_of(named.options)
        if catalog is None or wanted is None or catalog.find(wanted) is catalog.find(self.root.subvolume):
            return None
        return f"by its fstab the root is subvolume {wanted}: this may be a copy of it"

    def _deployed(self, files: GuestFiles, taken: set[str]) -> Iterator[MountPoint]:
        """What a deployment shows of the volume that it is on."""
        if self.root.var is None:
            return
        for path, folder in (("/var", self.root.var), ("/sysroot", "/"), ("/boot", "/boot")):
            if path not in taken and files.has(path) and GuestFiles(self.root.base).has(folder):
                yield MountPoint(
                    path,
                    MountKind.VOLUME,
                    folder,
                    self.candidate.volume.id,
                    self.root.subvolume,
                    folder,
                    self.candidate.signature.kind if self.candidate.signature else None,
                )

    def _join(self, tree: Joined, mounts: Sequence[MountPoint]) -> None:
        """Put the volumes together as far as they are there; what is not, its mount point says already."""
        for mount in mounts:
            try:
                if mount.kind is MountKind.BIND:
                    tree.bind(mount.path, mount.folder)
                elif mount.kind is MountKind.VOLUME and mount.path != "/":
                    tree.mount(mount.path, self._shown(mount))
            except MntapiError:
                continue

    def _shown(self, mount: MountPoint) -> FileSystem:
        fs = next(one.filesystem() for one in self.candidates if one.volume.id == mount.volume)
        return shown_by(fs, mount.subvolume, mount.folder)


def _told(release: Release, made: tuple[int, str] | None) -> dict[str, str]:
    details = dict(release.details)
    if release.version is not None:
        details["version"] = release.version
    if release.origin:
        details["release-from"] = release.origin
    if made is not None:
        details["installed-from"] = made[1]
    return details


def _swaps(entries: Sequence[Mounting]) -> dict[str, str]:
    found = [entry.source for entry in entries if entry.type == "swap"]
    return {"swap": ", ".join(found[:_MAX_TOLD])} if found else {}


def _arrays(files: GuestFiles, etc: str) -> dict[str, str]:
    """``ARRAY /dev/md0 ... UUID=...`` of mdadm.conf(5)."""
    found = {}
    for path in (f"{etc}/mdadm/mdadm.conf", f"{etc}/mdadm.conf"):
        for line in (files.text(path, MAX_FSTAB) or "").split("\n"):
            words = line.split()
            uuids = [word.partition("=")[2] for word in words[2:] if word.lower().startswith("uuid=")]
            if len(words) > 2 and words[0].lower() == "array" and uuids:
                found[words[1]] = uuids[0]
    return found
