"""Whether what a process does again and again works: said in its log when that begins to fail, and when it is over.

Who reads such lines, ``mntapi.session.health`` says. Nothing is said where nobody set up a log.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # a command has its errors, and need not say them twice on standard error

MAX_CHANGES = 2000
"""Changes that one process tells of; what fails more often is taken to fail for good. About 400 KiB of a log."""
OVER = "works again"


class Health:
    """Whether one thing works that a process does again and again. Thread-safe.

    Args:
        topic: one word for it.
        calm: it works again after so many successes in a row: writes to a full disk succeed where they need no room.
    """

    def __init__(self, topic: str, *, calm: int = 1) -> None:
        self._topic = topic
        self._calm = calm
        self._left = 0
        """Successes until it works again; 0: it does."""
        self._changes = 0
        self._lock = threading.Lock()

    def failed(self, what: str) -> None:
        """It failed, and how: one line."""
        with self._lock:
            if not self._left:
                self._changes += 1
                log.warning("%s: %s", self._topic, ascii(what)[1:-1])
            self._left = self._calm

    def worked(self) -> None:
        """It was done."""
        if not self._left:
            return  # as nearly always: not worth a lock
        with self._lock:
            if self._left and self._changes < MAX_CHANGES:
                self._left -= 1
                if not self._left:
                    log.warning("%s: %s", self._topic, OVER)
