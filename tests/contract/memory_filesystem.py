"""A ``FileSystem`` made of Python values, for testing what stands on one: paths, copies, listings.

Its names may be as hostile as a damaged disk's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mntapi.blocks import check_range, whole
from mntapi.errors import NotADirectory, NotFound, ReadFailed, Unsupported
from mntapi.types import Blocks, Capacity, Entry, Extent, ExtentKind, FileKind, Node


class Memory:
    """Blocks over bytes."""

    sector_size = 512

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        self._content = b""


class MemoryFileSystem:
    """``content``: a name is a folder (dict), a file (bytes or Blocks), a link (str) or an error to raise when it is opened."""

    kind = "memory"

    def __init__(self, content: Mapping[str, object], **metadata: Mapping[str, object]) -> None:
        self._content: dict[int, object] = {}
        self._children: dict[int, list[tuple[str, int]]] = {}
        self._nodes: dict[int, Node] = {}
        self._metadata = metadata.get("metadata", {})
        self.root = self._add(content, "")

    def _add(self, value: object, name: str) -> Node:
        inode = len(self._nodes) + 2
        node = Node(inode=inode, kind=_kind(value), size=_size(value), mode=0o755 if isinstance(value, Mapping) else 0o644)
        node = node._replace(**self._metadata.get(name, {}))
        self._nodes[inode], self._content[inode] = node, value
        if isinstance(value, Mapping):
            self._children[inode] = [(child, self._add(inner, child).inode) for child, inner in value.items()]
        return node

    def node(self, inode: int) -> Node:
        if inode not in self._nodes:
            raise NotFound(f"no inode {inode}")
        return self._nodes[inode]

    def lookup(self, directory: Node, name: str) -> Node:
        for entry in self.scan(directory):
            if entry.name == name:
                return entry.node
        raise NotFound("no such file")

    def scan(self, directory: Node) -> Iterator[Entry]:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory("is not a folder")
        for name, inode in self._children[directory.inode]:
            if name == "<unreadable>":
                raise ReadFailed("cannot be read: injected fault", offset=4096)
            yield Entry(name, self._nodes[inode])

    def open(self, file: Node) -> Blocks:
        if file.reason:
            raise Unsupported("cannot be read", reason=file.reason)
        value = self._content[file.inode]
        return Memory(value) if isinstance(value, bytes) else value

    def readlink(self, link: Node) -> str:
        return str(self._content[link.inode])

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        return {}

    def capacity(self) -> Capacity:
        return Capacity(total=1 << 20)

    def close(self) -> None:
        self._content.clear()


def _kind(value: object) -> FileKind:
    if isinstance(value, Mapping):
        return FileKind.DIRECTORY
    return FileKind.SYMLINK if isinstance(value, str) else FileKind.FILE


def _size(value: object) -> int:
    if isinstance(value, Mapping):
        return 4096
    return len(value) if isinstance(value, bytes | str) else value.size
