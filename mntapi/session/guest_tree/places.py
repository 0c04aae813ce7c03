"""What the tree is made of: places. In each begins the file system of a volume, a folder of one, or a folder of our own."""

from __future__ import annotations

import enum
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.filesystems.names import DAMAGED, UNREADABLE
from mntapi.types import FileKind, FileSystem, Node

SHIFT = 48
"""Bits left to a file system's own inode numbers plus 1, as in ``session/tree.py``; here the highest of them is kept free."""
MAX_INNER = 1 << 47
MAX_PLACES = 32_000
"""Numbers have 15 bits for the place. A set with all the volumes that a scan gives, each in two places, and 10,000 mount points
or snapshots has fewer."""
_STAND_INS = 1 << 10
"""Places whose unreadable entries can have numbers of their own through FUSE (``TreeFs`` has 10 bits for the place there)."""


class Kind(enum.Enum):
    """What a place is to its guest."""

    FOLDER = "folder"
    """Made by us: it holds what was put into it."""
    MOUNT = "mount"
    """The guest's root, a drive, a mount point."""
    SNAPSHOT = "snapshot"
    """A mount point as it was."""
    VOLUME = "volume"
    """A volume by itself: its root is what its links take for ``/``."""


class Origin(NamedTuple):
    """A file system, and the node of it that is shown: its root, or another folder, or a file that is mounted."""

    filesystem: FileSystem
    root: Node


@dataclass(slots=True, eq=False)
class Place:
    """A node of the tree at which something else begins.

    ``names``: where it is, from the top. ``home``: where its guest's root is. ``path``: what its root is called there:
    ``("home",)``, ``("C:", "Data")``. ``open``: gives what is shown; None for a folder of our own.
    """

    kind: Kind
    names: tuple[str, ...]
    home: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    open: Callable[[], Origin] | None = None
    volume: str | None = None
    """Id of the volume whose root or folder it shows."""
    folder: str = "/"
    subvolume: str | None = None
    """That of btrfs which the folder is in, as ``MountPoint.subvolume``."""
    is_windows: bool = False
    reason: str | None = None
    """Slug: why a folder of our own is empty."""
    time_ns: int | None = None
    """When the snapshot was made, if that is known."""
    label: str | None = None
    """What the snapshot is called, where it is not beside what it is of; None: it is, or is no snapshot."""
    bound: tuple[str, ...] | None = None
    """Where the folder is that a bind mount shows."""
    snapshots: list[int] = field(default_factory=list)
    """Those of this mount point: indexes of places."""
    _opened: Origin | MntapiError | None = None

    @property
    def origin(self) -> Origin:
        """What is shown, opened at first use.

        Raises:
            NotFound: it is a folder of our own.
            MntapiError: why it cannot be read.
        """
        if self._opened is None:
            self._opened = self._open()
        if isinstance(self._opened, MntapiError):
            raise copy(self._opened)  # whoever catches it names the path that it met it on
        return self._opened

    def _open(self) -> Origin | MntapiError:
        if self.open is None:
            return NotFound("no such file")
        try:
            return self.open()
        except MntapiError as error:
            return error

    @property
    def above(self) -> int:
        """Names of a path that ``..`` takes away in its root: none where that is a root to the guest."""
        top = 1 if self.is_windows else 0
        if self.kind is Kind.FOLDER:
            return int(self.names != self.home)
        if self.kind is Kind.VOLUME or len(self.path) <= top:
            return 0
        return 2 if self.kind is Kind.SNAPSHOT else 1


class Inside(NamedTuple):
    """A name that was put into a folder, in the place of what the folder may have under it; ``place`` is an index."""

    name: str
    place: int


class Places:
    """All places of a tree, and what was put into which folder. Filled by ``assembly.py``, then never changed."""

    def __init__(self) -> None:
        self.all: list[Place] = []
        self.loose: dict[str, int] = {}
        """Volumes by name, for paths that lead to nothing else."""
        self._inside: dict[int, dict[str, Inside]] = {}

    def add(self, place: Place) -> int:
        """Its index. Raises Unsupported when there are too many."""
        if len(self.all) >= MAX_PLACES:
            raise Unsupported("too many mount points", expected=f"at most {MAX_PLACES}", reason="too-many-mounts")
        self.all.append(place)
        return len(self.all) - 1

    def put(self, folder: Node, name: str, index: int) -> None:
        """Let ``name`` in the folder stand for the place; what was there before is hidden."""
        is_windows = self.of(folder).is_windows
        self._inside.setdefault(folder.inode, {})[fold(name, is_windows)] = Inside(name, index)

    def inside(self, folder: Node) -> dict[str, Inside]:
        """What was put into the folder, by folded name."""
        return self._inside.get(folder.inode, {})

    def of(self, node: Node) -> Place:
        """The place that a node of the tree is in."""
        return self.split(node.inode)[1]

    def split(self, inode: int) -> tuple[int, Place, int]:
        """Index of the place, the place, and the number in its file system, or -1 for a folder that stands in for one."""
        index = (inode >> SHIFT) - 1
        if not 0 <= index < len(self.all):
            raise NotFound(f"no inode {inode}")
        return index, self.all[index], (inode & (1 << SHIFT) - 1) - 1

    def node(self, index: int) -> Node:
        """A place as it is found in its folder: what it shows, or, where that cannot be read, an empty folder that says why."""
        place = self.all[index]
        inode = (index + 1) << SHIFT
        if place.open is None:
            return Node(inode, FileKind.DIRECTORY, 0, mode=0o555, links=2, reason=place.reason)
        try:
            return outer(index, place.origin.root)
        except MntapiError as error:
            return Node(inode, FileKind.DIRECTORY, 0, mode=0o500, links=2, reason=error.reason or DAMAGED)

    def is_root(self, node: Node) -> bool:
        """Whether the node is what its place begins with."""
        return node.inode == self.node(self.split(node.inode)[0]).inode


def fold(name: str, is_windows: bool) -> str:
    """What makes names equal that are one to the guest."""
    return name.casefold() if is_windows else name


def outer(index: int, node: Node) -> Node:
    """A file system's node with the number it has in the tree; inner number 0 is kept for what stands in for a file system."""
    if not 0 <= node.inode + 1 < MAX_INNER:
        raise Corrupt(f"inode number {node.inode} is wider than any file system has")
    number = (index + 1) << SHIFT | node.inode + 1
    if not node.links and index + 1 >= _STAND_INS and node.reason in (DAMAGED, UNREADABLE):
        node = node._replace(links=1)
    return Node(number, *node[1:])  # _replace takes half as long again
