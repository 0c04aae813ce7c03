"""Reading all of a disk to find what cannot be read, and comparing it with the hash that its container has of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice

from mntapi.errors import MntapiError
from mntapi.images.checking.fault import Fault
from mntapi.types import Blocks, Extent, ExtentKind, Image
from mntapi.units import KIB, MIB, TIB

CHUNK = MIB
"""Bytes that are read at once."""
PIECE = 64 * KIB
"""Bytes that are read at once where a chunk cannot be read, each of them a fault of its own."""
WINDOW = TIB
"""Bytes of a disk whose extents are asked for at once,"""
MAX_EXTENTS = 4096
"""and how many of them are kept at once."""


def content_faults(image: Image, progress: Callable[[int, int], None] | None = None) -> Iterator[Fault]:
    """Read all that is not known to be zeros. ``progress`` is told how many bytes of how many are done."""
    digest = _digest(image)
    is_whole = True
    buffer = memoryview(bytearray(CHUNK))
    for offset, length, kind in _extents(image.blocks):
        if kind is ExtentKind.ZERO and digest is None:
            continue
        for at in range(offset, offset + length, CHUNK):
            part = buffer[: min(CHUNK, offset + length - at)]
            for fault in _read(image, at, part):
                is_whole = False
                yield fault
            if digest is not None:
                digest[1].update(part)
            if progress is not None:
                progress(at + len(part), image.blocks.size)
    if digest is not None and is_whole and digest[1].hexdigest() != digest[2]:
        what = f"the {digest[0]} of the disk is not the one noted: expected {digest[2]}, found {digest[1].hexdigest()}"
        yield Fault(image.path, None, what)


def _digest(image: Image) -> tuple[str, hashlib._Hash, str] | None:
    """The strongest hash the container has of the disk: its name, one to feed, and what should come out."""
    if image.format != "ewf":
        return None
    from mntapi.images.ewf import EwfDisk

    hashes = image.blocks.hashes if isinstance(image.blocks, EwfDisk) else {}
    for name in ("sha1", "md5"):
        if name in hashes:
            return name, hashlib.new(name, usedforsecurity=False), hashes[name].lower()
    return None


def _extents(blocks: Blocks) -> Iterator[Extent]:
    """The extents of the disk; where they cannot be had, a piece that is to be read, which says why."""
    offset, step = 0, WINDOW
    while offset < blocks.size:
        length = min(step, blocks.size - offset)
        try:
            found = list(islice(blocks.extents(offset, length), MAX_EXTENTS))
        except MntapiError:
            if step > CHUNK:
                step //= 4
                continue
            found = [Extent(offset, length, ExtentKind.DATA)]
        yield from found
        offset = found[-1].end
        step = min(WINDOW, step * 4)


def _read(image: Image, offset: int, buffer: memoryview) -> Iterator[Fault]:
    """Fill ``buffer``; faults of the pieces that cannot be read."""
    try:
        image.blocks.readinto(offset, buffer)
    except MntapiError as error:
        if len(buffer) <= PIECE:
            yield Fault.of(error, image.path)
            return
        for start in range(0, len(buffer), PIECE):
            yield from _read(image, offset + start, buffer[start : start + PIECE])
