"""Blocks of 4 KiB, as many as the argument says. Each begins with its number, so that one in the wrong place shows; the rest is
zeros, so that it compresses."""

import sys

for number in range(1, int(sys.argv[1]) + 1):
    sys.stdout.buffer.write((b"%08x" % number).ljust(4096, b"\0"))
