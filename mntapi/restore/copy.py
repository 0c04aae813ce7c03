"""Copying files and folders out of a tree.

A guest is hostile: its names may hold ``..`` or ``/``, its links may point at the host's files. So every step below the
destination goes through a folder descriptor and no link is ever followed there. A file is written under a temporary name and
renamed when it is whole; one with unreadable parts keeps what could be read, under its name with ``.damaged`` added.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mntapi.blocks.file import translate
from mntapi.errors import Corrupt, Failed, Invalid, IsADirectory, MntapiError, Unsupported
from mntapi.filesystems.kinds import MODE_BITS
from mntapi.restore.content import copy_content, damaged
from mntapi.restore.entries import (
    FOLDER_FLAGS,
    check_free,
    check_name,
    draft_in,
    free_name,
    make_folder,
    new_file,
    opened_below,
)
from mntapi.restore.links import LeadsLinks, is_below, relative_target
from mntapi.restore.metadata import set_metadata
from mntapi.types import FileKind, FileSystem, Node

_MAX_DEPTH = 512
"""Folders inside one another; each costs a descriptor. A path of 4096 bytes could hold more, and none has been seen to."""
_FRAMES = 4 * _MAX_DEPTH + 1000
"""Python frames that a tree of that depth takes."""
_ON_A_SERVER = "network"
"""``Node.reason`` of a mount point whose files are on no disk of the guest."""


@dataclass(slots=True)
class Failure:
    """A file that is not, or not wholly, at the destination."""

    path: str
    error: MntapiError


@dataclass(frozen=True, slots=True)
class Note:
    """What is at the destination as it should be, and may surprise."""

    path: str
    text: str


@dataclass(slots=True)
class Report:
    """What a copy did. ``bytes`` counts file contents, holes included."""

    files: int = 0
    folders: int = 0
    bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How to copy.

    ``overwrite``: replace files that are there (folders are always merged into). ``owner``: give files the guest's user and
    group too, which takes root; set-user-ID bits are restored only then, or they would lend the caller's own rights.
    ``attributes``: extended attributes and access control lists. ``hard_links``: names of one file stay names of one file.
    ``special_files``: pipes, sockets and (which takes root) devices are made too.
    """

    recursive: bool = False
    overwrite: bool = False
    owner: bool = False
    attributes: bool = False
    hard_links: bool = False
    special_files: bool = False


@dataclass(frozen=True, slots=True)
class _Copied:
    """Where a file with several names was put first, to make its other names there."""

    folder: str
    below: tuple[str, ...]
    """The folders below ``folder``, then the name."""
    identity: tuple[int, int]
    """Device and inode number on the host: it is linked to only while it is still that file."""


