#!/usr/bin/env python3
"""Compare a live mount with another mount of the same file system, by the programs people use.

    trees.py LIVE REFERENCE [--ignore FIELD]...

``find`` lists names, types, permissions, owners, sizes, link counts, inode numbers, times to the nanosecond, device numbers and
link targets; ``sha256sum`` reads every file; extended attributes are read one by one. Prints the differences, exits 1 if any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import islice

FIELDS = {
    "type": "%y", "mode": "%m", "user": "%U", "group": "%G", "size": "%s", "links": "%n", "inode": "%i", "mtime": "%T@",
    "ctime": "%C@", "blocks": "%b", "target": "%l",
}  # fmt: skip
OURS = "user.mntapi."
"""Attributes we add, which no other mount has."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("live")
    parser.add_argument("reference")
    parser.add_argument("--ignore", action="append", default=[], choices=[*FIELDS, "xattrs", "sha256", "rdev"])
    arguments = parser.parse_args()
    live, reference, ignored = os.fsencode(arguments.live), os.fsencode(arguments.reference), set(arguments.ignore)
    fields = {name: word for name, word in FIELDS.items() if name not in ignored}
    differences = list(islice(_differences(_found(live, fields), _found(reference, fields), "find"), 50))
    if "sha256" not in ignored:
        differences += islice(_differences(_hashes(live), _hashes(reference), "sha256sum"), 50)
    for name, read in (("xattrs", _xattrs), ("rdev", _device)):
        if name not in ignored:
            differences += islice(_differences(_each(live, read), _each(reference, read), name), 50)
    print("\n".join(differences) or "same")
    return 1 if differences else 0


def _found(top: bytes, fields: Mapping[str, str]) -> dict[bytes, object]:
    """Path below ``top`` -> what find says of it."""
    words = "\\t".join(["%P", *fields.values()]) + "\\0"
    output = subprocess.run([b"find", top, b"-printf", words.encode()], check=True, stdout=subprocess.PIPE).stdout
    records = [record.rsplit(b"\t", len(fields)) for record in output.split(b"\0") if record]
    return {path: dict(zip(fields, values, strict=True)) for path, *values in records}


def _hashes(top: bytes) -> dict[bytes, object]:
    """``./path`` -> SHA-256."""
    script = "find . -type f -print0 | sort -z | xargs -0 -r sha256sum -z"
    output = subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=top, check=True, stdout=subprocess.PIPE).stdout
    return {record[66:]: record[:64] for record in output.split(b"\0") if record}


def _each(top: bytes, read: object) -> dict[bytes, object]:
    assert callable(read)
    return {os.path.relpath(path, top): read(path) for path in _walk(top)}


def _walk(top: bytes) -> Iterator[bytes]:
    yield top
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            yield os.path.join(folder, name)


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(OURS)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _device(path: bytes) -> int:
    return os.lstat(path).st_rdev


def _differences(live: Mapping[bytes, object], reference: Mapping[bytes, object], what: str) -> Iterator[str]:
    for path in sorted(live.keys() | reference.keys()):
        if live.get(path) != reference.get(path):
            yield f"{what} {path!r}: live {live.get(path)}, reference {reference.get(path)}"


if __name__ == "__main__":
    sys.exit(main())
