"""Walking a tree for ``ls -R`` and ``find``: depth first, each trouble reported once and stepped over."""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.cli.output import complain
from mntapi.errors import Corrupt, Invalid, MntapiError
from mntapi.types import Entry, FileKind, FileSystem, Node

MAX_DEPTH = 2048
"""Folders inside one another: as many as the longest path that Linux takes (4096 bytes) can name."""


def join(path: str, name: str) -> str:
    """``/disk0p1`` and ``etc`` make ``/disk0p1/etc``."""
    return f"{path.rstrip('/')}/{name}"


class Walker:
    """Walks below one node. ``failed`` counts the folders that could not be read, each of which was named on stderr."""

    def __init__(self, tree: FileSystem) -> None:
        self._tree = tree
        self._seen: set[int] = set()
        """Folders entered: a second way to one is a loop, or a damaged link, and would never end."""
        self.failed = 0

    def folder(self, path: str, node: Node) -> list[Entry]:
        """The entries of a folder; after an error those read before it."""
        entries: list[Entry] = []
        try:
            if path.count("/") > MAX_DEPTH:
                raise Invalid("folders are nested too deeply", expected=f"at most {MAX_DEPTH}", reason="too-deep")
            if node.inode in self._seen:
                raise Corrupt("a folder that has been met before: the file system loops", reason="folder-loop")
            self._seen.add(node.inode)
            entries.extend(self._tree.scan(node))
        except MntapiError as error:
            self.failed += 1
            complain(f"error: {path}: {error}")
        return entries

    def below(self, path: str, node: Node) -> Iterator[tuple[str, Entry]]:
        """Every (path, entry) below a folder, a folder before its contents."""
        stack = [self._folder_frame(path, node)]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            yield entry
            entry_path, (_, child) = entry
            if child.kind is FileKind.DIRECTORY:
                stack.append(self._folder_frame(entry_path, child))

    def _folder_frame(self, path: str, node: Node) -> Iterator[tuple[str, Entry]]:
        return ((join(path, entry.name), entry) for entry in self.folder(path, node))
