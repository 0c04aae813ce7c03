"""Finding a file by its path inside a tree. Links are followed inside the guest, or the volume, and never out of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import islice
from typing import Protocol, runtime_checkable

from mntapi.errors import MntapiError, NotADirectory, NotFound
from mntapi.escaping import quoted
from mntapi.guests.files import LOOP_HINT, MAX_LINKS, LinkLoop
from mntapi.types import Entry, FileKind, FileSystem, Node

MAX_READ = 20_000
"""Names of a folder that are looked through for one that differs from the wanted one in case only."""
_MAX_NAMED = 10


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
        LinkLoop: more than ``MAX_LINKS`` links.
    """
    try:
        trail = trail_of(tree, parts_of(path, tree), follow_last=follow_last, anchor=anchor)
    except NotFound as error:
        raise _with_names_alike(tree, error) from error.__cause__
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
    way = ""
    while todo:
        name = todo.pop()
        if name == "..":
            del trail[len(trail) - _above(tree, trail, anchor) :]
            continue
        node = _step(tree, trail, name, way)
        if node.kind is not FileKind.SYMLINK or not (follow_last or todo):
            trail.append(Entry(name, node))
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise LinkLoop("too many symbolic links", path=_shown(trail, name), hint=LOOP_HINT, reason="link-loop")
        target = tree.readlink(node)
        way = f"{_shown(trail, name)} is a link to {target}"
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


def _step(tree: FileSystem, trail: list[Entry], name: str, way: str) -> Node:
    """What is called ``name`` where the trail has led, the last time by the link that ``way`` tells of."""
    here = trail[-1].node if trail else tree.root
    if here.kind is not FileKind.DIRECTORY:
        raise NotADirectory("is not a folder", path=_shown(trail))
    try:
        return tree.lookup(here, name)
    except MntapiError as error:
        placed = error.located(path=_shown(trail, name))
        if way and isinstance(placed, NotFound):
            placed = copy(placed)
            placed.hint = f"{way}; {placed.hint}" if placed.hint else way
        raise placed from error.__cause__


def _with_names_alike(tree: FileSystem, error: NotFound) -> NotFound:
    """The error, with the names that are in the folder and differ from the one asked for in case only."""
    *folder, wanted = (error.path or "").split("/")[1:] or [""]
    try:
        trail = trail_of(tree, folder)
        entries = islice(tree.scan(trail[-1].node if trail else tree.root), MAX_READ)
        alike = sorted(entry.name for entry in entries if entry.name.casefold() == wanted.casefold())
    except MntapiError:
        return error  # it says itself what is wrong
    if not alike:
        return error
    told = copy(error)
    if len(alike) > 1:
        told.what = f"no such name, and {len(alike)} that differ from it in case only"
    more = ", ..." if len(alike) > _MAX_NAMED else ""
    there_is = "there is " + ", ".join(map(quoted, alike[:_MAX_NAMED])) + more
    told.hint = f"{error.hint}; {there_is}" if error.hint else there_is
    return told


def _shown(trail: list[Entry], *more: str) -> str:
    return "/" + "/".join([entry.name for entry in trail] + list(more))
