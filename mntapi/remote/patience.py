"""How long a server that does not answer is waited for, and telling who waits."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mntapi.errors import Invalid

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long opening a disk may take, and how long after its first failure a read is tried again, unless the environment says
otherwise."""
PATIENCE_VARIABLE = "MNTAPI_SERVER_PATIENCE"
"""Seconds to take instead; 0: at most one attempt on a new connection."""
MAX_PATIENCE_S = 3600.0
MIN_ATTEMPT_S = 2.0
NOTICE_S = 3.0
"""Whoever waits longer for a disk to open is told for what."""


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


def attempt_s(timeout_s: float, patience_s: float) -> float:
    """How long one attempt may take: who has less patience than that does not want to wait for a server that hangs either."""
    return min(timeout_s, max(MIN_ATTEMPT_S, patience_s))


@contextmanager
def told(waits: str) -> Iterator[None]:
    """Say once, as a warning of this module, who is waited for, if what is done here takes a while.

    Without a handler for it, Python's ``logging`` writes the line to standard error.
    """
    notice = threading.Timer(NOTICE_S, log.warning, ("note: %s", waits))
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def waiting(server: str, at_most_s: float) -> str:
    """That a server is waited for, and how long at most."""
    return f"waiting for {server}, at most {at_most_s:.3g} s"
