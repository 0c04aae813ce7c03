"""The command line as other users see it: /proc/PID/cmdline shows a process's own memory, which it may overwrite.

Source: proc(5), /proc/pid/stat fields 48 and 49, /proc/pid/mem.
"""

from __future__ import annotations

import os
import sys

_ARG_START = 48 - 3
"""Fields of /proc/pid/stat are counted from 1, and what is looked at begins with the third."""


def hide_argument(secret: str) -> bool:
    """Overwrite ``secret`` with asterisks wherever it is in the arguments that this process was started with.

    Returns whether nobody sees it there any more. Until now it was to be seen, by those who looked.
    """
    for arguments in (sys.argv, sys.orig_argv):
        arguments[:] = [argument.replace(secret, "*" * len(secret)) for argument in arguments]
    return overwrite(secret)


def overwrite(secret: str) -> bool:
    """The same in what others see only: ``sys.argv`` still has it."""
    content = os.fsencode(secret)
    try:
        start, end = _place()
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            region = os.pread(memory.fileno(), end - start, start)
            os.pwrite(memory.fileno(), region.replace(content, b"*" * len(content)), start)
        with open("/proc/self/cmdline", "rb") as file:
            return content not in file.read()
    except OSError:
        return False  # no /proc, or one that does not let us


def _place() -> tuple[int, int]:
    """First byte of the arguments in memory, and the one after the last."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[_ARG_START]), int(fields[_ARG_START + 1])
