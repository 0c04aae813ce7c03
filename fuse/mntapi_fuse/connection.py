"""The ``/dev/fuse`` descriptor of one mount: requests in, replies out.

Not here: what a request means (``dispatch.py``). Always true: one ``read`` is one whole request, one ``write`` one whole reply,
so any number of threads may do either.
"""

from __future__ import annotations

import errno
import logging
import os
import select

from mntapi.errors import Failed
from mntapi_fuse.protocol import NOTIFY_RESEND, REPLY

log = logging.getLogger(__name__)


class Connection:
    """Borrows the descriptor: whoever opened ``/dev/fuse`` closes it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def receive(self, buffer: memoryview) -> int:
        """Wait for a request and put it into ``buffer``; returns its length in bytes, 0 once the file system is unmounted.

        Raises:
            Failed: the descriptor is not a mounted ``/dev/fuse``.
        """
        buffers = [buffer]
        while True:
            try:
                return os.readv(self._fd, buffers)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return 0
                self._wait(error)

    def _wait(self, error: OSError) -> None:
        """Return when it makes sense to read once more."""
        if error.errno == errno.EAGAIN:
            ready = select.poll()
            ready.register(self._fd, select.POLLIN)
            ready.poll()
        elif error.errno not in (errno.EINTR, errno.ENOENT):  # ENOENT: who asked was killed while the request was copied out
            hint = "mount(2) comes first" if error.errno == errno.EPERM else None
            raise Failed(f"cannot read a FUSE request: {os.strerror(error.errno or 0)}", path="/dev/fuse", hint=hint) from error

    def send(self, reply: memoryview) -> None:
        """Answer a request. That nobody waits for the answer any more, or that the mount is gone, is no error."""
        try:
            os.write(self._fd, reply)
        except OSError as error:
            # EINVAL means that the kernel did not like the reply; it has told EIO to who asked (fs/fuse/dev.c).
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.debug("the kernel refused a reply: %s", error)

    def ask_again(self) -> None:
        """Let the kernel repeat the requests that a worker before this one took and never answered (Linux 6.9 and later).

        Source: ``FUSE_NOTIFY_RESEND``; Documentation/filesystems/fuse (protocol 7.40). An older kernel answers EINVAL:
        then those who wait keep waiting until the mount is aborted.

        Raises:
            Failed: the kernel cannot do it.
        """
        try:
            os.write(self._fd, REPLY.pack(REPLY.size, NOTIFY_RESEND, 0))
        except OSError as error:
            hint = "Linux 6.9 or later is needed to go on with a mount after its worker died"
            raise Failed("cannot take over a FUSE mount", path="/dev/fuse", hint=hint) from error
