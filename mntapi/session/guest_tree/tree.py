"""The tree itself, served from its places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mntapi.errors import Invalid, IsADirectory, MntapiError, NotADirectory, NotFound
from mntapi.session.guest_tree import links
from mntapi.session.guest_tree.places import Kind, Place, Places, fold, outer
from mntapi.session.guest_tree.spelling import Spelling
from mntapi.types import Blocks, Capacity, Entry, FileKind, FileSystem, Node

_NO_DRIVE = "add the disk that it is on with -d; mntapi info shows which volumes have which letters"


class GuestTree:
    """A ``FileSystem`` over the places; ``mntapi.session.paths`` finds files in it by path. Thread-safe. Made by ``assemble``.

    Inode numbers are ``(index of the place + 1) << 48 | inode of its file system + 1``: what is bound to two mount points has
    two numbers, hard links within one have one.

    Args:
        places: ``places.all[0]`` is the top.
        capacity: for ``statfs``, which has one answer for the whole tree.
        volumes: what Windows mounts as ``volume{guid}``, by that name in lower case.
        snapshots: False leaves them out of listings; they are found under their names all the same.
    """

    kind = "guest"

    def __init__(
        self, places: Places, capacity: Capacity, volumes: Mapping[str, tuple[str, ...]], *, snapshots: bool = True
    ) -> None:
        self.places = places
        self._capacity = capacity
        self._volumes = volumes
        self._snapshots = snapshots
        self._spelling = Spelling(self)

    @property
    def root(self) -> Node:
        return self.places.node(0)

    def without_snapshots(self) -> GuestTree:
        """The same tree for walking through: whoever copies or searches ``/`` wants each file once."""
        return GuestTree(self.places, self._capacity, self._volumes, snapshots=False)

    def parts(self, path: str) -> list[str]:
        """The names of a path as a user writes it.

        Raises:
            Invalid: ``C:\\x``, and there are several guests with drives.
        """
        homes = dict.fromkeys(place.home for place in self.places.all if place.is_windows)
        drive = links.drive_path(path) if homes else None
        if drive is None:
            return links.names_in(path)
        if len(homes) > 1:
            hint = "write " + " or ".join("/" + "/".join((*home, *drive[:1])) for home in homes)
            raise Invalid("there are several guests with drives", path=path, hint=hint)
        return [*next(iter(homes)), *drive]

    def absolute(self, link: Node, target: str) -> list[str] | None:
        return links.absolute(self.places.of(link), target, self._volumes)

    def leads_to(self, link: Node) -> list[str] | None:
        """The names, as the folders have them, of where a link of Windows leads whose target is a full path: no other system
        understands that. None: the target's text says it, to every system.
        """
        target = self.readlink(link)
        if not self.places.of(link).is_windows:
            return links.drive_path(target) if self.folds_names(link) else None
        names = self.absolute(link, target)
        return None if names is None else self._spelling.of(names)

    def spelled(self, path: str) -> list[str]:
        """The names of a path as a user writes it, as the folders have them."""
        return self._spelling.of(self.parts(path))

    def folds_names(self, node: Node) -> bool:
        """Whether upper and lower case are one where the node is: to its guest, or in its file system."""
        place = self.places.of(node)
        if place.is_windows or place.open is None:
            return place.is_windows
        try:
            return bool(getattr(place.origin.filesystem, "folds_case", False))
        except MntapiError:
            return False

    def above(self, folder: Node) -> int:
        return self.places.of(folder).above if self.places.is_root(folder) else 1

    def node(self, inode: int) -> Node:
        index, place, inner = self.places.split(inode)
        if inner < 0:
            return self.places.node(index)
        return outer(index, place.origin.filesystem.node(inner))

    def lookup(self, directory: Node, name: str) -> Node:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory("is not a folder")
        index, place, inner = self.places.split(directory.inode)
        put = self.places.inside(directory).get(fold(name, place.is_windows))
        if put is not None:
            return self.places.node(put.place)
        try:
            filesystem = place.origin.filesystem
            return outer(index, filesystem.lookup(directory._replace(inode=inner), name))
        except MntapiError:
            if index or name not in self.places.loose or directory.inode != self.root.inode:
                if place.kind is Kind.FOLDER and place.is_windows and links.drive_path(name):
                    raise NotFound("no drive of that letter is on the disks given", hint=_NO_DRIVE) from None
                raise
        return self.places.node(self.places.loose[name])

    def scan(self, directory: Node) -> Iterator[Entry]:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory("is not a folder")
        index, place, inner = self.places.split(directory.inode)
        put = dict(self.places.inside(directory))
        trouble = None
        try:
            for name, node in self._below(place, directory._replace(inode=inner)):
                over = put.pop(fold(name, place.is_windows), None) if put else None
                yield Entry(name, outer(index, node) if over is None else self.places.node(over.place))
        except MntapiError as error:
            trouble = error
        for name, at in put.values():
            if self._snapshots or self.places.all[at].kind is not Kind.SNAPSHOT:
                yield Entry(name, self.places.node(at))
        if trouble is not None:
            raise trouble

    def _below(self, place: Place, inner: Node) -> Iterator[Entry]:
        return iter(()) if place.open is None else place.origin.filesystem.scan(inner)

    def open(self, file: Node) -> Blocks:
        if file.kind is FileKind.DIRECTORY:
            raise IsADirectory("is a folder")
        filesystem, inner = self._inside(file)
        return filesystem.open(inner)

    def readlink(self, link: Node) -> str:
        """The target as stored in the guest; ``ShownTree`` has one that works in a mount."""
        filesystem, inner = self._inside(link)
        return filesystem.readlink(inner)

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        if self.places.split(node.inode)[2] < 0:
            return {}
        filesystem, inner = self._inside(node)
        return filesystem.xattrs(inner)

    def capacity(self) -> Capacity:
        return self._capacity

    def close(self) -> None:
        """Nothing to release: the file systems belong to the set."""

    def _inside(self, node: Node) -> tuple[FileSystem, Node]:
        """The file system of the node, and the node as that knows it."""
        _, place, inner = self.places.split(node.inode)
        if inner < 0:
            raise NotFound("is a folder that holds nothing")
        return place.origin.filesystem, node._replace(inode=inner)
