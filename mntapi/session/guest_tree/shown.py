"""The tree as a kernel mount shows it: links whose targets work in the mount and can never lead out of it.

A program behind a mount follows links by itself: ``/etc/x`` would be a file of the proxy, and so would ``../../../etc/x`` from
a folder that is not that deep. So a target is answered as a relative one that leads where the guest's text leads in the guest:
``../etc/x``, with never more ``..`` than the link is deep, and none behind a name. What is so already is answered as it is.

For that the depth must be known when the kernel asks with nothing but a number. Numbers of folders and links therefore hold
it: bit 47 is set, bits 37 to 46 are the depth, and the rest is the number in the file system plus 1, if it fits (all that have
links do). A folder that turns up at a second depth is a loop of a damaged file system, and is not entered.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence

from mntapi.errors import Corrupt, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.session.guest_tree.links import names_in, upwards
from mntapi.session.guest_tree.places import SHIFT
from mntapi.session.guest_tree.tree import GuestTree
from mntapi.session.paths import trail_of
from mntapi.types import Blocks, Capacity, Entry, FileKind, Node

MAX_KNOWN = 1 << 14
"""Folders, and links with ``..`` behind a name, whose parent is remembered, about 200 bytes each. Only such links, and loops,
need it."""
_DEEP = 1 << 47
_DEPTH_AT = 37
_DEPTHS = (1 << 10) - 1
_LOOP = _DEPTHS
"""The depth in the number of a folder that was met before, elsewhere."""
_INNER = (1 << _DEPTH_AT) - 1
_PLACE = ~((1 << SHIFT) - 1)
_NUMBERED = (FileKind.DIRECTORY, FileKind.SYMLINK)


class Stale(MntapiError):
    """Not known any more. The kernel then looks up each name of the path again, and asks once more (``retry_estale``)."""

    errno = errno.ESTALE


class ShownTree:
    """A ``GuestTree`` for ``TreeFs``. Thread-safe."""

    kind = "guest"

    def __init__(self, tree: GuestTree) -> None:
        self._tree = tree
        self.root = _at(tree.root, 0)
        self._lock = threading.Lock()
        self._known: dict[int, tuple[int, int]] = {}
        """By number in the tree: the number shown, and that of the folder it is in."""

    def node(self, inode: int) -> Node:
        node = self._tree.node(_plain(inode))
        shown = node._replace(inode=inode)
        return self._with_length(shown, self._text(node)) if node.kind is FileKind.SYMLINK else shown

    def lookup(self, directory: Node, name: str) -> Node:
        return self._number(self._tree.lookup(self._enter(directory), name), directory)

    def scan(self, directory: Node) -> Iterator[Entry]:
        for entry in self._tree.scan(self._enter(directory)):
            name, node = entry
            yield Entry(name, self._number(node, directory)) if node.kind in _NUMBERED else entry

    def open(self, file: Node) -> Blocks:
        return self._tree.open(_inner(file))

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        return self._tree.xattrs(_inner(node))

    def capacity(self) -> Capacity:
        return self._tree.capacity()

    def close(self) -> None:
        """Nothing to release."""

    def readlink(self, link: Node) -> str:
        """The target as a relative one that stays in the tree.

        Raises:
            Stale: the link's folder is needed for that, and was forgotten.
            Unsupported: it is too deep.
        """
        return self._target(link, self._tree.readlink(_inner(link)))

    def _target(self, link: Node, target: str) -> str:
        inner = _inner(link)
        depth = _depth(link.inode)
        if depth is None:
            raise Unsupported("a link too deep in the tree to tell where it leads", reason="deep-link")
        names = self._tree.absolute(inner, target)
        climbed = 0
        if names is None:
            names = names_in(target)
            climbed = _leading(names)
            names = names[climbed:]
            below = depth - len(self._tree.places.of(inner).names)
            if ".." in names:
                return self._settled(link, depth, names_in(target))
            if climbed <= below:
                return target
            names = [*upwards(self._tree.places.of(inner), climbed - below), *names]
        names = names[_leading(names) :]
        if ".." in names:
            names = [entry.name for entry in self._trail(names, ())]
        return _relative(depth, names)

    def _settled(self, link: Node, depth: int, names: Sequence[str]) -> str:
        """The relative target of a link that goes up again behind a name, which itself may be a link."""
        start = self._way_to(link, depth)
        trail = self._trail(names, start)
        common = 0
        while common < min(len(start), len(trail)) and start[common].node.inode == trail[common].node.inode:
            common += 1
        return _relative(depth - common, [entry.name for entry in trail[common:]])

    def _trail(self, names: Sequence[str], start: Sequence[Entry]) -> list[Entry]:
        """The way to ``names``, as far as there is one: where it ends, the next name is put behind, which is not found there
        either."""
        trail = list(start)
        for place, name in enumerate(names):
            try:
                trail = trail_of(self._tree, [name], follow_last=place < len(names) - 1, start=trail)
            except (NotFound, NotADirectory):
                return [*trail, Entry(name, Node(0, FileKind.FILE, 0))]
        return trail

    def _way_to(self, link: Node, depth: int) -> list[Entry]:
        """The folders above a link, from the top, without their names."""
        way: list[Entry] = []
        number = link.inode
        for _ in range(depth):
            known = self._known.get(_plain(number))
            if known is None:
                raise Stale("the folder of the link is not known any more")
            number = known[1]
            way.append(Entry("", self._tree.node(_plain(number))))
        return way[::-1]

    def _enter(self, directory: Node) -> Node:
        if _depth(directory.inode) == _LOOP:
            raise Corrupt("a folder that has been met before: the file system loops", reason="folder-loop")
        return _inner(directory)

    def _number(self, node: Node, directory: Node) -> Node:
        """A node of the tree, found in a folder, with the number it is shown with."""
        if node.kind not in _NUMBERED:
            return node
        above = _depth(directory.inode)
        if node.kind is FileKind.SYMLINK:
            return self._link(node if above is None else _at(node, above), self._text(node), directory)
        shown = node if above is None else _at(node, above + 1)
        known = self._known.get(node.inode)
        if node.inode == _plain(self.root.inode) or (known is not None and known[0] != shown.inode):
            return _numbered(node, _LOOP)
        self._remember(shown, directory)
        return shown

    def _link(self, shown: Node, target: str | None, directory: Node) -> Node:
        names = names_in(target or "")
        if ".." in names[_leading(names) :]:
            self._remember(shown, directory)
        return self._with_length(shown, target)

    def _remember(self, shown: Node, directory: Node) -> None:
        with self._lock:
            if len(self._known) >= MAX_KNOWN:
                for number in list(self._known)[: MAX_KNOWN // 2]:  # the oldest
                    del self._known[number]
            self._known.pop(_plain(shown.inode), None)  # it becomes the newest again
            self._known[_plain(shown.inode)] = (shown.inode, directory.inode)

    def _text(self, link: Node) -> str | None:
        """The guest's target; None where it cannot be read, which is said when it is asked for."""
        try:
            return self._tree.readlink(link)
        except MntapiError:
            return None

    def _with_length(self, link: Node, target: str | None) -> Node:
        """A link with the length of the target that is shown: some programs read no more of it than that."""
        try:
            return link if target is None else link._replace(size=len(os.fsencode(self._target(link, target))))
        except MntapiError:
            return link


def _at(node: Node, depth: int) -> Node:
    """The node with the depth in its number, where that has room for it."""
    return node if node.inode & ~_PLACE > _INNER or depth >= _LOOP else _numbered(node, depth)


def _numbered(node: Node, depth: int) -> Node:
    return node._replace(inode=node.inode & _PLACE | _DEEP | depth << _DEPTH_AT | node.inode & _INNER)


def _depth(inode: int) -> int | None:
    """Names above what a folder or link has in it; None where the number does not tell."""
    return inode >> _DEPTH_AT & _DEPTHS if inode & _DEEP else None


def _plain(inode: int) -> int:
    return inode & (_PLACE | _INNER) if inode & _DEEP else inode


def _inner(node: Node) -> Node:
    return node._replace(inode=_plain(node.inode)) if node.inode & _DEEP else node


def _leading(names: Sequence[str]) -> int:
    """How many ``..`` a path begins with."""
    return next((place for place, name in enumerate(names) if name != ".."), len(names))


def _relative(climbed: int, names: Sequence[str]) -> str:
    return "/".join([".."] * climbed + list(names)) or "."
