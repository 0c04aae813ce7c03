"""Names in folders: made presentable, found again without reading the folder each time.

Shared by all readers. A reader lists a folder as ``Listed``; ``Folders`` answers ``lookup`` and ``scan`` from that.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mntapi.errors import Corrupt, MntapiError, NotADirectory, NotFound, ReadFailed
from mntapi.escaping import quoted
from mntapi.types import Entry, FileKind, Node

MAX_CACHED_NAMES = 1 << 17
"""Names kept over all folders, about 150 bytes each. A folder with more is read through on each lookup."""
DAMAGED = "damaged"
"""``Node.reason`` of an entry whose inode contradicts its format; ``open`` says what and where."""
UNREADABLE = "unreadable"
"""``Node.reason`` of an entry whose inode is on storage that cannot be read."""


class Listed(NamedTuple):
    """A name as the folder has it, before its inode is read. ``kind`` is what the folder says, for when that fails."""

    name: str
    inode: int
    kind: FileKind = FileKind.FILE


def presentable(raw: bytes) -> str:
    """The name as ``os.fsdecode`` gives it, with other signs for what no path can hold: slash, NUL, nothing at all.

    Such a name is damage, or an attempt to lead a restore out of its folder; the file behind it may be sound.
    """
    if raw and b"/" not in raw and b"\0" not in raw:
        return os.fsdecode(raw)
    name = os.fsdecode(raw).replace("/", "\N{DIVISION SLASH}").replace("\0", "\N{SYMBOL FOR NULL}")
    return name or "\N{REPLACEMENT CHARACTER}"


class _Names:
    """One folder's names: exact, and on demand by folded case (None where two differ in case only)."""

    def __init__(self) -> None:
        self.exact: dict[str, int] = {}
        self.error: MntapiError | None = None
        """Why there may be more names than these: a part of the folder could not be read."""
        self._folded: dict[str, str | None] | None = None

    def add(self, listed: Listed) -> None:
        """Keep the name, unless it is there already."""
        self.exact.setdefault(listed.name, listed.inode)

    def alike(self, name: str, fold: Callable[[str], str]) -> str | None:
        """The only name that is the same but for case, if there is one."""
        if self._folded is None:
            folded: dict[str, str | None] = {}
            for other in self.exact:
                key = fold(other)
                folded[key] = None if key in folded else other
            self._folded = folded
        return self._folded.get(fold(name))


class Folders:
    """``lookup`` and ``scan`` over a reader's listings. Thread-safe.

    Where a folder is damaged, the names that can be read are found; asked for any other, ``lookup`` raises what is wrong with
    the folder, for it cannot know.

    Args:
        listing: all names of a folder, in the order on disk, without ``.`` and ``..``; raises after the last it could read.
        node: the inode of that number.
        fold: what makes names equal that differ in case, where the file system holds them to be the same.
        limit: names to keep.
    """

    def __init__(
        self,
        listing: Callable[[Node], Iterator[Listed]],
        node: Callable[[int], Node],
        *,
        fold: Callable[[str], str] | None = None,
        limit: int = MAX_CACHED_NAMES,
    ) -> None:
        self._listing = listing
        self._node = node
        self._fold = fold
        self._limit = limit // 2 if fold else limit
        self._folders: OrderedDict[int, _Names] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def scan(self, directory: Node) -> Iterator[Entry]:
        """Every name once; the first wins in a folder so damaged that it has one twice, as it does in ``lookup``."""
        seen: set[str] = set()
        for listed in self._listed(directory):
            if listed.name not in seen:
                seen.add(listed.name)
                yield Entry(listed.name, self._resolve(listed))

    def lookup(self, directory: Node, name: str) -> Node:
        """The entry of that name; where case is folded, one that differs in case only if it is the only such.

        Raises:
            NotFound, NotADirectory: as they say.
            MntapiError: the folder cannot be read.
        """
        names = self._names(directory)
        if names is None:
            return self._resolve(self._search(directory, name))
        inode = names.exact.get(name)
        if inode is None and self._fold is not None:
            name = names.alike(name, self._fold) or name
            inode = names.exact.get(name)
        if inode is None:
            raise names.error or _missing(name)
        try:
            return self._node(inode)
        except (Corrupt, NotFound, ReadFailed):
            return self._resolve(self._search(directory, name))

    def _listed(self, directory: Node) -> Iterator[Listed]:
        if directory.kind is not FileKind.DIRECTORY:
            raise NotADirectory(f"inode {directory.inode} is no folder")
        return self._listing(directory)

    def _resolve(self, listed: Listed) -> Node:
        try:
            return self._node(listed.inode)
        except (Corrupt, NotFound):
            reason = DAMAGED
        except ReadFailed:
            reason = UNREADABLE
        return Node(listed.inode, listed.kind, 0, mode=0, links=0, reason=reason)

    def _names(self, directory: Node) -> _Names | None:
        """The folder's names, or None where they are too many to keep."""
        with self._lock:
            names = self._folders.get(directory.inode)
            if names is not None:
                self._folders.move_to_end(directory.inode)
                return names
        names = _Names()
        try:
            for listed in self._listed(directory):
                names.add(listed)
                if len(names.exact) > self._limit:
                    return None
        except (Corrupt, ReadFailed) as error:
            names.error = error
        self._keep(directory.inode, names)
        return names

    def _keep(self, inode: int, names: _Names) -> None:
        with self._lock:
            if inode in self._folders:
                return
            self._folders[inode] = names
            self._held += len(names.exact) + 1
            while self._held > self._limit + 1 and len(self._folders) > 1:
                _, dropped = self._folders.popitem(last=False)
                self._held -= len(dropped.exact) + 1

    def _search(self, directory: Node, name: str) -> Listed:
        """Read through the folder: it is too large to keep, or what it says of a bad entry is wanted."""
        alike: list[Listed] = []
        wanted = self._fold(name) if self._fold else name
        for listed in self._listed(directory):
            if listed.name == name:
                return listed
            if self._fold and self._fold(listed.name) == wanted:
                alike.append(listed)
        if len(alike) == 1:
            return alike[0]
        raise _missing(name)

    def clear(self) -> None:
        """Forget all names."""
        with self._lock:
            self._folders.clear()
            self._held = 0


def _missing(name: str) -> NotFound:
    return NotFound(f"no such name in the folder: {quoted(name)}")