class Copier:
    """Copies nodes of one tree below one destination folder."""

    def __init__(
        self, tree: FileSystem, options: CopyOptions, progress: Callable[[str, int], None] = lambda path, count: None
    ) -> None:
        self._tree = tree
        self._options = options
        self._progress = progress
        self._seen: set[int] = set()
        """Folders copied: a second way to one is a loop, or a damaged link, and would never end."""
        self._first_names: dict[int, _Copied] = {}
        """By inode number; of files that have more names than one."""
        self._folder = ""
        self._place: Sequence[str] = ()
        self.report = Report()
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _FRAMES))

    def copy(self, source: str, node: Node, folder: str, name: str, *, place: Sequence[str] = ()) -> None:
        """Copy the node found at ``source`` (for messages) to ``folder``/``name``.

        ``place`` are its names from the top of the tree: by them links of Windows are led. Trouble with a file below it is
        noted in ``report.failures`` and the copy goes on.

        Raises:
            NotFound, Denied: the destination folder cannot be opened.
        """
        try:
            folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise translate(error, folder) from error
        self._folder = folder
        self._place = place
        try:
            self._copy(source, node, folder_fd, (name,))
        finally:
            os.close(folder_fd)

    def _copy(self, source: str, node: Node, folder_fd: int, below: tuple[str, ...]) -> None:
        """Copy ``node`` to the last name of ``below`` (its path below the destination) in the folder ``folder_fd``."""
        name = below[-1]
        try:
            check_name(name)
            if node.kind is FileKind.DIRECTORY:
                self._copy_folder(source, node, folder_fd, below)
            elif node.kind is FileKind.SYMLINK:
                target = self._target(source, node, below)
                self._make(source, node, folder_fd, name, lambda draft: os.symlink(target, draft, dir_fd=folder_fd))
            elif node.kind is FileKind.FILE:
                self._copy_file(source, node, folder_fd, below)
            elif self._options.special_files:
                kind = MODE_BITS[node.kind] | 0o600
                self._make(source, node, folder_fd, name, lambda draft: os.mknod(draft, kind, node.rdev, dir_fd=folder_fd))
            else:
                hint = "pipes, sockets and devices are made with -a"
                raise Unsupported(f"is a {node.kind.value}, not a file, folder or link", reason="special-file", hint=hint)
        except MntapiError as error:
            self.report.failures.append(Failure(source, error))
        except OSError as error:
            self.report.failures.append(Failure(source, _host_error(error, name)))

    def _copy_folder(self, source: str, node: Node, folder_fd: int, below: tuple[str, ...]) -> None:
        if not self._options.recursive:
            raise IsADirectory("is a folder", hint="copy folders with -r")
        if len(below) > _MAX_DEPTH:
            raise Invalid("folders are nested too deeply", expected=f"at most {_MAX_DEPTH}")
        if node.inode in self._seen:
            raise Corrupt("a folder that has been met before: the file system loops", reason="folder-loop")
        self._seen.add(node.inode)
        name = below[-1]
        made = make_folder(name, folder_fd)
        inner_fd = os.open(name, FOLDER_FLAGS, dir_fd=folder_fd)
        try:
            self._copy_children(source, node, inner_fd, below)
        finally:
            os.close(inner_fd)
        self.report.folders += 1
        if made:  # a folder that was there before keeps what its owner gave it
            self._set_metadata(source, node, folder_fd, name)

    def _copy_children(self, source: str, node: Node, inner_fd: int, below: tuple[str, ...]) -> None:
        """All entries; if the folder itself turns bad half way, what was read so far is kept and the folder is marked."""
        for entry_name, entry in self._tree.scan(node):
            self._copy(f"{source.rstrip('/')}/{entry_name}", entry, inner_fd, (*below, entry_name))
        if node.reason == _ON_A_SERVER:
            self.report.notes.append(Note(source, "its files are on a server, not on these disks: only the folder is copied"))
        elif node.reason:
            raise Unsupported("its files cannot be read", reason=node.reason)

    def _target(self, source: str, link: Node, below: tuple[str, ...]) -> str:
        """The text of a link: the guest's own, or, where only the guest understands that, one that works in the copy."""
        text = self._tree.readlink(link)
        leads_to = self._tree.leads_to(link) if isinstance(self._tree, LeadsLinks) else None
        if leads_to is not None:
            target, shown = relative_target(leads_to, self._place, below), text.replace("/", "\\")
            if target is None:
                hint = "copy a folder that has both in it"
                raise Unsupported(f"leads to {shown}, outside of what is copied: no link is made", hint=hint, reason="link")
            if not is_below(leads_to, self._place):
                what = f"leads to {shown}, which is not in this copy; copied to the same folder, it is found there"
                self.report.notes.append(Note(source, what))
            text = target
        if "\0" in text:
            raise Corrupt("the target of the link has a zero byte", reason="damaged")
        return text

    def _copy_file(self, source: str, node: Node, folder_fd: int, below: tuple[str, ...]) -> None:
        name = below[-1]
        check_free(folder_fd, name, overwrite=self._options.overwrite)
        has_more_names = self._options.hard_links and node.links > 1
        if has_more_names and self._link(node, folder_fd, name):
            return
        blocks = self._tree.open(node)
        try:
            with draft_in(folder_fd) as draft:
                with new_file(folder_fd, draft) as fd:
                    lost = copy_content(blocks, fd, lambda count: self._progress(source, count))
                    status = os.fstat(fd)
                final = free_name(folder_fd, name + ".damaged") if lost else name
                self._set_metadata(source, node, folder_fd, draft)
                os.rename(draft, final, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        finally:
            blocks.close()
        if lost:
            self.report.failures.append(Failure(source, damaged(lost, final)))
        elif has_more_names:
            self._first_names[node.inode] = _Copied(self._folder, below, (status.st_dev, status.st_ino))
        self.report.files += 1
        self.report.bytes += node.size

    def _link(self, node: Node, folder_fd: int, name: str) -> bool:
        """Make ``name`` another name of the file copied from ``node`` before. False if there is none, or it cannot be linked:
        then it is copied again."""
        first = self._first_names.get(node.inode)
        if first is None:
            return False
        try:
            with draft_in(folder_fd) as draft, opened_below(first.folder, first.below[:-1]) as first_fd:
                os.link(first.below[-1], draft, src_dir_fd=first_fd, dst_dir_fd=folder_fd, follow_symlinks=False)
                status = os.stat(draft, dir_fd=folder_fd, follow_symlinks=False)
                if (status.st_dev, status.st_ino) != first.identity:
                    return False
                os.rename(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except OSError:
            return False
        self.report.files += 1
        return True

    def _make(self, source: str, node: Node, folder_fd: int, name: str, create: Callable[[str], None]) -> None:
        """Create something that has no contents, and put it in place when it is as the guest had it."""
        check_free(folder_fd, name, overwrite=self._options.overwrite)
        with draft_in(folder_fd) as draft:
            create(draft)
            self._set_metadata(source, node, folder_fd, draft)
            os.rename(draft, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        self.report.files += 1

    def _set_metadata(self, source: str, node: Node, folder_fd: int, name: str) -> None:
        """As asked; what the guest's disk or the host refuses of it is a failure to tell, and no reason to lose the file."""
        attributes: Mapping[str, bytes] = {}
        if self._options.attributes:
            try:
                attributes = self._tree.xattrs(node)
            except MntapiError as error:
                self.report.failures.append(Failure(source, error))
        refused = set_metadata(node, folder_fd, name, owner=self._options.owner, attributes=attributes)
        if refused:
            self.report.failures.append(Failure(source, Failed(f"not restored: {', '.join(refused)}", reason="metadata")))


def _host_error(error: OSError, name: str) -> MntapiError:
    return Failed(f"cannot be written: {os.strerror(error.errno) if error.errno else error}", hint=None, reason="host")
