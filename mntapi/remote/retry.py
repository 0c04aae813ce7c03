"""What is done again when a server was away: opening a disk, and reading it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

from mntapi.errors import AWAY, Denied, MntapiError
from mntapi.health import Health
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.patience import MIN_ATTEMPT_S, told, waiting

MAX_PAUSE_S = 4.0
"""Between two attempts: so soon after a server has come back the read that waits for it goes on."""
OPEN_AGAIN_S = 2.0
"""So long opening is tried again: a wrong URL should be told soon."""
_LASTING = AWAY | {"changed"}
"""Reasons of errors that the next read is likely to meet as well."""
_numbers = itertools.count()

_R = TypeVar("_R")


class Retries:
    """Asks again while the fault is one that may pass. One for all reads of a disk, since they share its server.

    The second attempt is made at once, on a new connection: an idle one goes stale. The others come ever later, until
    ``patience_s`` is over. From then on the server is taken for away, and a read makes one attempt only, until one succeeds:
    whoever reads a thousand files does not wait a thousand times. That is in the log (``mntapi.health``), by ``name``.
    """

    def __init__(self, *, patience_s: float, backoff_s: float, name: str = "a server") -> None:
        self._patience_s = patience_s
        self._backoff_s = backoff_s
        self._name = name
        self._is_away = False
        self._health = Health(f"remote{next(_numbers)}")

    def run(self, ask: Callable[[bool], _R]) -> _R:
        """``ask(fresh)``: on a fresh connection or on any. Raises what the last attempt raised."""
        try:
            answer = self._run(ask)
        except MntapiError as error:
            if isinstance(error, ConnectionLost | Denied) or error.reason in _LASTING:
                self._health.failed(f"reads fail: {self._name}: {error.what}")
            raise
        self._is_away = False
        self._health.worked()
        return answer

    def _run(self, ask: Callable[[bool], _R]) -> _R:
        if self._is_away:
            return ask(True)
        try:
            return ask(False)
        except ConnectionLost:
            return self._again(ask)

    def _again(self, ask: Callable[[bool], _R]) -> _R:
        end = time.monotonic() + self._patience_s
        pause_s = self._backoff_s
        while True:
            try:
                return ask(True)
            except ConnectionLost:
                if time.monotonic() + pause_s >= end:
                    self._is_away = True
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)


class Deadline:
    """The end of the time that something may take in all."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, at_most_s: float) -> float:
        """Seconds that are left, at most so many. Raises ConnectionLost (reason ``timeout``) when there are none."""
        left = min(at_most_s, self._end - time.monotonic())
        if left <= 0:
            raise ConnectionLost("the server did not answer in time", reason="timeout")
        return left


def opened(name: str, attempt: Callable[[Deadline], _R], *, patience_s: float, backoff_s: float = 0.0) -> _R:
    """What ``attempt`` opens at ``name``, once more where the server hangs up; ``patience_s`` is for all of it together.

    A server that is silent is waited for once. Who waits is told for whom (``patience.told``).

    Raises: what the last attempt raised.
    """
    seconds = max(MIN_ATTEMPT_S, patience_s)
    deadline, began = Deadline(seconds), time.monotonic()
    count, pause_s = 1, backoff_s
    with told(waiting(name, seconds)):
        while True:
            try:
                return attempt(deadline)
            except ConnectionLost as error:
                took_s = time.monotonic() - began
                is_over = count > 1 and took_s + pause_s >= min(patience_s, OPEN_AGAIN_S)
                if is_over or took_s >= OPEN_AGAIN_S or error.reason == "timeout":
                    raise
            if count > 1:  # the second attempt is made at once
                time.sleep(pause_s)
                pause_s *= 2
            count += 1
