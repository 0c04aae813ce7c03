"""Entries of a folder of the host, each reached through the folder's descriptor: no link is ever followed on the way."""

from __future__ import annotations

import itertools
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mntapi.errors import Denied
from mntapi.escaping import quoted

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def check_name(name: str) -> None:
    """Raise Denied for a name that no single entry of a folder can have on this host."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Denied(f"the name {quoted(name)} cannot be a file's name here", reason="bad-name")


def check_free(folder_fd: int, name: str, *, overwrite: bool) -> None:
    """Raise Denied if something of that name is there that must stay."""
    try:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise Denied("a folder of that name is there already", hint="copy elsewhere")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise Denied("something that is no file is there already, and is never replaced", hint="copy elsewhere")
    if not overwrite:
        raise Denied("a file of that name is there already", hint="replace it with --overwrite, or copy elsewhere")


def make_folder(name: str, folder_fd: int) -> bool:
    """Whether the folder was made; False if it was there."""
    try:
        os.mkdir(name, 0o700, dir_fd=folder_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode):
            raise Denied("something that is no folder is there already", hint="remove it, or copy elsewhere") from None
        return False
    return True


@contextmanager
def draft_in(folder_fd: int) -> Iterator[str]:
    """A name to make an entry under before it gets its own; whatever still has it at the end is removed."""
    name = f".mntapi-{secrets.token_hex(6)}.part"
    try:
        yield name
    finally:
        with suppress(FileNotFoundError):  # it was never made, or is in place
            os.unlink(name, dir_fd=folder_fd)


@contextmanager
def opened_below(folder: str, names: tuple[str, ...]) -> Iterator[int]:
    """The folder reached from ``folder`` by ``names``, no link being followed on the way."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner_fd = os.open(name, FOLDER_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner_fd
        yield fd
    finally:
        os.close(fd)


@contextmanager
def new_file(folder_fd: int, name: str) -> Iterator[int]:
    """A descriptor for writing a file that was not there."""
    fd = os.open(name, _NEW_FLAGS, 0o600, dir_fd=folder_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def free_name(folder_fd: int, name: str) -> str:
    """``name``, or with a number behind it where that is taken: nothing is replaced by what is damaged."""
    names = itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2)))
    return next(one for one in names if not _exists(folder_fd, one))


def _exists(folder_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
