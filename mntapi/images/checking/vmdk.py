"""VMDK: the descriptor against the files it names, then every sparse extent among them.

Source: as in ``mntapi.images.vmdk``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError, NotFound
from mntapi.images.checking.fault import Fault
from mntapi.images.checking.vmdk_sparse import sparse_faults
from mntapi.images.formats import Chain
from mntapi.images.vmdk import headers
from mntapi.images.vmdk.descriptor import MAX_DESCRIPTOR, Descriptor, ExtentLine, parse
from mntapi.images.vmdk.extents import FLAT_KINDS, SPARSE_KINDS
from mntapi.types import FileBlocks


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one link: a descriptor and its extents, or one extent. Raises what its parsers raise."""
    magic = read_clipped(file, 0, 8)
    if magic.startswith((headers.COWD_MAGIC, headers.SESPARSE_MAGIC)):
        yield from sparse_faults(file, None)
    elif not magic.startswith(headers.HOSTED_MAGIC):
        yield from _extent_faults(parse(read_clipped(file, 0, MAX_DESCRIPTOR + 1), file.path), file, chain)
    else:
        yield from _hosted_faults(file, chain)


def _hosted_faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """A sparse extent, which may have its descriptor inside."""
    header = headers.parse_hosted(read_clipped(file, 0, headers.HOSTED_SIZE), file.path)
    raw = read_clipped(file, header.descriptor, min(header.descriptor_size, MAX_DESCRIPTOR)).rstrip(b"\0")
    descriptor = None
    if header.descriptor and raw:
        try:
            descriptor = parse(raw, file.path)
        except MntapiError as error:
            yield Fault.of(error, file.path)
    if descriptor is not None and header.size == 0:
        yield from _extent_faults(descriptor, file, chain)
    else:
        yield from sparse_faults(file, sum(line.size for line in descriptor.extents) if descriptor else None)


def _extent_faults(descriptor: Descriptor, file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """Each file once, however many lines name it."""
    sparse: dict[tuple[str, int], None] = {}
    flat: dict[str, list[ExtentLine]] = {}
    for line in descriptor.extents:
        if line.name is None or line.access == "NOACCESS":
            continue
        if line.kind in SPARSE_KINDS:
            sparse[line.name, line.size] = None
        elif line.kind in FLAT_KINDS:
            flat.setdefault(line.name, []).append(line)
    for name, lines in flat.items():
        yield from _with_file(name, file, chain, lines)
    for name, size in sparse:
        yield from _with_file(name, file, chain, size)


def _with_file(name: str, file: FileBlocks, chain: Chain, wanted: int | list[ExtentLine]) -> Iterator[Fault]:
    """The faults of an extent's file; that it cannot be opened or makes no sense is one of them."""
    try:
        extent = chain.open_file(name, file)
    except NotFound as error:
        yield Fault(file.path, None, f"its extent {name!a} is missing: found no file {error.path}")
        return
    except MntapiError as error:
        yield Fault.of(error, file.path)
        return
    try:
        if isinstance(wanted, int):
            yield from sparse_faults(extent, wanted)
        else:
            yield from _flat_faults(wanted, extent)
    except MntapiError as error:
        yield Fault.of(error, extent.path)
    finally:
        extent.close()


def _flat_faults(lines: list[ExtentLine], file: FileBlocks) -> Iterator[Fault]:
    before = 0
    for line in sorted(lines, key=lambda line: line.start):
        end = line.start + line.size
        if end > file.size:
            yield Fault(file.path, file.size, f"the extent is cut off: it ends at {end}, the file at {file.size}")
        if line.start < before:
            yield Fault(file.path, line.start, "two extents of the descriptor lie over each other here")
        before = max(before, end)
