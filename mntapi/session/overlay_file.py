"""The file of an overlay, looked at from outside: whether it is one, what it says of itself, whether a mount writes it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mntapi.blocks import HostFile, read_clipped
from mntapi.errors import Busy, Invalid, MntapiError
from mntapi.images.qcow2.header import MAGIC, parse_header
from mntapi.images.qcow2.overlay import CLUSTER
from mntapi.types import Blocks


@dataclass(frozen=True, slots=True)
class OverlayInfo:
    """What the file of an overlay says of itself; sizes in bytes."""

    path: str
    original: str
    """As QEMU finds it: relative to the overlay's folder, or absolute."""
    original_format: str | None
    size: int
    """Of the disk, whole 512-byte sectors."""
    stored: int
    """What the file takes on its file system."""
    in_use: bool


@contextmanager
def closed_overlay(path: str) -> Iterator[OverlayInfo]:
    """An overlay that nobody writes, and nobody can begin to write meanwhile.

    Raises:
        Busy: a mount writes it.
        Invalid: it is no overlay that mntapi made. Corrupt, Unsupported: it may have been one.
        NotFound, Denied: as the system says.
    """
    with _opened(path) as (file, info):
        if info.in_use:
            hint = "mntapi ps lists the mounts; mntapi umount ends one"
            raise Busy("the overlay is in use by a mount", path=file.path, hint=hint, reason="overlay-in-use")
        yield info


def overlay_info(path: str) -> OverlayInfo:
    """What there is to say of an overlay, in use or not. Raises Invalid, NotFound, Denied as ``closed_overlay``."""
    with _opened(path) as (_file, info):
        return info


@contextmanager
def _opened(path: str) -> Iterator[tuple[HostFile, OverlayInfo]]:
    """The file, with a shared lock on it unless somebody writes it."""
    file = HostFile.open(os.path.realpath(path))
    try:
        if not has_our_mark(file):
            raise _no_overlay(file)
        header = parse_header(read_clipped(file, 0, CLUSTER))
        name, format_ = header.backing_name or "", header.extensions.backing_format
        stored = os.fstat(file.fileno()).st_blocks * 512
        yield file, OverlayInfo(file.path, name, format_, header.size, stored, not lock_shared(file))
    finally:
        file.close()


def _no_overlay(file: HostFile) -> MntapiError:
    """The error for a file without our mark: what was one may have lost its start, or everything."""
    if not file.size:
        return Invalid("is empty", path=file.path, hint="if it was an overlay, what was written to it is gone")
    head = read_clipped(file, 0, CLUSTER)
    try:
        parse_header(head)
    except MntapiError as error:
        if head.startswith(MAGIC):
            return error.located(path=file.path)
    return Invalid("is no overlay that mntapi made", path=file.path, hint="mntapi info tells what it is")


def lock_shared(file: HostFile) -> bool:
    """Keep others from writing the overlay as long as the file is open here; False if one does already."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def has_our_mark(file: Blocks) -> bool:
    """Whether the file is a QCOW2 overlay that mntapi made."""
    head = read_clipped(file, 0, CLUSTER)
    try:
        return parse_header(head).extensions.is_overlay
    except MntapiError:
        return False  # not even QCOW2
