"""File systems to serve in tests: a folder of this host, and one huge folder that nobody has to make."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping

from contract.memory_filesystem import Memory
from mntapi.blocks import HostFile
from mntapi.errors import NotADirectory, NotFound
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node

_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.SYMLINK,
    stat.S_IFIFO: FileKind.FIFO,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFCHR: FileKind.CHAR_DEVICE,
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
}


def node_of(status: os.stat_result) -> Node:
    return Node(
        inode=status.st_ino,
        kind=_KINDS[stat.S_IFMT(status.st_mode)],
        size=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        links=status.st_nlink,
        allocated=status.st_blocks * 512,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        ctime_ns=status.st_ctime_ns,
        birthtime_ns=1_000_000_000_000_000_007,
        rdev=status.st_rdev,
    )


class HostTree:
    """A folder of the host. Numbers it has not seen are searched for, as after a restart."""

    kind = "host"

    def __init__(self, top: str) -> None:
        self._top = top
        self.root = node_of(os.lstat(top))
        self._paths = {self.root.inode: top}

    def node(self, inode: int) -> Node:
        return node_of(os.lstat(self._path(inode)))

    def _path(self, inode: int) -> str:
        if inode not in self._paths:
            for folder, folders, files in os.walk(self._top):
                for name in folders + files:
                    path = os.path.join(folder, name)
                    self._paths[os.lstat(path).st_ino] = path
        if inode not in self._paths:
            raise NotFound(f"no inode {inode}")
        return self._paths[inode]

    def lookup(self, directory: Node, name: str) -> Node:
        path = os.path.join(self._path(directory.inode), name)
        try:
            status = os.lstat(path)
        except FileNotFoundError as error:
            raise NotFound("no such file", path=path) from error
        self._paths[status.st_ino] = path
        return node_of(status)

    def scan(self, directory: Node) -> Iterator[Entry]:
        with os.scandir(self._path(directory.inode)) as entries:
            for entry in entries:
                status = os.lstat(entry.path)
                self._paths[status.st_ino] = entry.path
                yield Entry(entry.name, node_of(status))

    def open(self, file: Node) -> Blocks:
        return HostFile.open(self._path(file.inode))

    def readlink(self, link: Node) -> str:
        return os.readlink(self._path(link.inode))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        path = self._path(node.inode)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}

    def capacity(self) -> Capacity:
        status = os.statvfs(self._top)
        unit = status.f_frsize
        return Capacity(
            status.f_blocks * unit, status.f_bfree * unit, unit, status.f_files, status.f_ffree, name_max=status.f_namemax
        )

    def close(self) -> None:
        self._paths.clear()


class ManyFiles:
    """A folder with ``count`` small files; file ``i`` is called ``name(i)`` and says so."""

    kind = "many"
    root = Node(inode=2, kind=FileKind.DIRECTORY, size=4096, mode=0o755, links=2)
    _FIRST = 1000

    def __init__(self, count: int) -> None:
        self._count = count

    @staticmethod
    def name(index: int) -> str:
        return f"{index:06}-{'long' * (index % 50)}"

    def node(self, inode: int) -> Node:
        if inode == 2:
            return self.root
        if not self._FIRST <= inode < self._FIRST + self._count:
            raise NotFound(f"no inode {inode}")
        return Node(inode=inode, kind=FileKind.FILE, size=len(self.name(inode - self._FIRST)))

    def lookup(self, directory: Node, name: str) -> Node:
        index = int(name[:6]) if name[:6].isdecimal() else -1
        if not 0 <= index < self._count or name != self.name(index):
            raise NotFound("no such file")
        return self.node(self._FIRST + index)

    def scan(self, directory: Node) -> Iterator[Entry]:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory("is not a folder")
        for index in range(self._count):
            yield Entry(self.name(index), self.node(self._FIRST + index))

    def open(self, file: Node) -> Blocks:
        return Memory(self.name(file.inode - self._FIRST).encode())

    def readlink(self, link: Node) -> str:
        raise NotFound("no links here")

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        return {}

    def capacity(self) -> Capacity:
        return Capacity(total=1 << 20)

    def close(self) -> None:
        """Nothing to release."""
