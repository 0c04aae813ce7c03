"""One file system made of all volumes of a set: ``/disk0p1/etc/passwd``. ``guest_tree`` has the one that a guest's users knew;
``open_tree`` chooses.

Volumes whose files cannot be read are folders that answer with the reason; nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mntapi.errors import Corrupt, IsADirectory, MntapiError, NotADirectory, NotFound
from mntapi.escaping import quoted
from mntapi.session.diskset import DiskSet
from mntapi.session.paths import parts_of
from mntapi.types import Blocks, Capacity, Entry, FileKind, FileSystem, Node, Usage, Volume

if TYPE_CHECKING:
    from mntapi.session.guest_tree import GuestTree

_VOLUME_SHIFT = 48
"""Bits left to a file system's own inode numbers: NTFS, the widest of them, has 48."""
_ROOT = 1


def open_tree(disk_set: DiskSet, *, snapshots: bool = True) -> VolumeTree | GuestTree:
    """The tree that a user means by a path: the guests' own, or, where there is none, that of the volumes by name.

    In the first, too, a volume is found under its name, unless the guest has a file of that name. ``snapshots``: whether those
    beside the live files are listed, or only found by name: whoever walks through all of it wants each file once.
    """
    if not disk_set.guests:
        return VolumeTree(disk_set)
    from mntapi.session.guest_tree import assemble  # not needed where there is no guest

    tree = assemble(disk_set, disk_set.guests)
    return tree if snapshots else tree.without_snapshots()


class VolumeTree:
    """A ``FileSystem`` whose top folder holds the volumes by name.

    Inode numbers are ``(position of the volume + 1) << 48 | inode of its file system``, so files of two volumes never look
    like hard links of one another, and a number alone finds its file again.
    """

    kind = "volumes"

    def __init__(self, disk_set: DiskSet) -> None:
        self._set = disk_set
        self.root = Node(inode=_ROOT, kind=FileKind.DIRECTORY, size=0, mode=0o555, links=2 + len(disk_set.volumes))

    def node(self, inode: int) -> Node:
        if inode == _ROOT:
            return self.root
        index, inner = self._split(inode)
        volume = self._set.volumes[index]
        if inner == 0:
            return self._volume_node(index, volume)
        filesystem = self._set.filesystem(volume)
        if inner == filesystem.root.inode + 1:
            return self._volume_node(index, volume)
        return _outer(index, filesystem.node(inner - 1))

    def lookup(self, directory: Node, name: str) -> Node:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory("is not a folder")
        if directory.inode == _ROOT:
            for index, volume in enumerate(self._set.volumes):
                if volume.name == name:
                    return self._volume_node(index, volume)
            raise NotFound(
                f"no volume {quoted(name)}", hint="volumes: " + ", ".join(volume.name for volume in self._set.volumes)
            )
        index, filesystem, inner = self._inside(directory)
        return _outer(index, filesystem.lookup(inner, name))

    def scan(self, directory: Node) -> Iterator[Entry]:
        if directory.inode == _ROOT:
            for index, volume in enumerate(self._set.volumes):
                yield Entry(volume.name, self._volume_node(index, volume))
            return
        if self._is_swap(directory):
            return
        index, filesystem, inner = self._inside(directory)
        for name, node in filesystem.scan(inner):
            yield Entry(name, _outer(index, node))

    def open(self, file: Node) -> Blocks:
        if file.kind is FileKind.DIRECTORY:
            raise IsADirectory("is a folder")
        _, filesystem, inner = self._inside(file)
        return filesystem.open(inner)

    def readlink(self, link: Node) -> str:
        _, filesystem, inner = self._inside(link)
        return filesystem.readlink(inner)

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        if node.inode == _ROOT or (node.reason is not None and self._split(node.inode)[1] == 0):
            return {}
        _, filesystem, inner = self._inside(node)
        return filesystem.xattrs(inner)

    def leads_to(self, link: Node) -> list[str] | None:
        """As in ``GuestTree``. Nothing here knows which volume a drive is: it is taken for a folder at the top."""
        from mntapi.session.guest_tree.links import drive_path  # nothing but a copy asks

        return drive_path(self.readlink(link)) if self.folds_names(link) else None

    def spelled(self, path: str) -> list[str]:
        """The names of a path as a user writes it."""
        return parts_of(path)

    def folds_names(self, node: Node) -> bool:
        """Whether upper and lower case are one in the file system that the node is in."""
        if node.inode == _ROOT:
            return False
        try:
            filesystem = self._set.filesystem(self._set.volumes[self._split(node.inode)[0]])
        except MntapiError:
            return False
        return bool(getattr(filesystem, "folds_case", False))

    def capacity(self) -> Capacity:
        return Capacity(total=sum(volume.size for volume in self._set.volumes))

    def close(self) -> None:
        """Nothing to release: the file systems belong to the set."""

    def _is_swap(self, node: Node) -> bool:
        signature = self._set.content(self._set.volumes[self._split(node.inode)[0]]).signature
        return signature is not None and signature.usage is Usage.SWAP

    def _split(self, inode: int) -> tuple[int, int]:
        index = (inode >> _VOLUME_SHIFT) - 1
        if not 0 <= index < len(self._set.volumes):
            raise NotFound(f"no inode {inode}")
        return index, inode & (1 << _VOLUME_SHIFT) - 1

    def _inside(self, node: Node) -> tuple[int, FileSystem, Node]:
        """The volume's position, its file system, and the same node as that file system knows it."""
        index, inner = self._split(node.inode)
        filesystem = self._set.filesystem(self._set.volumes[index])
        return index, filesystem, node._replace(inode=inner - 1)

    def _volume_node(self, index: int, volume: Volume) -> Node:
        """The volume as a folder: its root, or, where there is none, an empty node that says why."""
        try:
            return _outer(index, self._set.filesystem(volume).root)
        except MntapiError as error:
            inode = (index + 1) << _VOLUME_SHIFT
            if self._is_swap(Node(inode=inode, kind=FileKind.DIRECTORY, size=0)):
                return Node(inode=inode, kind=FileKind.DIRECTORY, size=0, mode=0o555, links=2)
            slug = error.reason or self._set.content(volume).state.value
            return Node(inode=inode, kind=FileKind.DIRECTORY, size=0, mode=0o500, links=2, reason=slug)


def _outer(index: int, node: Node) -> Node:
    """A file system's node with the number it has in the tree; 0 is kept for a volume without a file system."""
    if node.inode + 1 >= 1 << _VOLUME_SHIFT:
        raise Corrupt(f"inode number {node.inode} is wider than any file system has")
    return Node((index + 1) << _VOLUME_SHIFT | node.inode + 1, *node[1:])  # _replace takes half as long again
