"""The contents of a file: what can be read of it is copied, holes stay holes, and the rest is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mntapi.errors import Failed, MntapiError
from mntapi.escaping import quoted
from mntapi.types import Blocks, ExtentKind
from mntapi.units import MIB

_CHUNK = MIB
_RETRY = 4096
"""Bytes of the pieces in which a chunk with a bad sector is read again."""


class Lost(NamedTuple):
    """A range of a file, in bytes, that could not be read, and why."""

    offset: int
    length: int
    error: MntapiError


def copy_content(blocks: Blocks, fd: int, progress: Callable[[int], None]) -> list[Lost]:
    """Write all data of ``blocks`` to the empty file ``fd``, leaving holes and what cannot be read as holes.

    Args:
        blocks: a file's contents.
        fd: a descriptor for writing.
        progress: told how many more bytes are done.

    Returns: what could not be read.

    Raises:
        OSError: the host cannot write it.
    """
    lost: list[Lost] = []
    buffer = memoryview(bytearray(min(_CHUNK, max(1, blocks.size))))
    for extent in blocks.extents(0, blocks.size):
        if extent.kind is ExtentKind.ZERO:
            progress(extent.length)
            continue
        for offset in range(extent.offset, extent.end, _CHUNK):
            chunk = buffer[: min(_CHUNK, extent.end - offset)]
            lost.extend(_copy_range(blocks, offset, chunk, fd))
            progress(len(chunk))
    os.ftruncate(fd, blocks.size)
    return lost


def _copy_range(blocks: Blocks, offset: int, chunk: memoryview, fd: int) -> Iterator[Lost]:
    """Copy one chunk; where it cannot be read whole, in small pieces, yielding those that fail."""
    try:
        blocks.readinto(offset, chunk)
        _write(fd, chunk, offset)
        return
    except MntapiError as error:
        if len(chunk) <= _RETRY:
            yield Lost(offset, len(chunk), error)
            return
    for start in range(0, len(chunk), _RETRY):
        piece = chunk[start : start + _RETRY]
        yield from _copy_range(blocks, offset + start, piece, fd)


def _write(fd: int, chunk: memoryview, offset: int) -> None:
    done = 0
    while done < len(chunk):
        done += os.pwrite(fd, chunk[done:], offset + done)


def damaged(lost: list[Lost], final: str) -> Failed:
    """What to say of a file whose rest is under the name ``final``."""
    first = lost[0]
    return Failed(
        f"{sum(one.length for one in lost)} bytes cannot be read, the first at byte {first.offset} of the file: {first.error}",
        hint=f"what could be read is in {quoted(final)}, with zeros in place of what could not",
        reason=first.error.reason or "damaged",
    )
