"""Where the command starts. Nothing is imported here that takes time, so that an early Ctrl-C ends it silently."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Entry point of the installed command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mntapi.cli.main import run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())


if __name__ == "__main__":
    main()
