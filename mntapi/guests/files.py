"""A guest's own files, read by path: links followed inside its file system and never out of it, and nothing without a limit.

The functions raise. ``GuestFiles`` is for looking around: what is not there is None, what is there and cannot be read is None
and a reason that goes into ``Guest.reasons``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from mntapi.blocks import read
from mntapi.errors import Corrupt, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.types import Blocks, Capacity, Entry, FileKind, FileSystem, Node
from mntapi.units import KIB, format_size

MAX_LINKS = 40
"""Symbolic links followed in one path, as in Linux (``MAXSYMLINKS``)."""
MAX_PATH = 4 * KIB
"""Characters of a path, and of each link's target, as in Linux (``PATH_MAX``)."""
MAX_STEPS = 512
"""Names looked up for one path, those of its links included; systems need a few dozen."""
MAX_NAMES = 10_000
"""Names of a folder that are looked at, where the caller says nothing else."""
MAX_VALUE = 256
"""Characters of a value that is one line: a host's name, a product's."""
MAX_REASONS = 50
"""Reasons kept for one guest."""
TOO_LARGE = "too-large"
"""``MntapiError.reason`` of what is longer than its limit."""


LOOP_HINT = "mntapi ls -l shows where each link leads"


class LinkLoop(Invalid):
    """A path that goes round in circles of symbolic links. Nothing is damaged: a file system may hold such links."""

    errno = errno.ELOOP


def find(fs: FileSystem, path: str, *, fold: bool = False, follow_last: bool = True) -> Node:
    """The node at a path.

    Args:
        fs: where to look. A link to ``/x`` means its root, and ``..`` never leads above that.
        path: names separated by ``/``, from the root.
        fold: take names that differ in case only, and ``\\`` for a separator, as Windows does.
        follow_last: whether a symbolic link at the end stands for its target; in the middle it always does.

    Raises:
        NotFound, NotADirectory: with the part of the path that is the trouble.
        LinkLoop: more than ``MAX_LINKS`` links or ``MAX_STEPS`` names.
        Corrupt: a path longer than ``MAX_PATH``.
        MntapiError: a folder on the way cannot be read.
    """
    trail: list[tuple[str, Node]] = []
    todo = _parts(path, fold)
    followed = steps = 0
    while todo:
        name = todo.pop()
        steps += 1
        if steps > MAX_STEPS:
            what = "a path of too many names"
            raise LinkLoop(what, path=_shown(trail[:8]), expected=f"at most {MAX_STEPS}", reason="link-loop")
        if name == "..":
            del trail[-1:]
            continue
        node = _step(fs, trail, name, fold)
        if node.kind is not FileKind.SYMLINK or not (follow_last or todo):
            trail.append((name, node))
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise LinkLoop("too many symbolic links", path=_shown(trail, name), hint=LOOP_HINT, reason="link-loop")
        target = fs.readlink(node)
        if target.startswith("/"):
            trail.clear()
        todo.extend(_parts(target, fold))
    return trail[-1][1] if trail else fs.root


def exists(fs: FileSystem, path: str, *, fold: bool = False) -> bool:
    """Whether the path leads to something. Raises what reading the folders on the way raises."""
    try:
        find(fs, path, fold=fold)
    except (NotFound, NotADirectory):
        return False
    return True


def open_file(fs: FileSystem, path: str, *, fold: bool = False) -> Blocks:
    """The contents of the file at the path, read when asked for; close it when done.

    Raises:
        IsADirectory, Invalid: it is no file.
        MntapiError: as ``find``, and what opening it raises.
    """
    return _open(fs, find(fs, path, fold=fold), path)


def read_bytes(fs: FileSystem, path: str, limit: int, *, fold: bool = False) -> bytes:
    """The whole file at the path.

    Raises:
        Unsupported: it is longer than ``limit`` bytes (reason ``TOO_LARGE``), or cannot be decoded.
        MntapiError: as ``open_file``.
    """
    content = open_file(fs, path, fold=fold)
    try:
        if content.size > limit:
            found = format_size(content.size)
            raise Unsupported(
                "is too large", path=path, expected=f"at most {format_size(limit)}", found=found, reason=TOO_LARGE
            )
        return read(content, 0, content.size)
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__
    finally:
        content.close()


def read_text(fs: FileSystem, path: str, limit: int, *, fold: bool = False) -> str:
    """Like ``read_bytes``, as text. Bytes that are not UTF-8 are surrogate-escaped, a byte order mark is left out."""
    return read_bytes(fs, path, limit, fold=fold).decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def listdir(fs: FileSystem, path: str, limit: int = MAX_NAMES, *, fold: bool = False) -> list[Entry]:
    """The entries of the folder at the path, in the order on disk.

    Raises:
        Unsupported: there are more than ``limit`` (reason ``TOO_LARGE``).
        MntapiError: as ``find``, and what reading the folder raises.
    """
    folder = find(fs, path, fold=fold)
    entries: list[Entry] = []
    try:
        for entry in fs.scan(folder):
            if len(entries) == limit:
                raise Unsupported("the folder has too many names", path=path, expected=f"at most {limit}", reason=TOO_LARGE)
            entries.append(entry)
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__
    return entries


def one_line(text: str, limit: int = MAX_VALUE) -> str | None:
    """What a file says in its first line that is not empty: control characters and the spaces around it removed, at most
    ``limit`` characters; None if nothing is left."""
    for line in text[: 64 * KIB].splitlines():
        found = "".join(character for character in line if character >= " " and not "\x7f" <= character <= "\x9f").strip()
        if found:
            return found[:limit]
    return None


