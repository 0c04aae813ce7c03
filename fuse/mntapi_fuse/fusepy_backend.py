"""The same trees on libfuse, through mfusepy (the continuation of fusepy): the portable way, and the oracle for our own.

libfuse speaks paths, ``Operations`` node numbers, so this resolves and remembers paths. What it cannot do: tell holes
(SEEK_HOLE sees none), give the time of birth, go on after a worker died, and show an entry before its whole folder is read.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

from mntapi.blocks import read_clipped
from mntapi.errors import Failed, Unsupported
from mntapi.types import Node
from mntapi_fuse.handles import Files
from mntapi_fuse.operations import ROOT, Operations, errno_of
from mntapi_fuse.protocol import FOR_EVER_S, mode_of

CALLBACKS = 64
"""More than libfuse has operations."""

# mfusepy prefers libfuse 2 where both are installed, and that takes /dev/fd/N for a path, and mounts over it.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
try:
    import mfusepy
except (ImportError, OSError):  # OSError: mfusepy is here, libfuse is not
    mfusepy = None


def _reserve_callbacks() -> None:
    """Make libffi take the executable memory that its callbacks live in. It keeps it for the next ones, and a worker that is
    confined by the time it serves would get none."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int)
    reserved = [callback(int) for _ in range(CALLBACKS)]
    reserved.clear()


_reserve_callbacks()

MAX_PATHS = 16384
"""Paths whose node number is remembered."""

P = ParamSpec("P")
T = TypeVar("T")


