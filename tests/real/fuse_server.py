"""Serves a mount in a process of its own, for tests: the process that looks at a mount must not be the one that answers.

``python fuse_server.py '{"fd": 3, "tree": {"host": "/some/folder"}, ...}'``. Writes to the descriptor ``status``: ``R`` when
ready, ``r`` when a read reaches the gate, where it waits for a byte from the descriptor ``gate``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from contract.memory_filesystem import MemoryFileSystem
from mntapi.blocks import Fault, HostFile, Slice
from mntapi.kernel.sandbox import confine
from mntapi.types import Blocks, Extent
from mntapi_fuse import server
from mntapi_fuse.blockfs import BlockFs
from mntapi_fuse.operations import Operations
from mntapi_fuse.treefs import TreeFs
from real.fuse_trees import HostTree, ManyFiles

HOSTILE = {
    "good": b"fine",
    "../../etc/passwd": b"slash",
    "nul\0here": b"nul",
    "": b"empty",
    ".": b"dot",
    "..": b"dots",
    "x" * 2000: b"long",
    "half \ud800": b"surrogate",
    "y" * 1024: b"just fits",
    "secret": b"encrypted",
    "empty link": "",
    "nul link": "a\0b",
    "long link": "z" * 5000,
    "unreadable": {"first": b"1", "second": b"2", "<unreadable>": b"", "last": b"3"},
}
"""What a damaged disk may name its files."""


class Through:
    """``inner``, with something done before each read."""

    def __init__(self, inner: Blocks, before: Callable[[], object]) -> None:
        self._inner, self._before = inner, before
        self.size, self.sector_size = inner.size, inner.sector_size

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._before()
        self._inner.readinto(offset, buffer)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._inner.extents(offset, length)

    def close(self) -> None:
        self._inner.close()


def operations(spec: dict[str, Any]) -> Operations:
    tree = spec["tree"]
    if "host" in tree:
        return TreeFs(HostTree(tree["host"]))
    if "memory" in tree:
        return TreeFs(MemoryFileSystem(HOSTILE, metadata={"secret": {"reason": "efs"}}))
    if "many" in tree:
        return TreeFs(ManyFiles(tree["many"]))
    disk = HostFile.open(tree["disk"])
    files: dict[str, Blocks] = {"disk0": disk, "bad": Fault(disk, bad=[tuple(one) for one in tree.get("bad", ())])}
    files["buggy"] = Through(disk, lambda: 1 // 0)
    files["gated"] = Through(
        disk, lambda: (os.write(spec["status"], b"r"), os.read(spec["gate"], 1)) if "gate" in spec else None
    )
    return BlockFs({"disks": files, "volumes": {"disk0p1": Slice(disk, 512, 1000)}})


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    spec = json.loads(sys.argv[1])
    options: dict[str, Any] = {"threads": spec.get("threads", 16), "on_ready": lambda: os.write(spec["status"], b"R")}
    if spec["backend"] == "fusepy":
        from mntapi_fuse import fusepy_backend

        tree = operations(spec)
        if "confined" in spec:
            confine(memory_limit=1 << 30)
        if "mountpoint" in spec:
            fusepy_backend.mount_and_serve(tree, spec["mountpoint"], **options)
        else:
            fusepy_backend.serve(spec["fd"], tree, **options)
    else:
        server.serve(spec["fd"], operations(spec), resume=spec.get("resume", False), **options)


if __name__ == "__main__":
    main()
