"""Disks and volumes as files: ``disks/disk0``, ``volumes/disk0p1``. Those of an overlay can be written, all others not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence

from mntapi.blocks import Slice
from mntapi.errors import Invalid, IsADirectory, MntapiError, NotADirectory, NotFound
from mntapi.types import Blocks, Capacity, ExtentKind, FileKind, Node, WritableBlocks
from mntapi_fuse.operations import ROOT, Attributes, Changes, DirEntry, NoAttribute, ReadOnly

MAX_EXTENTS = 4096
"""Extents looked at to tell how much of a file is stored; what lies behind them counts as stored."""


class BlockFs:
    """Folders of ``Blocks``, two levels deep. Borrows the blocks: closing a file of the mount leaves them open.

    What is ``WritableBlocks`` can be written. Files may show the same bytes, so one time of change is kept for all of them.

    Node numbers are positions in ``folders``, so a restarted worker must be given the same ones in the same order.
    """

    has_xattrs = False

    def __init__(self, folders: Mapping[str, Mapping[str, Blocks]], *, uid: int | None = None, gid: int | None = None) -> None:
        """``uid`` and ``gid`` own everything (0500 and 0400; 0600 what can be written); those of this process by default."""
        self._owner = (os.getuid() if uid is None else uid, os.getgid() if gid is None else gid)
        self._now_ns = time.time_ns()
        self._folders = [os.fsencode(name) for name in folders]
        self._files = [[(os.fsencode(name), blocks) for name, blocks in files.items()] for files in folders.values()]
        self._nodes: dict[int, Node] = {}
        writes = any(isinstance(blocks, WritableBlocks) for files in self._files for _name, blocks in files)
        self.changes: Changes | None = self if writes else None

    def lookup(self, parent: int, name: bytes) -> Attributes:
        for entry in self.readdir(parent):
            if entry.name == name:
                return entry.attributes
        raise NotFound("no such file", path=os.fsdecode(name))

    def getattr(self, node: int) -> Attributes:
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = self._describe(node)
        return Attributes(node, known, is_lasting=self.changes is None)

    def _describe(self, node: int) -> Node:
        if self._is_folder(node):
            links = 2 + (len(self._folders) if node == ROOT else 0)
            return self._owned(Node(node, FileKind.DIRECTORY, 0, 0o500, links=links))
        blocks = self._blocks(node)
        mode = 0o600 if self.is_writable(node) else 0o400
        return self._owned(Node(node, FileKind.FILE, blocks.size, mode, allocated=_stored(blocks)))

    def _owned(self, node: Node) -> Node:
        uid, gid = self._owner
        return node._replace(uid=uid, gid=gid, mtime_ns=self._now_ns, atime_ns=self._now_ns, ctime_ns=self._now_ns)

    def readdir(self, node: int) -> Iterator[DirEntry]:
        if node == ROOT:
            names = [(name, ROOT + 1 + index) for index, name in enumerate(self._folders)]
        elif ROOT < node <= ROOT + len(self._folders):
            folder = node - ROOT - 1
            names = [(name, _number(folder, index)) for index, (name, _blocks) in enumerate(self._files[folder])]
        else:
            self._blocks(node)
            raise NotADirectory("is a file")
        for name, number in names:
            yield DirEntry(name, self.getattr(number))

    def open(self, node: int) -> Blocks:
        blocks = self._blocks(node)
        return Slice(blocks, 0, blocks.size)

    def is_writable(self, node: int) -> bool:
        return not self._is_folder(node) and isinstance(self._blocks(node), WritableBlocks)

    def change(self, node: int) -> WritableBlocks:
        blocks = self._blocks(node)
        if not isinstance(blocks, WritableBlocks):
            raise ReadOnly("cannot be written")
        self._now_ns = time.time_ns()
        self._nodes.clear()
        return blocks

    def flush(self, node: int) -> None:
        blocks = self._blocks(node)
        if isinstance(blocks, WritableBlocks):
            blocks.flush()

    def _is_folder(self, node: int) -> bool:
        return ROOT <= node <= ROOT + len(self._folders)

    def _blocks(self, node: int) -> Blocks:
        if self._is_folder(node):
            raise IsADirectory("is a folder")
        folder, index = (node >> 32) - 1, node & 0xFFFFFFFF
        if 0 <= folder < len(self._files) and index < len(self._files[folder]):
            return self._files[folder][index][1]
        raise NotFound(f"no node {node}")

    def readlink(self, node: int) -> bytes:
        raise Invalid("is no link")

    def statfs(self) -> Capacity:
        total = sum(blocks.size for files in self._files for _name, blocks in files)
        return Capacity(total, inodes=1 + len(self._folders) + sum(map(len, self._files)))

    def getxattr(self, node: int, name: bytes) -> bytes:
        raise NoAttribute("there are no attributes")

    def listxattr(self, node: int) -> Sequence[bytes]:
        return ()


def _number(folder: int, index: int) -> int:
    return folder + 1 << 32 | index


def _stored(blocks: Blocks) -> int:
    """Bytes that are not known to be a hole. cp and tar look for holes only where this is less than the size."""
    holes = 0
    try:
        for count, extent in enumerate(blocks.extents(0, blocks.size)):
            if extent.kind is ExtentKind.ZERO:
                holes += extent.length
            if count == MAX_EXTENTS:
                break
    except MntapiError:
        return blocks.size - holes  # a map that cannot be read must not hide the file
    return blocks.size - holes
