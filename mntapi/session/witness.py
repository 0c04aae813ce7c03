"""What was opened of a set, and which file named which: an overlay can then be compared with all that its original lies in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from mntapi.blocks import HostFile
from mntapi.types import FileBlocks, Opener

T = TypeVar("T")


class Named(Generic[T]):
    """Something about each file that was opened, by path, and the files that it names, in their order."""

    def __init__(self) -> None:
        self._known: dict[str, T] = {}
        self._named: dict[str, list[str]] = {}

    def add(self, path: str, what: T, named_by: str | None) -> None:
        """Note a file that was opened because the file at ``named_by`` names it, or the user. The last word counts."""
        self._known[path] = what
        if named_by is not None:
            self._named.setdefault(named_by, []).append(path)

    def get(self, path: str) -> T | None:
        """What was noted for a path, None if it was not opened."""
        return self._known.get(path)

    def below(self, top: str) -> Iterator[tuple[str, T]]:
        """The files that the disk at ``top`` consists of, in the order in which they name each other, each once."""
        seen: set[str] = set()
        todo = [top]
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.add(path)
                if path in self._known:
                    yield path, self._known[path]
                todo.extend(reversed(self._named.get(path, ())))

    def __iter__(self) -> Iterator[T]:
        return iter(self._known.values())


class Witness:
    """An ``Opener`` that knows the files it opened, of which whoever asked for them is the owner."""

    def __init__(self, inner: Opener) -> None:
        self._inner = inner
        self._opened: Named[list[FileBlocks]] = Named()

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """See ``mntapi.types.Opener``."""
        file = self._inner.open(name, relative_to=relative_to)
        self._opened.add(file.path, [*(self._opened.get(file.path) or ()), file], relative_to)
        return file

    def get(self, path: str) -> FileBlocks | None:
        """The file at ``path`` as an image has it open that was opened through this; None if none has."""
        return _open_one(self._opened.get(path) or [])

    def below(self, top: str) -> Iterator[tuple[str, FileBlocks]]:
        """The files that the open disk at ``top`` consists of, as ``Named.below``."""
        for path, files in self._opened.below(top):
            file = _open_one(files)
            if file is not None:
                yield path, file


def _open_one(files: Sequence[FileBlocks]) -> FileBlocks | None:
    """The last that was not closed: some formats open a file to see whether it is there, and once more to read it."""
    return next((file for file in reversed(files) if not isinstance(file, HostFile) or file.fileno() >= 0), None)
