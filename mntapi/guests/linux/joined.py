"""A guest's tree as far as reading what it says of itself needs it: ``/usr`` or ``/var`` may be on another volume.

The one that users see is made by ``mntapi.session``. This one knows no inode from before a mount and lists no mount points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mntapi.errors import Corrupt, NotFound
from mntapi.guests.files import find
from mntapi.types import Blocks, Capacity, Entry, FileSystem, Node

_SHIFT = 56
"""Bits left to a file system's own inode numbers."""


class Joined:
    """File systems mounted on one another. Borrows them."""

    def __init__(self, root: FileSystem) -> None:
        self.kind = root.kind
        self._systems = [root]
        self._covers: dict[int, Node] = {}
        self.root = self._outer(0, root.root)

    def mount(self, path: str, fs: FileSystem) -> None:
        """Show ``fs`` in the place of the folder at ``path``. Raises as ``find`` does."""
        folder = find(self, path)
        self._systems.append(fs)
        self._covers[folder.inode] = self._outer(len(self._systems) - 1, fs.root)

    def bind(self, path: str, source: str) -> None:
        """Show the folder at ``source`` in the place of that at ``path``. Raises as ``find`` does."""
        shown, folder = find(self, source), find(self, path)
        if shown.inode != folder.inode:
            self._covers[folder.inode] = shown

    def node(self, inode: int) -> Node:
        index, fs = self._system(inode)
        return self._outer(index, fs.node(inode & (1 << _SHIFT) - 1))

    def lookup(self, directory: Node, name: str) -> Node:
        index, fs = self._system(directory.inode)
        found = self._outer(index, fs.lookup(self._inner(directory), name))
        return self._covers.get(found.inode, found)

    def scan(self, directory: Node) -> Iterator[Entry]:
        index, fs = self._system(directory.inode)
        for name, node in fs.scan(self._inner(directory)):
            yield Entry(name, self._outer(index, node))

    def open(self, file: Node) -> Blocks:
        return self._system(file.inode)[1].open(self._inner(file))

    def readlink(self, link: Node) -> str:
        return self._system(link.inode)[1].readlink(self._inner(link))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        return self._system(node.inode)[1].xattrs(self._inner(node))

    def capacity(self) -> Capacity:
        return self._systems[0].capacity()

    def close(self) -> None:
        """Nothing to release: the file systems are others'."""

    def _system(self, inode: int) -> tuple[int, FileSystem]:
        index = inode >> _SHIFT
        if not 0 <= index < len(self._systems):
            raise NotFound(f"no inode {inode}")
        return index, self._systems[index]

    def _inner(self, node: Node) -> Node:
        return node._replace(inode=node.inode & (1 << _SHIFT) - 1)

    def _outer(self, index: int, node: Node) -> Node:
        if node.inode >> _SHIFT:
            raise Corrupt(f"inode number {node.inode} is wider than any file system has")
        return node._replace(inode=index << _SHIFT | node.inode)
