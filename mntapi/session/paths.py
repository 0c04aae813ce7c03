"""Finding a file by its path inside a tree. Links are followed inside their own volume and never out of it."""

from __future__ import annotations

from mntapi.errors import Corrupt, MntapiError, NotADirectory
from mntapi.types import FileKind, FileSystem, Node

MAX_LINKS = 40
"""Symbolic links followed in one path, as in Linux (``MAXSYMLINKS``)."""


def parts_of(path: str) -> list[str]:
    """The names of a path; empty ones and ``.`` left out."""
    return [name for name in path.split("/") if name not in ("", ".")]


def resolve(tree: FileSystem, path: str, *, follow_last: bool = False, anchor: int = 1) -> Node:
    """The node at a path.

    Args:
        tree: where to look.
        path: names separated by ``/``; ``..`` stays below the anchor.
        follow_last: whether a symbolic link at the end stands for its target; in the middle it always does.
        anchor: how many leading names a link cannot escape: 1 where the first name is a volume (its link ``/etc`` means
            ``/disk0p1/etc``), 0 for a bare file system.

    Raises:
        NotFound, NotADirectory: with the part of the path that is the trouble.
        Corrupt: more than ``MAX_LINKS`` links.
    """
    trail: list[tuple[str, Node]] = []
    todo = parts_of(path)[::-1]
    followed = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if len(trail) > anchor:
                trail.pop()
            continue
        node = _step(tree, trail, name)
        is_link = node.kind is FileKind.SYMLINK and (follow_last or bool(todo))
        if not is_link:
            trail.append((name, node))
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise Corrupt("too many symbolic links", path=_shown(trail, name), reason="link-loop")
        target = tree.readlink(node)
        if target.startswith("/"):
            del trail[anchor:]
        todo.extend(parts_of(target)[::-1])
    return trail[-1][1] if trail else tree.root


def _step(tree: FileSystem, trail: list[tuple[str, Node]], name: str) -> Node:
    here = trail[-1][1] if trail else tree.root
    if here.kind is not FileKind.DIRECTORY:
        raise NotADirectory("is not a folder", path=_shown(trail))
    try:
        return tree.lookup(here, name)
    except MntapiError as error:
        raise error.located(path=_shown(trail, name)) from error.__cause__


def _shown(trail: list[tuple[str, Node]], *more: str) -> str:
    return "/" + "/".join([name for name, _ in trail] + list(more))
