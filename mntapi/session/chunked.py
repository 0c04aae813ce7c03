"""A disk that an OVF has cut into files ``disk.vmdk.000000000``, ``.000000001`` ..., put together again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from mntapi.blocks import Concat
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.images.inside import Inside
from mntapi.machines import Chunks
from mntapi.types import FileBlocks, Opener

MAX_CHUNKS = 1000
"""Files of one disk; each is open, and a worker may have 8192 of all disks."""


def open_chunks(name: str, chunks: Chunks, machine: FileBlocks, opener: Opener) -> FileBlocks:
    """The file ``name`` that the machine file means, which is the owner of its chunks.

    Raises:
        NotFound: a chunk is missing.
        Corrupt: a chunk, or all together, are not of the size that the machine file says.
        Unsupported: there are too many.
    """
    with ExitStack() as undo:
        parts: list[FileBlocks] = []
        for part in _parts(name, chunks, machine, opener):
            undo.callback(part.close)
            parts.append(part)
        _check_sizes(parts, chunks)
        return Inside(Concat(parts), parts[0].path.removesuffix(_suffix(0)), 0, undo.pop_all().close)


def _parts(name: str, chunks: Chunks, machine: FileBlocks, opener: Opener) -> Iterator[FileBlocks]:
    """The chunks up to the last one: how many there are is told by the size, or else by which name is absent."""
    count = None if chunks.total is None else -(-chunks.total // chunks.size)
    for number in range(MAX_CHUNKS):
        if number == count:
            return
        try:
            part = opener.open(name + _suffix(number), relative_to=machine.path)
        except NotFound:
            if number and count is None and not _exists(name + _suffix(number + 1), machine, opener):
                return
            raise
        yield part
    if count != MAX_CHUNKS:
        raise Unsupported(f"{name!a} is cut into too many chunks", path=machine.path, expected=f"at most {MAX_CHUNKS}")


def _exists(name: str, machine: FileBlocks, opener: Opener) -> bool:
    try:
        opener.open(name, relative_to=machine.path).close()
    except NotFound:
        return False
    return True


def _check_sizes(parts: list[FileBlocks], chunks: Chunks) -> None:
    for part in parts[:-1]:
        if part.size != chunks.size:
            raise Corrupt(
                "this chunk has another size", path=part.path, expected=chunks.size, found=part.size, reason="chunk-size"
            )
    last = parts[-1]
    expected = None if chunks.total is None else chunks.total - chunks.size * (len(parts) - 1)
    if last.size > chunks.size or (expected is not None and last.size != expected):
        wanted = f"at most {chunks.size}" if expected is None else expected
        raise Corrupt("the last chunk has another size", path=last.path, expected=wanted, found=last.size, reason="chunk-size")


def _suffix(number: int) -> str:
    return f".{number:09}"
