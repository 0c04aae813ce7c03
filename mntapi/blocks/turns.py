"""Who may write, where what is read is worked out of more bytes than are asked for: a sector to decrypt, a stripe with parity.

A read between the steps of a write would take half of the old and half of the new, and work out what was never there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

_P = ParamSpec("_P")


class Turns:
    """Writers take turns. Readers do not wait; if somebody wrote while they read, they read again, between the writers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps = 0
        """Goes up when a write begins and when it ends: odd while somebody writes."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold this while what belongs together is written, and while the old is read for it."""
        with self._lock:
            self._steps += 1
            try:
                yield
            finally:
                self._steps += 1

    def read(self, action: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Do ``action``, which reads, and may be done twice."""
        before = self._steps
        if not before & 1:
            action(*args, **kwargs)
            if self._steps == before:
                return
        with self._lock:
            action(*args, **kwargs)
