"""What could not be read through a mount, and why, until it can be read."""

from __future__ import annotations

import threading
from typing import NamedTuple

from mntapi.errors import AWAY, Corrupt, MntapiError, ReadFailed, Unsupported
from mntapi.filesystems.names import DAMAGED, UNREADABLE

MAX_FAILURES = 4096
"""Nodes remembered; beyond it all are forgotten. About 1 MiB."""


class _Failure(NamedTuple):
    reason: str
    start: int
    end: int


class Failures:
    """Why opening, listing or reading failed, by node number. Thread-safe.

    ``start`` and ``end`` are the bytes of the file that were to be read; none for opening and listing. A success elsewhere in
    the file says nothing of a bad sector, so a failure is forgotten once the bytes from the first that failed to the last have
    been read, from either side, in as many reads as it takes.
    """

    def __init__(self) -> None:
        self._found: dict[int, _Failure] = {}
        self._lock = threading.Lock()

    def reason(self, node: int) -> str | None:
        """What to say of a node, None if nothing failed or all of it went well later."""
        failure = self._found.get(node)
        return None if failure is None else failure.reason

    def failed(self, node: int, error: MntapiError, start: int = 0, end: int = 0) -> None:
        """Remember why, if it is about what is on the disk: a server that is away may be back for the next read."""
        if not isinstance(error, Corrupt | ReadFailed | Unsupported) or error.reason in AWAY:
            return
        reason = error.reason or _slug(error)
        with self._lock:
            if len(self._found) >= MAX_FAILURES:
                self._found.clear()
            _, first, last = self._found.get(node, _Failure(reason, start, end))
            self._found[node] = _Failure(reason, min(start, first), max(end, last))

    def succeeded(self, node: int, start: int = 0, end: int = 0) -> None:
        """These bytes were read, or the node was opened or listed."""
        if node not in self._found:
            return  # as nearly always: not worth a lock
        with self._lock:
            failure = self._found.pop(node, None)
            if failure is None:
                return
            _, first, last = failure
            left = max(first, end) if start <= first else first
            right = min(last, start) if end >= last else last
            if left < right:
                self._found[node] = failure._replace(start=left, end=right)


def _slug(error: MntapiError) -> str:
    """A reason for errors that carry none."""
    if isinstance(error, Corrupt):
        return DAMAGED
    return UNREADABLE if isinstance(error, ReadFailed) else "unsupported"
