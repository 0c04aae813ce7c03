"""ioctl(2) as it should be: EINTR is retried and the interpreter is not held meanwhile."""

from __future__ import annotations

import fcntl
import struct

BLKGETSIZE64 = 0x80081272
"""``_IOR(0x12, 114, size_t)``, linux/fs.h: length of a block device in bytes."""


def ioctl(fd: int, request: int, argument: int | bytearray = 0) -> int:
    """What the call returns; a ``bytearray`` is passed by address and holds the answer afterwards.

    Never pass ``bytes``: for these CPython keeps the GIL during the call, and a call that waits for a FUSE server in
    another thread would wait for ever.

    Raises:
        OSError: the call failed.
    """
    while True:
        try:
            return fcntl.ioctl(fd, request, argument)
        except InterruptedError:
            continue


def device_size(fd: int) -> int:
    """Length in bytes of an open block device. Raises OSError."""
    answer = bytearray(8)
    ioctl(fd, BLKGETSIZE64, answer)
    (size,) = struct.unpack("=Q", answer)
    return int(size)
