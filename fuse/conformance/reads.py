#!/usr/bin/env python3
"""Compare one file of a live mount with the same bytes elsewhere, read in every way there is.

    reads.py LIVE_FILE REFERENCE_FILE [--holes]

Odd offsets and lengths, across the end, past the end; ``dd iflag=direct``; mmap; eight processes at once; a copy by ``cp``
with its hole detection; and SEEK_DATA/SEEK_HOLE: every hole must read as zeros, and with ``--holes`` there must be one.
Prints what is wrong, exits 1 if anything is.
"""

from __future__ import annotations

import argparse
import errno
import mmap
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

READERS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("live")
    parser.add_argument("reference")
    parser.add_argument("--holes", action="store_true")
    arguments = parser.parse_args()
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("odd offsets", lambda: _odd_offsets(arguments.live, arguments.reference, 1)),
        ("the end", lambda: _end(arguments.live, arguments.reference)),
        ("dd iflag=direct", lambda: _direct(arguments.live, arguments.reference)),
        ("mmap", lambda: _mapped(arguments.live, arguments.reference)),
        ("parallel readers", lambda: _parallel(arguments.live, arguments.reference)),
        ("holes", lambda: _holes(arguments.live, arguments.reference, arguments.holes)),
        ("cp", lambda: _copied(arguments.live, arguments.reference)),
    ]
    wrong = [name for name, check in checks if not check()]
    print("\n".join(f"wrong: {name}" for name in wrong) or "same")
    return 1 if wrong else 0


def _ranges(size: int, seed: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(seed)
    for _ in range(300):
        length = rng.choice((1, 3, 511, 512, 513, 4095, 4096, 4097, 65537, 300_001))
        yield rng.randrange(size + 1), length


def _odd_offsets(live: str, reference: str, seed: int) -> bool:
    with open(live, "rb", buffering=0) as one, open(reference, "rb", buffering=0) as other:
        ranges = list(_ranges(os.fstat(other.fileno()).st_size, seed))
        return all(os.pread(one.fileno(), n, at) == os.pread(other.fileno(), n, at) for at, n in ranges)


def _end(live: str, reference: str) -> bool:
    size = os.stat(reference).st_size
    with open(live, "rb", buffering=0) as file:
        past = [os.pread(file.fileno(), 4096, at) for at in (size, size + 1, size + 4096, size + (1 << 40))]
    return os.stat(live).st_size == size and past == [b""] * 4


def _direct(live: str, reference: str) -> bool:
    for block in ("4k", "64k", "1M"):
        command = ["dd", f"if={live}", f"bs={block}", "iflag=direct", "status=none"]
        dd = subprocess.Popen(command, stdout=subprocess.PIPE)
        same = subprocess.run(["cmp", "-", reference], stdin=dd.stdout).returncode == 0
        assert dd.stdout is not None
        dd.stdout.close()
        if dd.wait() or not same:
            return False
    return True


def _mapped(live: str, reference: str) -> bool:
    with open(live, "rb") as one, open(reference, "rb") as other:
        if not os.fstat(other.fileno()).st_size:
            return True
        view = mmap.mmap(one.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        return all(
            view[at : at + 1_000_003] == os.pread(other.fileno(), 1_000_003, at) for at in range(0, len(view), 1_000_003)
        )


def _parallel(live: str, reference: str) -> bool:
    children = []
    for seed in range(READERS):
        child = os.fork()
        if child == 0:
            os._exit(0 if _odd_offsets(live, reference, seed) else 1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


def _holes(live: str, reference: str, expected: bool) -> bool:
    holes = list(_found_holes(live))
    with open(reference, "rb", buffering=0) as file:
        for start, end in holes:
            for at in range(start, end, 1 << 20):
                content = os.pread(file.fileno(), min(1 << 20, end - at), at)
                if content.count(0) != len(content):
                    return False
    return bool(holes) or not expected


def _found_holes(path: str) -> Iterator[tuple[int, int]]:
    """The holes a reader finds, ends exclusive."""
    with open(path, "rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            if data > at:
                yield at, data
            at = os.lseek(file.fileno(), data, os.SEEK_HOLE) if data < size else size


def _copied(live: str, reference: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy")
        subprocess.run(["cp", "--sparse=auto", live, copy], check=True)
        return subprocess.run(["cmp", copy, reference]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
