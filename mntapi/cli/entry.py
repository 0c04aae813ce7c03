"""Where the command starts. Nothing is imported here that takes time, so that an early Ctrl-C ends it silently."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress

_SECRET = re.compile(r"^(?:--key=)?.+?:recovery=(.+)$|^(?:[^/]*=)?https?://[^/@]*?:([^/@]+)@")


def main() -> None:
    """Entry point of the installed command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    _hide_secrets()
    from mntapi.cli.main import INTERRUPTED, run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run()
    if code == INTERRUPTED:
        # CPython would end by SIGINT after all where Ctrl-C came while a module was imported, although it was handled.
        with suppress(OSError):  # its reader was interrupted too
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Replace those that the caller closed, as services and cron jobs do: a disk must not become descriptor 1, and every
    ``print`` needs a stream. What is said to nobody is dropped; a listing that nobody gets fails, as on a full disk."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:  # the lowest descriptor that is free is its own, these being opened in turn
            fd = os.open(os.devnull, flags)
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as the process lives)


def _hide_secrets() -> None:
    """Take passwords out of what other users see of the command line, before anything that takes time."""
    secrets = [found[1] or found[2] for found in map(_SECRET.search, sys.argv) if found]
    if secrets:
        from mntapi.kernel.arguments import overwrite

        for secret in secrets:
            overwrite(secret)


if __name__ == "__main__":
    main()
