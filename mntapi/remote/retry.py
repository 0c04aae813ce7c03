"""How long a read waits for a server that is away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from mntapi.errors import Invalid
from mntapi.remote.dial import ConnectionLost

PATIENCE_S = 30.0
"""How long after its first failure a read is tried again, unless the environment says otherwise."""
PATIENCE_VARIABLE = "MNTAPI_SERVER_PATIENCE"
"""Seconds to take instead; 0: at most one attempt on a new connection."""
MAX_PATIENCE_S = 3600.0
MIN_ATTEMPT_S = 2.0
MAX_PAUSE_S = 4.0
"""Between two attempts: so soon after a server has come back the read that waits for it goes on."""

_R = TypeVar("_R")


class Retries:
    """Asks again while the fault is one that may pass. One for all reads of a disk, since they share its server.

    The second attempt is made at once, on a new connection: an idle one goes stale. The others come ever later, until
    ``patience_s`` is over. From then on the server is taken for away, and a read makes one attempt only, until one succeeds:
    whoever reads a thousand files does not wait a thousand times.
    """

    def __init__(self, *, patience_s: float, backoff_s: float) -> None:
        self._patience_s = patience_s
        self._backoff_s = backoff_s
        self._is_away = False

    def run(self, ask: Callable[[bool], _R]) -> _R:
        """``ask(fresh)``: on a fresh connection or on any. Raises what the last attempt raised."""
        if self._is_away:
            answer = ask(True)
        else:
            try:
                return ask(False)
            except ConnectionLost:
                answer = self._again(ask)
        self._is_away = False
        return answer

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


def attempt_s(timeout_s: float, patience_s: float) -> float:
    """How long one attempt may take: who has less patience than that does not want to wait for a server that hangs either."""
    return min(timeout_s, max(MIN_ATTEMPT_S, patience_s))


def patience_s() -> float:
    """What the environment says, or ``PATIENCE_S``. Raises Invalid."""
    text = os.environ.get(PATIENCE_VARIABLE)
    if text is None:
        return PATIENCE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_PATIENCE_S:
        raise Invalid(f"{PATIENCE_VARIABLE} is no time to wait", expected=f"0 to {MAX_PATIENCE_S:g} seconds", found=ascii(text))
    return seconds
