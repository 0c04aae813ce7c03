"""Names as the folders have them, of a path as somebody wrote it: ``C:/users`` is ``C:/Users`` on a host that tells them
apart."""

from __future__ import annotations

from collections.abc import Sequence

from mntapi.errors import MntapiError
from mntapi.session.guest_tree.places import fold
from mntapi.session.paths import trail_of
from mntapi.types import FileSystem, Node

MAX_READ = 1 << 20
"""Names read for one tree, in all its folders; after that names stay as they are written. Windows itself has about a hundred
links, to folders of some hundred names."""


class Spelling:
    """The spelling of paths in one tree, which folds case. What was found is kept."""

    def __init__(self, tree: FileSystem) -> None:
        self._tree = tree
        self._left = MAX_READ
        self._known: dict[tuple[int, int], str] = {}
        """By numbers of the folder and of what is in it."""

    def of(self, names: Sequence[str]) -> list[str]:
        """The way to ``names`` with no link in it, as the folders spell it; as they are written where they lead nowhere."""
        try:
            trail = trail_of(self._tree, names)
        except MntapiError:
            return list(names)
        folders = [self._tree.root, *(entry.node for entry in trail)]
        return [self._in_folder(folder, *entry) for folder, entry in zip(folders, trail, strict=False)]

    def _in_folder(self, folder: Node, name: str, node: Node) -> str:
        key = folder.inode, node.inode
        if key not in self._known and self._left > 0:
            self._known[key] = self._read(folder, name, node)
        return self._known.get(key, name)

    def _read(self, folder: Node, name: str, node: Node) -> str:
        """The name of the node in the folder; of several (hard links) the one that is most like ``name``, which may be a short
        one that no listing has."""
        found = []
        try:
            for entry in self._tree.scan(folder):
                self._left -= 1
                if entry.node.inode == node.inode:
                    found.append(entry.name)
                if self._left <= 0:
                    break
        except MntapiError:
            self._left -= 1  # the folder itself says what is wrong with it
        return min(found, key=lambda one: (one != name, fold(one, True) != fold(name, True)), default=name)
