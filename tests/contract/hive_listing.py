"""Sample hives, and everything in a hive as one number: so programs that read hives can be compared, and what they agreed on be
kept."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mntapi.guests.windows.regf import Hive

IMAGES = Path(__file__).parents[3] / "shared/images"
_COLLECTIONS = ("regipy", "dissect.regf", "EZ-Registry", "yarp")


def sample_hives() -> Iterator[tuple[str, bytes]]:
    """Every hive among the images, by its path there; damaged ones are there, too."""
    for path in sorted(one for name in _COLLECTIONS for one in (IMAGES / name).rglob("*") if one.is_file()):
        unpack = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)
        if path.suffix in (".xz", ".gz", "") and (raw := unpack(path.read_bytes())).startswith(b"regf"):
            yield str(path.relative_to(IMAGES)), raw


class Listing(NamedTuple):
    """How many keys and values, and a SHA-256 of all of them in the order of the hive's lists."""

    keys: int
    values: int
    sha256: str


class Lines:
    """Makes a ``Listing``; scripts/images/hives.py does the same with what other programs read."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._keys = self._values = 0

    def key(self, depth: int, name: str, written: int) -> None:
        self._keys += 1
        self._sum.update(f"{depth} {name!a} {written}\n".encode())

    def value(self, name: str, kind: int, data: bytes) -> None:
        self._values += 1
        self._sum.update(f"= {name!a} {kind} {len(data)} {hashlib.sha256(data).hexdigest()}\n".encode())

    def listing(self) -> Listing:
        return Listing(self._keys, self._values, self._sum.hexdigest())


def listing_of(hive: Hive) -> Listing:
    """The whole hive as we read it; it was opened with a limit that is large enough."""
    lines = Lines()
    todo = [(0, hive.root)]
    while todo:
        depth, key = todo.pop()
        lines.key(depth, key.name, key.node.written)
        for value in key.values():
            lines.value(value.name, value.kind, value.data(1 << 32))
        todo += [(depth + 1, below) for below in reversed(list(key.subkeys()))]
    return lines.listing()
