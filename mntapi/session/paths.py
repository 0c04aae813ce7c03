"""Finding a file by its path inside a tree. Links are followed inside the guest, or the volume, and never out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mntapi.errors import Corrupt, MntapiError, NotADirectory
from mntapi.types import Entry, FileKind, FileSystem, Node

MAX_LINKS = 40
"""Symbolic links followed in one path, as in Linux (``MAXSYMLINKS``)."""


@runtime_checkable
class Rooted(Protocol):
    """A tree that knows what is a root in it, and to whom: one with guests in it. It is a ``FileSystem`` too."""

    def parts(self, path: str) -> list[str]:
        """The names of a path as a user writes it: ``C:\\x`` and ``/C:/x`` mean the same."""

    def absolute(self, link: Node, target: str) -> list[str] | None:
        """The names, from the top of the tree, of where the absolute target of a link leads; None if it is a relative one."""

    def above(self, folder: Node) -> int:
        """How many names of its path ``..`` takes away in a folder: none in a root."""


def parts_of(path: str, tree: FileSystem | None = None) -> list[str]:
    """The names of a path in a tree; empty ones and ``.`` left out."""
    if isinstance(tree, Rooted):
        return tree.parts(path)
    return [name for name in path.split("/") if name not in ("", ".")]


def resolve(tree: FileSystem, path: str, *, follow_last: bool = False, anchor: int = 1) -> Node:
    """The node at a path.

    Args:
        tree: where to look.
        path: names separated by ``/``; ``..`` stays below the anchor, and in the guest.
        follow_last: whether a symbolic link at the end stands for its target; in the middle it always does.
        anchor: how many leading names a link cannot escape: 1 where the first name is a volume (its link ``/etc`` means
            ``/disk0p1/etc``), 0 for a bare file system. A tree of guests knows by itself.

    Raises:
        NotFound, NotADirectory: with the part of the path that is the trouble.
        Corrupt: more than ``MAX_LINKS`` links.
    """
    trail = trail_of(tree, parts_of(path, tree), follow_last=follow_last, anchor=anchor)
    return trail[-1].node if trail else tree.root


def trail_of(
    tree: FileSystem, names: Sequence[str], *, follow_last: bool = False, anchor: int = 1, start: Sequence[Entry] = ()
) -> list[Entry]:
    """The way to a file, no link among the names it leads through. Args and Raises as ``resolve``.

    ``start`` is the way to the folder where ``names`` begin, instead of the top.
    """
    trail = list(start)
    todo = list(names[::-1])
    followed = 0
    while todo:
        name = todo.pop()
        if name == "..":
            del trail[len(trail) - _above(tree, trail, anchor) :]
            continue
        node = _step(tree, trail, name)
        if node.kind is not FileKind.SYMLINK or not (follow_last or todo):
            trail.append(Entry(name, node))
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise Corrupt("too many symbolic links", path=_shown(trail, name), reason="link-loop")
        target = tree.readlink(node)
        leads_to = _absolute(tree, trail, node, target, anchor)
        if leads_to is not None:
            trail.clear()
        todo.extend((parts_of(target) if leads_to is None else leads_to)[::-1])
    return trail


def _above(tree: FileSystem, trail: list[Entry], anchor: int) -> int:
    if isinstance(tree, Rooted):
        return tree.above(trail[-1].node) if trail else 0
    return int(len(trail) > anchor)


def _absolute(tree: FileSystem, trail: list[Entry], link: Node, target: str, anchor: int) -> list[str] | None:
    if isinstance(tree, Rooted):
        return tree.absolute(link, target)
    return [entry.name for entry in trail[:anchor]] + parts_of(target) if target.startswith("/") else None


def _step(tree: FileSystem, trail: list[Entry], name: str) -> Node:
    here = trail[-1].node if trail else tree.root
    if here.kind is not FileKind.DIRECTORY:
        raise NotADirectory("is not a folder", path=_shown(trail))
    try:
        return tree.lookup(here, name)
    except MntapiError as error:
        raise error.located(path=_shown(trail, name)) from error.__cause__


def _shown(trail: list[Entry], *more: str) -> str:
    return "/" + "/".join([entry.name for entry in trail] + list(more))
