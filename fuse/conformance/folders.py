#!/usr/bin/env python3
"""Read one large folder of a live mount in every order.

    folders.py LIVE_FOLDER COUNT

All at once, by ``ls`` and ``find``, by four readers at a time, interleaved, from places remembered with telldir(3) in reverse
order, and every name once more by ``stat`` after the kernel forgot it. Prints what is wrong, exits 1 if anything is.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SAMPLE = 200
SEEKS = 5
READERS = 4


class _Dirent(ctypes.Structure):
    """``struct dirent`` of glibc on 64-bit Linux."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 1025),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    folder, count = arguments.folder, arguments.count
    names = os.listdir(folder)
    checks: list[tuple[str, Callable[[], bool]]] = [
        ("every name once", lambda: len(names) == len(set(names)) == count),
        ("a second time", lambda: os.listdir(folder) == names),
        ("ls", lambda: _lines("ls", "-U", folder) == count),
        ("find", lambda: _lines("find", folder, "-mindepth", "1", "-printf", "%i %s\\n") == count),
        ("many readers", lambda: _many(folder, names)),
        ("interleaved", lambda: _interleaved(folder, names)),
        ("seekdir", lambda: _seek(folder, names)),
        ("stat", lambda: _stat(folder, names)),
    ]
    wrong = [name for name, check in checks if not check()]
    print("\n".join(f"wrong: {name}" for name in wrong) or "same")
    return 1 if wrong else 0


def _lines(*command: str) -> int:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.count(b"\n")


def _many(folder: str, names: list[str]) -> bool:
    with ThreadPoolExecutor(READERS) as pool:
        return all(found == names for found in pool.map(os.listdir, [folder] * READERS))


def _interleaved(folder: str, names: list[str]) -> bool:
    """Two readers, one far ahead of the other."""
    with os.scandir(folder) as first, os.scandir(folder) as second:
        ahead = [entry.name for _, entry in zip(range(len(names) // 2), first, strict=False)]
        found = []
        for entry in second:
            found.append(entry.name)
            if (other := next(first, None)) is not None:
                ahead.append(other.name)
    return found == names and ahead == names


def _seek(folder: str, names: list[str]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    libc.telldir.argtypes = libc.closedir.argtypes = libc.readdir.argtypes = (ctypes.c_void_p,)
    libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
    stream = libc.opendir(os.fsencode(folder))
    places = []
    while True:
        place, entry = libc.telldir(stream), libc.readdir(stream)
        if not entry:
            break
        places.append((place, _name(entry)))
    rng = random.Random(1)
    same = True
    for place, name in sorted(rng.sample(places, min(SEEKS, len(places))), reverse=True):
        libc.seekdir(stream, place)
        same &= _name(libc.readdir(stream)) == name
    libc.closedir(stream)
    return same and sorted(name for _place, name in places) == sorted([b".", b"..", *map(os.fsencode, names)])


def _name(entry: int) -> bytes:
    return ctypes.string_at(entry + _Dirent.d_name.offset)


def _stat(folder: str, names: list[str]) -> bool:
    """``stat`` of some names, the kernel's memory of them dropped first where that is allowed."""
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("2")
    chosen = random.Random(2).sample(names, min(SAMPLE, len(names)))
    return all(os.lstat(os.path.join(folder, name)).st_ino for name in chosen)


if __name__ == "__main__":
    sys.exit(main())
