"""One range of some blocks into several buffers: how chunks that lie side by side on a member of an array get to their places.

``readv`` is a function over ``Blocks`` and no method of theirs: only a file of the host, or a slice of one, has a faster way
than ``readinto``, so nothing else need know.
"""

from __future__ import annotations

from collections.abc import Sequence

from mntapi.blocks.base import check_range
from mntapi.blocks.file import HostFile
from mntapi.blocks.slice import Slice
from mntapi.types import Blocks
from mntapi.units import KIB

_DIRECT = 32 * KIB
"""Where each buffer has to be asked for: if they have so many bytes on average, that costs less than copying."""


def readv(blocks: Blocks, offset: int, length: int, buffers: Sequence[memoryview]) -> None:
    """Fill the buffers one after the other with the bytes at ``offset``, or raise.

    Args:
        blocks: what is read.
        offset: bytes.
        length: of all buffers together, bytes.
        buffers: writable, contiguous, format ``B``, at least one.

    Raises: as ``Blocks.readinto``.
    """
    if len(buffers) == 1:
        blocks.readinto(offset, buffers[0])
        return
    if isinstance(blocks, Slice):
        check_range(blocks.size, offset, length)
        offset += blocks._start
        blocks = blocks._inner
    if isinstance(blocks, HostFile):
        blocks.readv(offset, length, buffers)
    else:
        _read_each(blocks, offset, length, buffers)


def _read_each(blocks: Blocks, offset: int, length: int, buffers: Sequence[memoryview]) -> None:
    if length >= _DIRECT * len(buffers):
        for buffer in buffers:
            blocks.readinto(offset, buffer)
            offset += len(buffer)
        return
    content = memoryview(bytearray(length))
    blocks.readinto(offset, content)
    start = 0
    for buffer in buffers:
        buffer[:] = content[start : start + len(buffer)]
        start += len(buffer)
