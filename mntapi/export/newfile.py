"""A file that is made: it has its name when it is whole, and on an error there is none. Until then it has no name at all where
the file system knows such files (``O_TMPFILE``), so that even a kill leaves nothing.

An original is never written, and never replaced either: a file that belongs to the source is refused whatever was asked for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from mntapi.errors import Denied, Failed, NotFound
from mntapi.units import MIB

_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS_FLAGS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_WRITEBACK = 8 * MIB
"""Bytes that are written before the system is asked to bring them to the medium."""
_BEHIND = 32 * MIB
"""How far behind they are out of the page cache; by then the medium has them."""
_CANNOT_LINK = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
"""What file systems without files that have no name answer; EISDIR: open(2), BUGS."""
_CANNOT_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF)


class NewFile:
    """An open file that reads as zeros wherever nothing was written. ``written`` counts the bytes that were."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path
        self.written = 0
        self._begun = 0

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write all of ``content`` at byte ``offset``. Raises Failed, with the system's errno."""
        view, done = memoryview(content), 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
            self._begin_writeback(offset + done)
        except OSError as error:
            raise _failed(error, self.path, offset + done) from error
        self.written += done

    def _begin_writeback(self, end: int) -> None:
        """Have the medium work while we do, or ``sync`` waits for everything at the end (a quarter of the whole time, measured
        on ext4). For pages that are dirty this advice begins to write them, those that are clean leave the cache: mm/fadvise.c,
        Linux 6.1. So a disk of a terabyte takes the place of nobody's files there, and the next bytes go into memory that was
        just in use: a third of the whole time on a virtual machine whose host takes back what is free."""
        if end - self._begun >= _WRITEBACK:
            start = max(0, self._begun - _BEHIND)
            os.posix_fadvise(self._fd, start, end - start, os.POSIX_FADV_DONTNEED)
            self._begun = end

    def resize(self, size: int) -> None:
        """Make it ``size`` bytes long. Raises Failed: the file system has no files of that size."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise _failed(error, self.path, size) from error

    def sync(self) -> None:
        """Return when all is on the medium. Raises Failed."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _failed(error, self.path) from error


@contextmanager
def new_file(path: str, *, overwrite: bool | None = None, originals: Iterable[str] = ()) -> Iterator[NewFile]:
    """Make the file ``path``: what the block writes is synced and gets that name at its end; on any error all is undone.

    Args:
        path: the name it shall have.
        overwrite: replace a regular file of that name; None: no, and the user has no ``--overwrite`` to ask for it.
        originals: paths that must not be replaced. Files that this process has open, as it has those of the source, are
            not replaced either.

    Raises:
        Denied: something of that name is there, or permission is missing.
        NotFound: there is no such folder.
        Failed: the system cannot write it, or cannot tell whether the file that is there is an original.
    """
    path = os.path.abspath(path)
    folder, draft = os.path.dirname(path), os.path.join(os.path.dirname(path), f".mntapi-{os.urandom(6).hex()}.part")
    originals = tuple(originals)
    _check_free(path, overwrite, originals)
    fd = -1
    try:
        fd = _create(folder, draft, path)
        file = NewFile(fd, path)
        yield file
        file.sync()
        _check_free(path, overwrite, originals)  # the conversion took a while
        _name(fd, draft, path)
        _put_in_place(draft, path, overwrite)
        _sync_folder(folder, path)
    finally:
        if fd >= 0:
            os.close(fd)
        _forget(draft)


def _check_free(path: str, overwrite: bool | None, originals: Iterable[str]) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise Denied("is there already, and is no regular file", path=path, hint="name a new file")
    if (status.st_dev, status.st_ino) in set(_identities(originals)):
        raise Denied("belongs to what is being read: an original is never written", path=path, reason="original")
    if not overwrite:
        hint = "name a new file" if overwrite is None else "replace it with --overwrite, or name a new file"
        raise Denied("is there already", path=path, hint=hint)


def _identities(originals: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Device and inode of all files that must stay. The open ones tell what no list does: every extent and segment."""
    try:
        with os.scandir("/proc/self/fd") as entries:
            descriptors = [entry.path for entry in entries]
    except OSError as error:
        raise Failed("cannot tell which files are open", path="/proc/self/fd", hint="name a new file instead") from error
    for path in (*originals, *descriptors):
        try:
            status = os.stat(path)
        except OSError:
            continue  # a URL, a file that is gone: neither can be replaced
        yield status.st_dev, status.st_ino


def _create(folder: str, draft: str, path: str) -> int:
    """A new file without a name, or, where there are none, under the name ``draft``."""
    try:
        fd = _create_nameless(folder)
        return os.open(draft, _NEW_FLAGS, 0o666) if fd is None else fd
    except FileNotFoundError as error:
        raise NotFound("no such folder", path=folder) from error
    except OSError as error:
        raise _failed(error, path) from error


def _create_nameless(folder: str) -> int | None:
    """None where the file system has no such files, or none that could be given a name."""
    try:
        fd = os.open(folder, _NAMELESS_FLAGS, 0o666)
    except OSError as error:
        if error.errno in _NO_NAMELESS:
            return None
        raise
    if os.path.lexists(f"/proc/self/fd/{fd}"):
        return fd
    os.close(fd)
    return None


def _name(fd: int, draft: str, path: str) -> None:
    """Give a file without a name the name ``draft``; one that replaces another gets the permissions of that.

    Source: open(2), ``O_TMPFILE``; ``os.link`` follows the link only in the call that takes a folder's descriptor.
    """
    try:
        if not os.fstat(fd).st_nlink:
            os.link(f"/proc/self/fd/{fd}", draft, src_dir_fd=fd, follow_symlinks=True)
        with suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(os.lstat(path).st_mode))
    except OSError as error:
        raise _failed(error, path) from error


def _put_in_place(draft: str, path: str, overwrite: bool | None) -> None:
    """Give the file its name. A link, unlike a rename, does not replace what came to be there meanwhile."""
    try:
        if overwrite:
            os.rename(draft, path)
            return
        try:
            os.link(draft, path)
            os.unlink(draft)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            os.rename(draft, path)  # a file system without hard links, such as FAT
    except OSError as error:
        raise _failed(error, path) from error


def _sync_folder(folder: str, path: str) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # not every file system can, and not every folder may be read
            raise _failed(error, path) from error


def _forget(draft: str) -> None:
    try:
        os.unlink(draft)
    except FileNotFoundError:
        return  # it was never made, or has its name


def _failed(error: OSError, path: str, offset: int | None = None) -> Denied | Failed:
    """The system's error as ours, with its own errno."""
    number = error.errno or errno.EIO
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(f"cannot be written: {os.strerror(number)}", path=path)
    failed = Failed(f"cannot be written: {os.strerror(number)}", path=path, offset=offset)
    failed.errno = number
    return failed
