"""Reads everything of damaged images, in a process of its own: python hostile_walk.py KIND [SEED COUNT] < list of images.

Prints one line per image (names found, errors met, seconds) and fails on whatever is not an error of ours. Run it with a
limit on time, because pytsk3 is C; it limits its own memory. With SEED and COUNT each image is also read COUNT times with
bytes changed at random.
"""

from __future__ import annotations

import collections
import gzip
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mntapi.blocks import check_range, read, whole
from mntapi.errors import MntapiError
from mntapi.filesystems.readers import open_filesystem
from mntapi.types import Extent, ExtentKind, FileKind, FileSystem, Node, Signature, Usage

MEMORY = 768 << 20
MAX_OPENED = 500
"""Files of one image that are opened; the names are all read."""


class Held:
    """An image in memory."""

    sector_size = 512

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content
        self.size = len(content)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        """Nothing to release."""


def read_all(content: bytes | bytearray, kind: str) -> collections.Counter[str]:
    """Everything there is to read; how often what was met."""
    met: collections.Counter[str] = collections.Counter()
    try:
        fs = open_filesystem(Held(content), Signature(kind, Usage.FILESYSTEM))
    except MntapiError as error:
        met[f"cannot be opened: {error}"] += 1
        return met
    todo, seen = [fs.root], {fs.root.inode}
    while todo:
        try:
            for _, node in fs.scan(todo.pop()):
                met[node.kind] += 1
                met.update(_touch(fs, node, met["opened"]))
                if node.kind is FileKind.DIRECTORY and node.inode not in seen and node.reason is None:
                    seen.add(node.inode)
                    todo.append(node)
        except MntapiError as error:
            met[error.what] += 1
    fs.close()
    return met


def _touch(fs: FileSystem, node: Node, opened: int) -> collections.Counter[str]:
    met: collections.Counter[str] = collections.Counter()
    try:
        fs.xattrs(node)
        if node.kind is FileKind.SYMLINK:
            fs.readlink(node)
        elif node.kind is FileKind.FILE and opened < MAX_OPENED:
            met["opened"] += 1
            content = fs.open(node)
            for offset in (0, content.size // 2, max(0, content.size - 4096)):
                read(content, offset, min(4096, content.size - offset))
    except MntapiError as error:
        met[error.what] += 1
    return met


def damaged(content: bytes, rng: random.Random) -> bytearray:
    """The image with some bytes changed, mostly where it holds anything."""
    result = bytearray(content)
    used = [at for at in range(0, len(content), 512) if content[at : at + 512].count(0) < 512] or [0]
    for _ in range(rng.choice((1, 3, 10, 40))):
        at = rng.choice(used) + rng.randrange(512)
        if at < len(result):
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return result


def main(kind: str, seed: int = 0, count: int = 0) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for path in map(Path, sys.stdin.read().split("\n")):
        if not path.name:
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for index in range(count + 1):
            variant = damaged(content, random.Random(seed + index)) if index else content
            print(path, index, end=" ", flush=True)
            start = time.monotonic()
            met = read_all(variant, kind)
            print(f"{time.monotonic() - start:.2f} s", dict(met), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
