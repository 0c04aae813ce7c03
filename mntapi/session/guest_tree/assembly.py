"""Guests and volumes in, the tree out.

Mount points are put where the guest's own links lead them, in the order in which the guest mounts, and each is a place of its
own with numbers of its own: so a folder bound below itself, or two bound to each other, end where a kernel would end them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from mntapi.errors import MntapiError, NotFound, Unsupported
from mntapi.guests.files import find
from mntapi.guests.subvolumes import TOP, shown_by
from mntapi.guests.types import Family, Guest, MountKind, MountPoint, PointInTime
from mntapi.session.guest_tree.links import names_in
from mntapi.session.guest_tree.missing import advice_for, is_medium
from mntapi.session.guest_tree.places import Kind, Origin, Place, Places
from mntapi.session.guest_tree.snapshots import base_of, label_of, moment_of, name_of
from mntapi.session.guest_tree.tree import GuestTree
from mntapi.session.paths import trail_of
from mntapi.types import Capacity, Entry, FileKind, FileSystem, Node, Signature, Usage, Volume

MAX_MOUNTS = 10_000
"""Guests and their mount points; volumes that further ones would show are below ``/volumes``."""
MAX_SNAPSHOTS = 5_000
"""Snapshots beside mount points; further ones are below ``/volumes``."""
MAX_RECURSIVE = 100
"""Bind mounts that take along what is mounted below their source; further ones do not."""
VOLUMES = "volumes"
"""The folder of the volumes that nothing mounts; ``volumes~``, ``volumes~~`` ... where the guest has a file of that name."""
NETWORK = "network"
"""``Node.reason`` of a mount point whose files are on a server."""
_GUID = re.compile(r"volume\{[0-9a-f-]{36}\}", re.IGNORECASE)


class Content(Protocol):
    """What the probe says of a volume."""

    @property
    def signature(self) -> Signature | None: ...


class Volumes(Protocol):
    """The part of a ``DiskSet`` that is needed."""

    @property
    def volumes(self) -> tuple[Volume, ...]: ...
    def filesystem(self, volume: Volume) -> FileSystem: ...
    def content(self, volume: Volume) -> Content: ...


def assemble(disk_set: Volumes, guests: Sequence[Guest]) -> GuestTree:
    """The tree of all guests. What cannot be read in it is a folder that answers with the reason; nothing raises."""
    assembly = _Assembly(disk_set)
    if len(guests) == 1:
        assembly.guest(guests[0], ())
    else:
        assembly.folder(())
        for number, guest in enumerate(guests):
            assembly.guest(guest, (f"guest{number}",))
    assembly.snapshots()
    assembly.rest()
    assembly.by_name()
    return assembly.tree


class _Assembly:
    """A tree in the making."""

    def __init__(self, disk_set: Volumes) -> None:
        self._set = disk_set
        self._volumes = {volume.id: volume for volume in disk_set.volumes}
        self._places = Places()
        self._guids: dict[str, tuple[str, ...]] = {}
        self._left = MAX_MOUNTS
        self._left_snapshots = MAX_SNAPSHOTS
        self._left_recursive = MAX_RECURSIVE
        self._live: dict[tuple[str, ...], int] = {}
        """Mount points by where they are; one that was mounted over is gone."""
        self._copies: dict[str, list[Volume]] = {}
        for volume in disk_set.volumes:
            self._copies.setdefault(base_of(volume) or "", []).append(volume)
        self._snapshots = {volume.id for volume in disk_set.volumes if base_of(volume) is not None}
        """Volumes that are put beside all that show what they are of, at last."""
        self._placed: set[str] = set()
        """Snapshots, by id, that are beside what they are of."""
        total = sum(volume.size for volume in self._copies.get("", ()))
        self.tree = GuestTree(self._places, Capacity(total=total), self._guids)

    def folder(self, names: tuple[str, ...], *, home: tuple[str, ...] = (), is_windows: bool = False) -> int:
        """A folder of our own, not put anywhere yet."""
        return self._places.add(Place(Kind.FOLDER, names, home, is_windows=is_windows))

    def guest(self, guest: Guest, home: tuple[str, ...]) -> None:
        """A guest with all its mount points, its root at ``home``."""
        if not self._left:
            return
        self._left -= 1
        is_windows = guest.family is Family.WINDOWS
        mounts = list(guest.mounts)
        if is_windows:
            top = self.folder(home, home=home, is_windows=True)
        else:
            root = next((one for one in mounts if not _parts(one.path, False) and one.kind is MountKind.VOLUME), None)
            mounts = [one for one in mounts if _parts(one.path, False)]
            top = self._live[home] = self._places.add(self._mounted(root or _whole(guest), home, (), home, is_windows=False))
        if home:
            self._places.put(self.tree.root, home[-1], top)
        for mount in mounts:
            self._mount(mount, home, is_windows)
        for point in guest.snapshots:
            if point.volume not in self._snapshots:
                self._point_in_time(point, home, is_windows)

    def snapshots(self) -> None:
        """Beside every mount point, what its volume was before."""
        for index in list(self._live.values()):
            self._beside(index, self._places.all[index])

    def rest(self) -> None:
        """The volumes that nothing mounts."""
        mounted = {self._places.all[index].volume for index in self._live.values()} | self._placed
        left = [volume for volume in self._set.volumes if volume.id not in mounted]
        bases = {volume.id for volume in left} if self._left_snapshots else set()
        left = [volume for volume in left if base_of(volume) not in bases]
        if not left:
            return
        name = _free(self.tree, self.tree.root, VOLUMES)
        folder = self.folder((name,))
        self._places.put(self.tree.root, name, folder)
        for volume in left:
            index = self._places.add(self._alone(volume, (name, volume.name)))
            self._places.put(self._places.node(folder), volume.name, index)
            self._beside(index, self._places.all[index])

    def by_name(self) -> None:
        """Every volume by its name alone, as where there is no guest: found, and not listed."""
        for volume in self._set.volumes:
            self._places.loose[volume.name] = self._places.add(self._alone(volume, (volume.name,)))

    def _mount(self, mount: MountPoint, home: tuple[str, ...], is_windows: bool) -> None:
        if mount.kind is MountKind.VIRTUAL or is_medium(mount) or not self._left:
            return
        self._left -= 1
        found = self._folder_for([*home, *_parts(mount.path, is_windows)], home, follow=not is_windows)
        if found is None:
            return
        folder, names = found
        path = names[len(home) :]
        if mount.kind is MountKind.BIND:
            self._bind(mount, folder, names, home, path)
            return
        self._put(folder, self._mounted(mount, names, path, home, is_windows=is_windows))
        if is_windows:
            self._name_by_guid(mount, names)

    def _put(self, folder: Node, place: Place) -> None:
        self._live[place.names] = self._places.add(place)
        self._places.put(folder, place.names[-1], self._live[place.names])

    def _name_by_guid(self, mount: MountPoint, names: tuple[str, ...]) -> None:
        """What Windows calls the volume in links: the partition's GUID on a GPT disk, else what the mount point says."""
        for text in (mount.source, (mount.volume or "").replace("gpt:", "volume{", 1) + "}"):
            guid = _GUID.search(text)
            if guid:
                self._guids.setdefault(guid[0].lower(), names)

    def _folder_for(self, names: list[str], home: tuple[str, ...], *, follow: bool) -> tuple[Node, tuple[str, ...]] | None:
        """The folder that a mount point lies in, and its own names, links resolved; what is missing on the way is made.

        None where that cannot be: the path goes through a file, is the root itself, or has too much missing.
        """
        trail: list[Entry] = []
        for place, name in enumerate(names):
            is_last = place == len(names) - 1
            folder = trail[-1].node if trail else self.tree.root
            if folder.kind is not FileKind.DIRECTORY:
                return None
            try:
                trail = trail_of(self.tree, [name], follow_last=follow or not is_last, start=trail)
            except MntapiError:
                here = (*(entry.name for entry in trail), name)
                if is_last:
                    return folder, here
                if not self._left:
                    return None
                self._left -= 1
                index = self.folder(here, home=home, is_windows=self._places.of(folder).is_windows)
                self._places.put(folder, name, index)
                trail.append(Entry(name, self._places.node(index)))
        if len(trail) <= len(home):
            return None
        folder = trail[-2].node if len(trail) > 1 else self.tree.root
        return folder, tuple(entry.name for entry in trail)

    def _mounted(
        self, mount: MountPoint, names: tuple[str, ...], path: tuple[str, ...], home: tuple[str, ...], *, is_windows: bool
    ) -> Place:
        place = Place(Kind.MOUNT, names, home, path, is_windows=is_windows)
        if mount.kind is MountKind.NETWORK:
            place.kind, place.reason = Kind.FOLDER, NETWORK
        elif mount.volume is None or mount.volume not in self._volumes:
            place.open = _missing(mount)
        else:
            place.volume, place.folder, place.subvolume = mount.volume, mount.folder, mount.subvolume
            place.open = self._opener(self._volumes[mount.volume], mount.folder, mount.subvolume, is_windows=is_windows)
        return place

    def _bind(
        self, mount: MountPoint, folder: Node, names: tuple[str, ...], home: tuple[str, ...], path: tuple[str, ...]
    ) -> None:
        place = Place(Kind.MOUNT, names, home, path)
        below: list[tuple[Place, tuple[str, ...]]] = []
        try:
            trail = trail_of(self.tree, [*home, *names_in(mount.source)], follow_last=True)
            source = trail[-1].node if trail else self.tree.root
            _, shown, inner = self._places.split(source.inode)
            if inner < 0:
                raise Unsupported("is bound to a folder that cannot be read", reason=source.reason or "missing-volume")
            origin = Origin(shown.origin.filesystem, shown.origin.filesystem.node(inner))
            place.open, place.bound = lambda: origin, tuple(entry.name for entry in trail)
            if "rbind" in mount.options and self._left_recursive:
                self._left_recursive -= 1
                below = self._below(tuple(entry.name for entry in trail), names)
        except MntapiError as error:
            place.open = _failing(error)
        self._put(folder, place)
        for inner_place, inner_names in below:
            self._again(inner_place, inner_names, home)

    def _below(self, source: tuple[str, ...], target: tuple[str, ...]) -> list[tuple[Place, tuple[str, ...]]]:
        """Mount points below one folder, and what they are called below another."""
        depth = len(source)
        live = [
            self._places.all[index] for names, index in self._live.items() if len(names) > depth and names[:depth] == source
        ]
        return [(one, target + one.names[depth:]) for one in live if one.names[: len(target)] != target]

    def _again(self, place: Place, names: tuple[str, ...], home: tuple[str, ...]) -> None:
        """A mount point at a second path."""
        found = self._folder_for(list(names), home, follow=False)
        if found is None or not self._left:
            return
        self._left -= 1
        self._put(found[0], Place(Kind.MOUNT, found[1], home, found[1][len(home) :], open=place.open))

    def _alone(self, volume: Volume, names: tuple[str, ...]) -> Place:
        place = Place(Kind.VOLUME, names, names, (), volume=volume.id, subvolume=TOP)
        if base_of(volume) is not None:
            place.time_ns, place.label = moment_of(volume), label_of(volume)
        signature = self._set.content(volume).signature
        if signature is None or signature.usage is not Usage.SWAP:
            place.open = self._opener(volume, "/", TOP, is_windows=False)
        return place

    def _opener(self, volume: Volume, folder: str, subvolume: str | None, *, is_windows: bool) -> Callable[[], Origin]:
        def open_volume() -> Origin:
            filesystem = self._set.filesystem(volume)
            top = shown_by(filesystem, subvolume)
            return Origin(filesystem, find(top, folder, fold=is_windows))

        return open_volume

    def _beside(self, index: int, place: Place) -> None:
        """The snapshots of the volume that a place shows."""
        for volume in self._copies.get(place.volume or "", ()) if place.volume else ():
            opener = self._opener(volume, place.folder, place.subvolume, is_windows=place.is_windows)
            if self._add_snapshot(index, label_of(volume), moment_of(volume), opener, volume.id, place.subvolume):
                self._placed.add(volume.id)

    def _point_in_time(self, point: PointInTime, home: tuple[str, ...], is_windows: bool) -> None:
        volume = self._volumes.get(point.volume)
        path = tuple(_parts(point.path, is_windows))
        live = self._live.get(home + path)
        if live is None:
            live = self._own_place(home + path, home)
        if volume is None or live is None:
            return
        opener = self._opener(volume, point.folder, point.subvolume, is_windows=is_windows)
        label = name_of(point.time_ns, point.description or point.subvolume or point.folder)
        self._add_snapshot(live, label, point.time_ns, opener, volume.id, point.subvolume)

    def _own_place(self, names: tuple[str, ...], home: tuple[str, ...]) -> int | None:
        """A folder that has snapshots of its own (a subvolume) as a place of its own; None if there is no such folder."""
        try:
            trail = trail_of(self.tree, names, follow_last=True)
            names = tuple(entry.name for entry in trail)
            if names in self._live or not self._left or len(trail) <= len(home):
                return self._live.get(names)
            _, shown, inner = self._places.split(trail[-1].node.inode)
            origin = Origin(shown.origin.filesystem, shown.origin.filesystem.node(inner))
        except MntapiError:
            return None  # the live folder says what is wrong with it
        self._left -= 1
        parent = trail[-2].node if len(trail) > 1 else self.tree.root
        self._put(parent, Place(Kind.MOUNT, names, home, names[len(home) :], lambda: origin))
        return self._live[names]

    def _add_snapshot(
        self, index: int, label: str, time_ns: int | None, opener: Callable[[], Origin], volume: str, subvolume: str | None
    ) -> bool:
        """Whether it was put beside its live tree; not where there are too many, or a mount point is no folder."""
        place, root = self._places.all[index], self._places.node(index)
        if root.kind is not FileKind.DIRECTORY or not self._left_snapshots:
            return False
        self._left_snapshots -= 1
        name = _free(self.tree, root, label)
        kind = Kind.SNAPSHOT if place.kind is Kind.MOUNT else Kind.VOLUME
        home = place.home if kind is Kind.SNAPSHOT else (*place.names, name)
        shot = Place(kind, (*place.names, name), home, place.path, opener, volume, place.folder, subvolume, place.is_windows)
        shot.time_ns = time_ns
        added = self._places.add(shot)
        self._places.put(root, name, added)
        place.snapshots.append(added)
        return True


def _parts(path: str, is_windows: bool) -> list[str]:
    """The names of a mount point, ``..`` resolved, never above the root."""
    names: list[str] = []
    for name in names_in(path.replace("\\", "/") if is_windows else path):
        if name != "..":
            names.append(name)
        elif names:
            names.pop()
    return names


def _whole(guest: Guest) -> MountPoint:
    """The root of a guest that names no mount point for it."""
    return MountPoint("/", MountKind.VOLUME, guest.volume, volume=guest.volume)


def _free(tree: GuestTree, folder: Node, name: str) -> str:
    """The name, with as many ``~`` behind it as make it one that the folder has not."""
    try:
        while True:
            tree.lookup(folder, name)
            name += "~"
    except NotFound:
        return name
    except MntapiError:
        return name  # a folder that cannot be read shows no other names


def _missing(mount: MountPoint) -> Callable[[], Origin]:
    said = mount.reason or "it is not in this set"
    error = Unsupported(f"{mount.source}: {said}", hint=advice_for(mount), reason="missing-volume")
    return _failing(error)


def _failing(error: MntapiError) -> Callable[[], Origin]:
    def fail() -> Origin:
        raise error

    return fail
