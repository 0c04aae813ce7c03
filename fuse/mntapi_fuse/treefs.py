"""A file system as a tree: ``mntapi.types.FileSystem`` with what FUSE needs: node numbers, bytes, names that can be shown.

Node number 1 is the root, every other one is the inode number plus 2 (NTFS has an inode 0). ``st_ino`` is the guest's inode.
An entry whose inode could not be read has a number of its own, with bit 63 set: the kernel takes what it hears of a number
for the truth about all names of it, and an empty stand-in must not become the size of a file that could be read later.

A damaged image may hold names that no Linux file can have: ``.``, empty, with ``/`` or NUL in them, over 1024 bytes. The kernel
refuses a whole folder for one such name, and leaving it out would hide a file. It is shown as ``NAME~inodeNUMBER``, cut, with
U+2215 for a slash and U+2400 for a NUL, and is found under that name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from mntapi.errors import Corrupt, MntapiError, NotFound
from mntapi.filesystems.names import DAMAGED, UNREADABLE
from mntapi.types import Blocks, Capacity, Entry, Extent, FileKind, FileSystem, Node
from mntapi_fuse.failures import Failures
from mntapi_fuse.operations import ROOT, Attributes, DirEntry, NoAttribute
from mntapi_fuse.protocol import NAME_MAX, TARGET_MAX

MAX_NODES = 4096
"""Nodes remembered, so that what was just listed or looked up need not be read again to be opened. About 2 MiB."""
REASON = "user.mntapi.reason"
"""The extended attribute that says why a file's contents cannot be read. It is listed where that is known without trying, or
since somebody tried, until what failed goes well; asked for by name, it is found out by opening the file, which reads none of
its contents."""
_OURS = "user.mntapi."
"""Names of extended attributes in which we speak: what a guest gave such a name is not shown."""

_FIRST = 2
"""Node number of inode 0."""
_STAND_IN = 1 << 63
_KINDS = tuple(FileKind)
_REASONS = (DAMAGED, UNREADABLE)
"""What a reader says of an entry whose inode it could not read. With the kind in bits 60 to 62 and one of these in bits 58 and
59, the number of such an entry tells all that is known of it."""
_INODE_MASK = (1 << 58) - 1
_INODE_ZERO = (1 << 32) - 1
"""Shown for inode 0, whose name readdir(3) would drop. Only NTFS has one, and its numbers end at 2^32 - 2."""
_is_fine = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,%d}" % NAME_MAX).fullmatch
_ESCAPED = re.compile(r"~inode\d+$")
_ESCAPES = str.maketrans({"/": "\N{DIVISION SLASH}", "\0": "\N{SYMBOL FOR NULL}"})
_KEPT = 900
"""Bytes left of a name that is too long."""


class TreeFs:
    """One file system. Borrows it: whoever opened it closes it."""

    has_xattrs = True
    changes = None

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._root = filesystem.root
        self._root_inode = self._root.inode
        self._nodes: dict[int, Node] = {}
        self._failures = Failures()
        self._last_xattrs: tuple[int, Mapping[str, bytes]] = (0, {})

    def lookup(self, parent: int, name: bytes) -> Attributes:
        directory, text = self._node(parent), os.fsdecode(name)
        try:
            return self._show(self._filesystem.lookup(directory, text))
        except NotFound:
            if not _ESCAPED.search(text):
                raise
        for entry in self._filesystem.scan(directory):
            if _shown_name(entry) == name:
                return self._show(entry.node)
        raise NotFound("no such file", path=text)

    def getattr(self, node: int) -> Attributes:
        return Attributes(node, _with_inode(self._node(node)))

    def readdir(self, node: int) -> Iterator[DirEntry]:
        try:
            for entry in self._filesystem.scan(self._node(node)):
                yield DirEntry(_shown_name(entry), self._show(entry.node))
        except MntapiError as error:
            self._failures.failed(node, error)
            raise
        self._failures.succeeded(node)

    def open(self, node: int) -> Blocks:
        try:
            opened = _Watched(self._filesystem.open(self._node(node)), self._failures, node)
        except MntapiError as error:
            self._failures.failed(node, error)
            raise
        self._failures.succeeded(node)
        return opened

    def readlink(self, node: int) -> bytes:
        target = os.fsencode(self._filesystem.readlink(self._node(node)))
        if not 0 < len(target) <= TARGET_MAX or b"\0" in target:
            raise Corrupt(
                "a symbolic link whose target no Linux link can have", found=f"{len(target)} bytes", reason="bad-link"
            )
        return target

    def statfs(self) -> Capacity:
        return self._filesystem.capacity()

    def getxattr(self, node: int, name: bytes) -> bytes:
        text = os.fsdecode(name)
        value = self._xattrs(node).get(text)
        if value is None and text == REASON and self._node(node).kind is FileKind.FILE:
            value = self._why_not_open(node)
        if value is None:
            raise NoAttribute("no such attribute", path=text)
        return value

    def _why_not_open(self, node: int) -> bytes | None:
        try:
            self.open(node).close()
        except MntapiError:
            reason = self._failures.reason(node)
            return None if reason is None else os.fsencode(reason)
        return None

    def listxattr(self, node: int) -> Sequence[bytes]:
        return [os.fsencode(name) for name in self._xattrs(node)]

    def _xattrs(self, number: int) -> Mapping[str, bytes]:
        """All that the node has. Those of the file system are kept until another node is asked for: ``ls -l`` wants two of each
        file, ``cp -a`` all, one by one."""
        known, theirs = self._last_xattrs
        node = self._node(number)
        if known != number:
            found = {} if number & _STAND_IN else self._filesystem.xattrs(node)
            theirs = {name: value for name, value in found.items() if not name.startswith(_OURS)}
            self._last_xattrs = number, theirs
        reason = node.reason or self._failures.reason(number)
        return theirs if reason is None else {**theirs, REASON: os.fsencode(reason)}

    def _node(self, number: int) -> Node:
        """The node of that number: remembered, read, or told by the number itself."""
        if number == ROOT:
            return self._root
        if number & _STAND_IN:
            kind, reason = _KINDS[number >> 60 & 7], _REASONS[number >> 58 & 3]
            return Node(number & _INODE_MASK, kind, 0, mode=0, links=1, reason=reason)
        node = self._nodes.get(number)
        if node is None:
            node = self._filesystem.node(number - _FIRST)
            self._remember(number, node)
        return node

    def _show(self, node: Node) -> Attributes:
        if node.reason in _REASONS and not node.links:
            number = _STAND_IN | _KINDS.index(node.kind) << 60 | _REASONS.index(node.reason) << 58 | node.inode & _INODE_MASK
            return self.getattr(number)
        inode = node.inode
        if inode == self._root_inode:
            return Attributes(ROOT, node)
        number = inode + _FIRST
        if not _FIRST <= number < _STAND_IN:
            raise Corrupt("an inode number that is out of range", found=inode)
        self._remember(number, node)
        return Attributes(number, node if inode else _with_inode(node))

    def _remember(self, number: int, node: Node) -> None:
        nodes = self._nodes
        if len(nodes) >= MAX_NODES:
            nodes.clear()
        nodes[number] = node


class _Watched:
    """A file's contents; it is noted what of them could be read, and what could not."""

    def __init__(self, inner: Blocks, failures: Failures, node: int) -> None:
        self._inner = inner
        self._failures = failures
        self._node = node
        self.size = inner.size
        self.sector_size = inner.sector_size
        self.extents: Callable[[int, int], Iterator[Extent]] = inner.extents
        self.close = inner.close

    def readinto(self, offset: int, buffer: memoryview) -> None:
        try:
            self._inner.readinto(offset, buffer)
        except MntapiError as error:
            self._failures.failed(self._node, error, offset, offset + len(buffer))
            raise
        self._failures.succeeded(self._node, offset, offset + len(buffer))


def _with_inode(node: Node) -> Node:
    return node if node.inode else node._replace(inode=_INODE_ZERO)


def _shown_name(entry: Entry) -> bytes:
    """The name as bytes, escaped where Linux cannot have it."""
    try:
        name = os.fsencode(entry.name)
    except UnicodeEncodeError:  # half of a surrogate pair
        name = b""
    if _is_fine(name):
        return name
    kept = entry.name.translate(_ESCAPES).encode("utf-8", "replace")[:_KEPT].decode("utf-8", "ignore")
    return os.fsencode(f"{kept}~inode{entry.node.inode}")
