"""What does not work although the mount is there: its processes say so in their logs when it begins and when it is over.

A worker may open nothing, and nobody should have to ask it: looking at a mount whose server is gone is waiting for that server.
So ``ps`` reads the end of the logs, and what is known is what the last reads and writes met.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mntapi import health
from mntapi.session import journal
from mntapi.session.journal import Record

LOGS = ("worker.log", "dialer.log")
_MAX_TAIL = 64 * 1024
"""Bytes at the end of a log that are looked at."""
_LINE = re.compile(rf"\S+ \S+ WARNING {re.escape(health.__name__)}: (?P<topic>\w+): (?P<what>.*)")


def impairments(record: Record) -> list[str]:
    """What does not work of a mount, one line each, by the logs of its processes."""
    found: dict[tuple[str, str], str] = {}
    for name in LOGS:
        for line in _tail(journal.run_dir() / record.id / name).splitlines():
            match = _LINE.fullmatch(line)
            if match:
                found[name, match["topic"]] = match["what"]
    return [what for what in dict.fromkeys(found.values()) if what != health.OVER]


def _tail(path: Path) -> str:
    """The end of a log, "" if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.pread(fd, _MAX_TAIL, max(0, os.fstat(fd).st_size - _MAX_TAIL)).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)