class Below:
    """A folder of a file system as a file system: nothing in it leads above that folder. Borrows the other one."""

    def __init__(self, fs: FileSystem, folder: Node) -> None:
        if folder.kind is not FileKind.DIRECTORY:
            raise NotADirectory(f"inode {folder.inode} is no folder")
        self.kind = fs.kind
        self.root = folder
        self._fs = fs

    def node(self, inode: int) -> Node:
        return self._fs.node(inode)

    def lookup(self, directory: Node, name: str) -> Node:
        return self._fs.lookup(directory, name)

    def scan(self, directory: Node) -> Iterator[Entry]:
        return self._fs.scan(directory)

    def open(self, file: Node) -> Blocks:
        return self._fs.open(file)

    def readlink(self, link: Node) -> str:
        return self._fs.readlink(link)

    def xattrs(self, node: Node) -> Mapping[str, bytes]:
        return self._fs.xattrs(node)

    def capacity(self) -> Capacity:
        return self._fs.capacity()

    def close(self) -> None:
        """Nothing to release: the file system is another's."""


class GuestFiles:
    """Looks around in a guest. ``reasons`` are what was there and could not be read, each with its path."""

    def __init__(self, fs: FileSystem, *, fold: bool = False) -> None:
        self.fs = fs
        self.reasons: list[str] = []
        self._fold = fold

    def node(self, path: str, *, follow_last: bool = True) -> Node | None:
        """What is at the path."""
        try:
            return find(self.fs, path, fold=self._fold, follow_last=follow_last)
        except MntapiError as error:
            self.note(error, path)
            return None

    def link(self, path: str) -> str | None:
        """The target of the symbolic link at the path."""
        node = self.node(path, follow_last=False)
        if node is None or node.kind is not FileKind.SYMLINK:
            return None
        try:
            return self.fs.readlink(node)
        except MntapiError as error:
            self.note(error, path)
            return None

    def has(self, path: str) -> bool:
        """Whether the path leads to something."""
        return self.node(path) is not None

    def content(self, path: str, limit: int) -> bytes | None:
        """The whole file, if it is one."""
        try:
            return read_bytes(self.fs, path, limit, fold=self._fold)
        except MntapiError as error:
            self.note(error, path)
            return None

    def text(self, path: str, limit: int) -> str | None:
        """The whole file as text."""
        try:
            return read_text(self.fs, path, limit, fold=self._fold)
        except MntapiError as error:
            self.note(error, path)
            return None

    def line(self, path: str, limit: int = 64 * KIB) -> str | None:
        """The first line that is not empty (``one_line``)."""
        text = self.text(path, limit)
        return None if text is None else one_line(text)

    def names(self, path: str, limit: int = MAX_NAMES) -> list[Entry]:
        """The entries of a folder by name; none if there is no such folder, or it cannot be read."""
        try:
            return sorted(listdir(self.fs, path, limit, fold=self._fold), key=lambda entry: entry.name)
        except MntapiError as error:
            self.note(error, path)
            return []

    def note(self, error: MntapiError, path: str) -> None:
        """Keep the error as a reason, unless it only says that there is no such thing."""
        if isinstance(error, NotFound | NotADirectory | IsADirectory):
            return
        text = str(error.located(path=path))
        if text not in self.reasons and len(self.reasons) < MAX_REASONS:
            self.reasons.append(text)


def _open(fs: FileSystem, node: Node, path: str) -> Blocks:
    if node.kind is FileKind.DIRECTORY:
        raise IsADirectory("is a folder", path=path)
    if node.kind is not FileKind.FILE:
        raise Invalid(f"is no file but a {node.kind}", path=path)
    try:
        return fs.open(node)
    except MntapiError as error:
        raise error.located(path=path) from error.__cause__


def _parts(path: str, fold: bool) -> list[str]:
    """The names of a path, last first; empty ones and ``.`` left out."""
    if len(path) > MAX_PATH:
        raise Corrupt("a path is too long", expected=f"at most {MAX_PATH} characters", found=len(path), reason=TOO_LARGE)
    names = (path.replace("\\", "/") if fold else path).split("/")
    return [name for name in reversed(names) if name not in ("", ".")]


def _step(fs: FileSystem, trail: list[tuple[str, Node]], name: str, fold: bool) -> Node:
    here = trail[-1][1] if trail else fs.root
    if here.kind is not FileKind.DIRECTORY:
        raise NotADirectory("is not a folder", path=_shown(trail))
    try:
        return _lookup_folded(fs, here, name) if fold else fs.lookup(here, name)
    except MntapiError as error:
        raise error.located(path=_shown(trail, name)) from error.__cause__


def _lookup_folded(fs: FileSystem, folder: Node, name: str) -> Node:
    try:
        return fs.lookup(folder, name)
    except NotFound:
        if getattr(fs, "folds_case", False):  # the reader has looked for other cases, and without reading every inode
            raise
        wanted = name.casefold()
        for count, entry in enumerate(fs.scan(folder)):
            if count == MAX_NAMES:
                raise Unsupported("the folder has too many names", expected=f"at most {MAX_NAMES}", reason=TOO_LARGE) from None
            if entry.name.casefold() == wanted:
                return entry.node
        raise


def _shown(trail: list[tuple[str, Node]], *more: str) -> str:
    return "/" + "/".join([name for name, _ in trail] + list(more))
