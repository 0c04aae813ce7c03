"""Errors as values with a place: what is wrong, in which file, at which byte, what was expected and what was found.

The class decides the errno that a program behind a mount sees and the exit code of the command line; the fields are for
people and machines. An error that is none of these is a defect of ours, and is shown to the kernel as EIO, never ENOENT:
in a recovery tool a bad sector must not look like a missing file.
"""

from __future__ import annotations

import errno
from copy import copy
from typing import Self


class MntapiError(Exception):
    """Base of everything this library raises on purpose.

    Args:
        what: one line, no full stop, says what is wrong in the words of the field.
        path: the file (or device, or URL) it is wrong in, if known.
        offset: absolute byte offset in that file, if known.
        expected: what should have been there.
        found: what was there.
        hint: what the reader can do about it, one line.
        reason: a short slug for machines (``efs``, ``wof``, ``cid-mismatch`` ...); listings and xattrs carry it.
    """

    errno: int = errno.EIO

    def __init__(
        self,
        what: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.offset = offset
        self.expected = expected
        self.found = found
        self.hint = hint
        self.reason = reason

    def __str__(self) -> str:
        details = []
        if self.offset is not None:
            details.append(f"at byte {self.offset}")
        if self.expected is not None:
            details.append(f"expected {shown(self.expected)}")
        if self.found is not None:
            details.append(f"found {shown(self.found)}")
        text = f"{self.path}: {self.what}" if self.path else self.what
        return f"{text} ({', '.join(details)})" if details else text

    def located(self, *, path: str | None = None, base: int = 0) -> Self:
        """This error with the file named if it was not, and a relative offset made absolute by ``base`` bytes.

        A copy: the error itself may be kept, and be raised again for somebody who asked for another file.
        """
        if self.path is not None:
            return self
        placed = copy(self)
        placed.path = path
        if placed.offset is not None:
            placed.offset += base
        return placed.with_traceback(self.__traceback__)


def shown(value: object) -> str:
    """Bytes as people read them in a dump, all else as text."""
    return value.hex(" ") if isinstance(value, bytes) else str(value)


class NotFound(MntapiError):
    """A file, a volume, a parent or a path in the guest that is not there."""

    errno = errno.ENOENT


class Corrupt(MntapiError):
    """Bytes that contradict their format, or a file shorter than its format says."""

    errno = errno.EIO


class ReadFailed(MntapiError):
    """The storage below answered with an error."""

    errno = errno.EIO


AWAY = frozenset({"unreachable", "dropped", "timeout", "server-busy", "server-refused", "tls"})
"""Reasons of a ReadFailed that is about the server which has the bytes and not about them: later it may give them."""


class Unsupported(MntapiError):
    """Understood, and not something this version reads. Never answered with zeros instead."""

    errno = errno.EOPNOTSUPP


class Busy(MntapiError):
    """In use by somebody else, or used up."""

    errno = errno.EBUSY


class Denied(MntapiError):
    """The system, or a safety rule of ours, does not permit it."""

    errno = errno.EACCES


class Invalid(MntapiError):
    """The caller asked for something that makes no sense: an offset past the end, a path that is no folder."""

    errno = errno.EINVAL


class NotADirectory(Invalid):
    """A path goes through something that is no folder."""

    errno = errno.ENOTDIR


class IsADirectory(Invalid):
    """A folder where a file was asked for."""

    errno = errno.EISDIR


class Failed(MntapiError):
    """A program or a system call we need did not work."""

    errno = errno.EIO
