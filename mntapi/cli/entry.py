"""Where the command starts. Nothing is imported here that takes time, so that an early Ctrl-C ends it silently."""

from __future__ import annotations

import re
import signal
import sys

_SECRET = re.compile(r"^(?:--key=)?.+?:recovery=(.+)$|^(?:[^/]*=)?https?://[^/@]*?:([^/@]+)@")


def main() -> None:
    """Entry point of the installed command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _hide_secrets()
    from mntapi.cli.main import run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())


def _hide_secrets() -> None:
    """Take passwords out of what other users see of the command line, before anything that takes time."""
    secrets = [found[1] or found[2] for found in map(_SECRET.search, sys.argv) if found]
    if secrets:
        from mntapi.kernel.arguments import overwrite

        for secret in secrets:
            overwrite(secret)


if __name__ == "__main__":
    main()
