"""A disk into a new file: read ahead, hashed and written at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

from mntapi.blocks import Concat, Zero
from mntapi.errors import Invalid, Unsupported
from mntapi.export.batches import Batch, batches
from mntapi.export.digest import Digest
from mntapi.export.formats import Format, named
from mntapi.export.newfile import NewFile, new_file
from mntapi.export.writer import Target, Writer
from mntapi.types import Blocks
from mntapi.units import align_up

MAY_BE_EMPTY = ("raw", "qcow2")
"""Formats with disks of no bytes. The tables of the others have at least one entry."""


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What to write, and how. ``compression`` is for QCOW2: ``zlib`` or ``zstd``; streams are always compressed. ``readers``:
    threads that read the source; for one on a server ``batches.SERVER_READERS``."""

    format: str
    compression: str | None = None
    overwrite: bool = False
    sha256: bool = False
    readers: int = 1


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. ``sha256`` is that of the ``virtual_size`` bytes of the new disk, None if it was not asked for."""

    path: str
    format: str
    virtual_size: int
    bytes_written: int
    sha256: str | None


def convert(
    source: Blocks,
    path: str,
    options: ConvertOptions,
    *,
    originals: Iterable[str] = (),
    progress: Callable[[int], None] = lambda count: None,
) -> Converted:
    """Write what ``source`` holds to the new file ``path``.

    Args:
        source: a disk or a volume; it is only read, and only where its extents say DATA.
        path: the file to make.
        options: the format and how to write it.
        originals: paths of the source's files, for ``--overwrite`` to leave alone; those that are open are known anyway.
        progress: told how many more bytes of the disk are done, holes included.

    Raises:
        Invalid: no such format or compression.
        Denied: ``path`` is there already, or is a file of the source.
        NotFound: its folder is not there.
        Unsupported: the format cannot hold the disk.
        Failed: the system cannot write it.
        MntapiError: the source cannot be read. Nothing is left of the new file, whatever the error.
    """
    format_ = named(options.format)
    _check(source.size, format_, options)
    size = align_up(source.size, source.sector_size) if format_.whole_sectors else source.size
    disk = source if size == source.size else Concat([source, Zero(size - source.size, source.sector_size)])
    with new_file(path, overwrite=options.overwrite, originals=originals) as file:
        sha256 = _write(disk, file, format_, options, progress)
    return Converted(path, format_.name, size, file.written, sha256)


def _check(size: int, format_: Format, options: ConvertOptions) -> None:
    if size == 0 and format_.name not in MAY_BE_EMPTY:
        raise Unsupported(f"{format_.name} cannot hold a disk of 0 bytes", hint=f"possible: {', '.join(MAY_BE_EMPTY)}")
    if options.compression is not None and options.compression not in format_.compressions:
        raise Invalid(
            f"{format_.name} cannot be compressed with {options.compression}",
            hint="possible: " + ", ".join(format_.compressions) if format_.compressions else None,
        )


def _write(
    disk: Blocks, file: NewFile, format_: Format, options: ConvertOptions, progress: Callable[[int], None]
) -> str | None:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compress"))
        digest = stack.enter_context(Digest()) if options.sha256 else None
        writer = format_.load()(Target(file, disk.size, disk.sector_size, options.compression, pool))
        with closing(batches(disk, writer.unit, readers=options.readers)) as source:
            _pump(source, disk.size, writer, digest, progress)
        writer.finish()
        return digest.finish(disk.size) if digest else None


def _pump(source: Iterable[Batch], size: int, writer: Writer, digest: Digest | None, progress: Callable[[int], None]) -> None:
    done = 0
    for batch in source:
        hashing = digest.add(batch) if digest else None
        writer.write(batch)
        if hashing:
            hashing.result()
        progress(batch.end - done)
        done = batch.end
    progress(size - done)
