"""What a process that stores the blocks of others asks of the kernel: holes in its file, and not to wait for itself."""

from __future__ import annotations

import ctypes
import os

from mntapi.kernel import libc

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
_PR_SET_IO_FLUSHER = 57

_library = ctypes.CDLL(None, use_errno=True)
_fallocate = _library.fallocate64 if hasattr(_library, "fallocate64") else _library.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give bytes of a file back to its file system; they read as zeros. Raises OSError (EOPNOTSUPP where it has no holes).

    Source: fallocate(2).
    """
    if _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_io_flusher() -> bool:
    """Tell the kernel that it writes back through this process, and all threads it will start; whether it took note.

    Without it the kernel may want to write dirty pages to a loop device over our own file before it gives us the memory to
    take them, or hold back our writes because of them. Needs CAP_SYS_RESOURCE and Linux 5.6. Where these are missing the mount
    works all the same, and may be slow while memory is short.

    Source: PR_SET_IO_FLUSHER in prctl(2), which names FUSE servers as its users.
    """
    try:
        libc.prctl(_PR_SET_IO_FLUSHER, 1)
    except OSError:
        return False
    return True