def serve(
    fd: int,
    operations: Operations,
    *,
    threads: int = 16,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Like ``mntapi_fuse.server.serve``, on libfuse: answer on a ``/dev/fuse`` that is mounted already.

    Args:
        fd: the descriptor. libfuse closes it in the end.
        operations, on_ready: as there; ``on_ready`` is called when libfuse begins to serve.
        threads: 1, or as many as libfuse likes.

    Raises:
        Unsupported: there is no mfusepy or no libfuse here.
        Failed: libfuse ended with an error.
    """
    _run(operations, f"/dev/fd/{fd}", threads, on_ready, {})


def mount_and_serve(
    operations: Operations,
    mountpoint: str,
    *,
    threads: int = 16,
    on_ready: Callable[[], None] | None = None,
    allow_other: bool = False,
    fsname: str = "mntapi",
) -> None:
    """Let libfuse mount ``operations`` as well, through fusermount3 where that is needed. For the main thread only.

    Args:
        mountpoint: a folder.
        allow_other: let other users in; needs root, or ``user_allow_other`` in /etc/fuse.conf.
        fsname: the source that /proc/mounts shows.

    The rest, and what is raised, as in ``serve``.
    """
    options: Mapping[str, object] = {
        "allow_other": allow_other,
        "fsname": fsname,
        "subtype": "mntapi",
        "default_permissions": True,
    }
    _run(operations, mountpoint, threads, on_ready, {**options, "ro": True, "nosuid": True, "nodev": True, "noexec": True})


def _run(
    operations: Operations,
    mountpoint: str,
    threads: int,
    on_ready: Callable[[], None] | None,
    options: Mapping[str, object],
) -> None:
    if mfusepy is None or mfusepy.fuse_version_major != 3:
        raise Unsupported("libfuse 3 is not here", hint="apt install libfuse3-3; pip install mfusepy")
    paths = _Paths(operations, on_ready)
    keep: dict[str, object] = {
        "attr_timeout": FOR_EVER_S,
        "entry_timeout": FOR_EVER_S,
        "negative_timeout": FOR_EVER_S,
        "kernel_cache": True,
    }
    if mfusepy.fuse_version_minor >= 12:
        keep |= {"max_threads": threads, "max_idle_threads": threads}  # 3.14.0 confuses the two
    try:
        mfusepy.FUSE(paths, mountpoint, foreground=True, nothreads=threads == 1, use_ino=True, **keep, **options)
    except RuntimeError as error:
        raise Failed(f"libfuse ended with status {error}", path=mountpoint) from error
    finally:
        paths.close()


def _answered(method: Callable[P, T]) -> Callable[P, T]:
    """Raise what libfuse understands. This is the boundary of a FUSE operation for this backend."""

    @functools.wraps(method)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            raise OSError(errno_of(error, method.__name__), str(error)) from error

    return answer


class _Paths:
    """``Operations`` with the methods that mfusepy calls."""

    use_ns = True

    def __init__(self, operations: Operations, on_ready: Callable[[], None] | None) -> None:
        self._operations = operations
        self._files = Files(operations.open)
        self._numbers: dict[str, int] = {"/": ROOT}
        self._on_ready = on_ready

    def close(self) -> None:
        """Close the files that are still open."""
        self._files.close()

    def init(self, path: str) -> None:
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    @_answered
    def getattr(self, path: str, fh: int | None = None) -> Mapping[str, int]:
        node = self._operations.getattr(self._number(path)).node
        return {
            "st_mode": mode_of(node), "st_ino": node.inode, "st_nlink": node.links, "st_uid": node.uid, "st_gid": node.gid,
            "st_rdev": node.rdev, "st_size": node.size, "st_blocks": (node.allocated + 511) // 512, "st_blksize": 4096,
            "st_atime": node.atime_ns, "st_mtime": node.mtime_ns, "st_ctime": node.ctime_ns,
        }  # fmt: skip

    @_answered
    def readdir(self, path: str, fh: int) -> list[tuple[str, Mapping[str, int], int]]:
        itself = _brief(self._operations.getattr(self._number(path)).node)
        return [(".", itself, 0), ("..", itself, 0), *self._entries(path)]

    def _entries(self, path: str) -> Iterator[tuple[str, Mapping[str, int], int]]:
        for name, (_number, node, _is_lasting) in self._operations.readdir(self._number(path)):
            yield os.fsdecode(name), _brief(node), 0

    @_answered
    def readlink(self, path: str) -> str:
        return os.fsdecode(self._operations.readlink(self._number(path)))

    @_answered
    def open(self, path: str, flags: int) -> int:
        return self._files.open(self._number(path))

    @_answered
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        number = self._number(path)
        return read_clipped(self._files.get((number, fh)) or self._files.adopt(number, fh), offset, size)

    @_answered
    def release(self, path: str, fh: int) -> int:
        self._files.release(self._number(path), fh)
        return 0

    @_answered
    def statfs(self, path: str) -> Mapping[str, int]:
        capacity = self._operations.statfs()
        free = capacity.free or 0
        unit = max(1, capacity.block_size)
        return {
            "f_bsize": unit, "f_frsize": unit, "f_blocks": capacity.total // unit, "f_bfree": free // unit,
            "f_bavail": free // unit, "f_files": capacity.inodes, "f_ffree": capacity.inodes_free,
            "f_namemax": capacity.name_max,
        }  # fmt: skip

    @_answered
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        return self._operations.getxattr(self._number(path), os.fsencode(name))

    @_answered
    def listxattr(self, path: str) -> list[str]:
        return [os.fsdecode(name) for name in self._operations.listxattr(self._number(path))]

    def _number(self, path: str) -> int:
        """The node number of a path as libfuse gives it: absolute, without ``.``, ``..`` and doubled slashes."""
        number = self._numbers.get(path)
        if number is None:
            parent, _slash, name = path.rpartition("/")
            number = self._operations.lookup(self._number(parent or "/"), os.fsencode(name)).number
            if len(self._numbers) >= MAX_PATHS:
                self._numbers = {"/": ROOT}
            self._numbers[path] = number
        return number


def _brief(node: Node) -> Mapping[str, int]:
    """All that libfuse takes from an entry of a folder. ``st_ino`` must not be 0: readdir(3) drops such."""
    return {"st_mode": mode_of(node), "st_ino": node.inode}
