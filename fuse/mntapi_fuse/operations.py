"""What a tree must answer to be shown by either backend: one protocol, by node number. Few trees can be written.

Node numbers are stateless: they come from the tree itself (an inode number, a position in a list), never from a table of
what the kernel has looked up. So FORGET has nothing to do, a worker that was restarted knows every number its predecessor
gave out, and an NFS server can ask for a number after years.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.types import Blocks, Capacity, Node, WritableBlocks

ROOT = 1
"""Node number of the top folder (``FUSE_ROOT_ID``)."""

_MAX_ERRNO = 511
"""The kernel takes no reply with an error of 512 or more, and whoever waits for it would wait for ever (fs/fuse/dev.c)."""

log = logging.getLogger(__name__)


class Attributes(NamedTuple):
    """A node number (0 is none) and what ``stat`` says of the node; ``st_ino`` is ``node.inode``."""

    number: int
    node: Node
    is_lasting: bool = True
    """False: ask again each time, for it may change. Names last in any case."""


class DirEntry(NamedTuple):
    """A name in a folder: 1 to 1024 bytes without ``/`` and NUL, neither ``.`` nor ``..``; and what it stands for."""

    name: bytes
    attributes: Attributes


class NoAttribute(MntapiError):
    """The node has no extended attribute of that name."""

    errno = errno.ENODATA


class ReadOnly(MntapiError):
    """The file cannot be written."""

    errno = errno.EROFS


class Changes(Protocol):
    """The files of a tree that can be written. Sizes and names stay as they are. Thread-safe, raises as ``Operations``."""

    def is_writable(self, node: int) -> bool:
        """Whether this file is one of them."""

    def change(self, node: int) -> WritableBlocks:
        """The file's contents, which are about to be changed; the caller does not close them. Raises ReadOnly."""

    def flush(self, node: int) -> None:
        """Return when all that was written to this file is on the medium; at once if it cannot be written."""


class Operations(Protocol):
    """A tree. Thread-safe. All methods raise MntapiError; its errno is what the program behind the mount sees."""

    @property
    def has_xattrs(self) -> bool:
        """False: no node has any, and the kernel need never ask."""

    @property
    def changes(self) -> Changes | None:
        """What can be written. None: nothing ever changes, and the kernel may keep for ever what it has read."""

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """The entry of that name. Raises NotFound if there is none, which the kernel then remembers."""

    def getattr(self, node: int) -> Attributes:
        """The node itself."""

    def readdir(self, node: int) -> Iterator[DirEntry]:
        """All entries without ``.`` and ``..``, in an order that is the same in every pass and every process."""

    def open(self, node: int) -> Blocks:
        """The file's contents; the caller closes them."""

    def readlink(self, node: int) -> bytes:
        """The target, 1 to 4095 bytes without NUL."""

    def statfs(self) -> Capacity:
        """Size and free space."""

    def getxattr(self, node: int, name: bytes) -> bytes:
        """The value. Raises NoAttribute."""

    def listxattr(self, node: int) -> Sequence[bytes]:
        """The names, with their prefixes."""


MAX_NOTED = 200
"""Different errors that a worker's log tells of, each once: what a program behind a mount sees is a number."""
_noted: set[str] = set()


def _note(error: MntapiError) -> None:
    if isinstance(error, Corrupt | ReadFailed) and len(_noted) < MAX_NOTED and (text := ascii(str(error))) not in _noted:
        _noted.add(text)
        log.warning("%s", text)


def errno_of(error: Exception, doing: str) -> int:
    """The errno to answer with: the error's own, or EIO for a defect of ours, which is logged at DEBUG.

    Never ENOENT for something unknown: a bad sector must not look like a missing file.
    """
    if isinstance(error, MntapiError):
        _note(error)
        return error.errno if 0 < error.errno <= _MAX_ERRNO else errno.EIO
    log.debug("unexpected error in %s, answered with EIO", doing, exc_info=error)
    return errno.EIO
