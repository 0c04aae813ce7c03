"""From a line of the descriptor to a layer: what kind of extent it is, which file, and whether the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Denied, NotFound, Unsupported
from mntapi.images.formats import Chain
from mntapi.images.vmdk import headers
from mntapi.images.vmdk.descriptor import Descriptor, ExtentLine
from mntapi.images.vmdk.grains import (
    ABSENT,
    FARTHEST,
    UNKNOWN,
    ZEROED,
    GrainMap,
    GrainTables,
    Layout,
    SparseExtent,
    without_zeroed,
)
from mntapi.images.vmdk.runs import ZEROS, Joined, Layer, Refused, Single
from mntapi.images.vmdk.stream import Inflated, WalkedMap, find_footer
from mntapi.types import FileBlocks
from mntapi.units import SECTOR

FLAT_KINDS = ("FLAT", "VMFS")
SPARSE_KINDS = ("SPARSE", "VMFSSPARSE", "SESPARSE")
RAW_DEVICE_KINDS = ("VMFSRDM", "VMFSRDMP", "VMFSRAW", "VMFSPASSTHROUGHRAWDEVICEMAP")


def open_extents(descriptor: Descriptor, file: FileBlocks, chain: Chain, resources: ExitStack) -> Layer:
    """All extents of a descriptor, end to end. ``resources`` closes the files they are in.

    Raises:
        NotFound, Denied: a file is missing or may not be opened.
        Corrupt, Unsupported: an extent cannot be what the descriptor says.
    """
    opened: dict[str, FileBlocks] = {}
    sparse: dict[tuple[str, int], Layer] = {}
    parts: list[Layer] = []
    for line in descriptor.extents:
        if line.access == "NOACCESS" or line.kind == "ZERO":
            parts.append(_without_file(line, file.path))
            continue
        extent_file = _extent_file(line, file, chain, opened, resources)
        if line.kind in SPARSE_KINDS:
            key = (extent_file.path, line.size)
            if key not in sparse:
                sparse[key] = _described_sparse(line, extent_file)
            parts.append(sparse[key])
        else:
            parts.append(_flat(line, extent_file))
    return parts[0] if len(parts) == 1 else Joined(parts)


def _without_file(line: ExtentLine, path: str) -> Layer:
    if line.access == "NOACCESS":
        return Single(Refused(lambda _: Denied("the extent is marked NOACCESS", path=path, reason="noaccess")), 0, line.size)
    return Single(ZEROS, 0, line.size)


def _extent_file(
    line: ExtentLine, file: FileBlocks, chain: Chain, opened: dict[str, FileBlocks], resources: ExitStack
) -> FileBlocks:
    """The file of an extent; partitions of one device share it."""
    if line.kind not in FLAT_KINDS + SPARSE_KINDS + RAW_DEVICE_KINDS:
        raise Unsupported(f"an extent of unknown kind {line.kind}", path=file.path, reason="extent-kind")
    if line.name is None:
        raise Corrupt(f"an extent of kind {line.kind} names no file", path=file.path, reason="descriptor-damaged")
    if line.name in opened:
        return opened[line.name]
    try:
        extent_file = chain.open_file(line.name, file)
    except NotFound as error:
        if line.kind in RAW_DEVICE_KINDS:
            raise _raw_device(line, file.path) from error
        raise NotFound(
            f"its extent {line.name!a} is missing", path=file.path, found=f"no file {error.path}", reason="extent-missing"
        ) from error
    opened[line.name] = extent_file
    resources.callback(extent_file.close)
    if line.kind in RAW_DEVICE_KINDS and extent_file.size < line.size:
        raise _raw_device(line, file.path)
    return extent_file


def _raw_device(line: ExtentLine, path: str) -> Unsupported:
    return Unsupported(
        f"the disk is a raw device mapping, and {line.name!a} does not hold the device",
        path=path,
        hint="open the device itself, or ask for the disk's content over the network",
        reason="rdm",
    )


def _flat(line: ExtentLine, file: FileBlocks) -> Layer:
    """Part of a file as it is; what the file has lost of it is refused when it is read."""
    inside = min(line.size, max(0, file.size - line.start))
    if inside == line.size:
        return Single(file, line.start, line.size)
    lost = Refused(
        lambda offset: Corrupt(
            "the extent is cut off",
            path=file.path,
            offset=offset,
            expected=f"a file of {line.start + line.size} bytes",
            found=f"{file.size} bytes",
            reason="truncated",
        )
    )
    missing = Single(lost, line.start + inside, line.size - inside)
    return Joined([Single(file, line.start, inside), missing]) if inside else missing


def _described_sparse(line: ExtentLine, file: FileBlocks) -> Layer:
    """A sparse extent, as long as its descriptor says; its own capacity may be rounded up, never less."""
    layer = open_sparse(file)
    return clipped(layer, line.size, file.path)


def clipped(layer: SparseExtent, size: int, path: str) -> Layer:
    """The first ``size`` bytes of an extent. Raises Corrupt if it has fewer."""
    if layer.size < size:
        raise Corrupt(
            "the extent is smaller than its descriptor says", path=path, offset=12, expected=f"{size} bytes", found=layer.size
        )
    return layer if layer.size == size else Clipped(layer, size)


class Clipped:
    """The first ``size`` bytes of a layer."""

    def __init__(self, layer: Layer, size: int) -> None:
        self.size = size
        self.unit = layer.unit
        self.runs = layer.runs


def open_sparse(file: FileBlocks) -> SparseExtent:
    """A sparse extent of any kind, by its magic.

    Raises:
        Corrupt: it is none, or its numbers contradict each other or the file's size.
        Unsupported: a version we do not know.
    """
    magic = read_clipped(file, 0, 8)
    for start, open_ in _KINDS:
        if magic.startswith(start):
            return open_(file)
    raise Corrupt(
        "not a sparse extent",
        path=file.path,
        offset=0,
        expected=" or ".join(repr(start) for start, _ in _KINDS),
        found=magic,
        reason="bad-magic",
    )


def _open_hosted(file: FileBlocks) -> SparseExtent:
    return hosted(file, headers.parse_hosted(read_clipped(file, 0, headers.HOSTED_SIZE), file.path))


def hosted(file: FileBlocks, header: headers.HostedHeader) -> SparseExtent:
    """The extent behind a hosted header; a stream's footer takes the header's place, and the markers that of a lost footer."""
    footer = find_footer(file) if header.directory == headers.AT_END else None
    grains: GrainMap
    if header.directory != headers.AT_END or footer is not None:
        header = footer or header
        grains = _hosted_tables(file, header)
    else:
        if not (header.compressed and header.markers):
            raise Corrupt("the footer is missing", path=file.path, offset=file.size, reason="truncated")
        grains = WalkedMap(file, header)
    inflated = None
    if header.compressed:
        inflated = Inflated(file, grains, size=header.size, grain_size=header.grain_size, markers=header.markers)
    lowest = 1 if header.descriptor != SECTOR else 1 + header.descriptor_size // SECTOR
    return SparseExtent(file, grains, size=header.size, grain_size=header.grain_size, lowest=lowest, inflated=inflated)


def _hosted_tables(file: FileBlocks, header: headers.HostedHeader) -> GrainTables:
    layout = Layout(
        "I", header.entries_per_table, lambda entry: entry * SECTOR, list if header.zeroed_grains else without_zeroed
    )
    directories = [header.directory]
    if header.redundant_directory is not None:
        directories.append(header.redundant_directory)
    return GrainTables(file, directories, -(-header.size // header.grain_size), layout)


def _open_cowd(file: FileBlocks) -> SparseExtent:
    header = headers.parse_cowd(read_clipped(file, 0, SECTOR), file.path)
    layout = Layout("I", headers.COWD_ENTRIES_PER_TABLE, lambda entry: entry * SECTOR, without_zeroed)
    grains = GrainTables(file, [header.directory], -(-header.size // header.grain_size), layout)
    return SparseExtent(file, grains, size=header.size, grain_size=header.grain_size)


def _open_sesparse(file: FileBlocks) -> SparseExtent:
    header = headers.parse_sesparse(read_clipped(file, 0, SECTOR), file.path)
    headers.check_volatile(read_clipped(file, header.volatile, SECTOR), file.path, header.volatile)
    entries = header.table_size // 8
    grain_count = -(-header.size // header.grain_size)
    if header.directory_size < -(-grain_count // entries) * 8:
        raise Corrupt("the grain directory is too small", path=file.path, offset=136, found=f"{header.directory_size} bytes")

    def table_at(entry: int) -> int:
        return header.tables + (entry & 0xFFFFFFFF) * header.table_size if entry >> 32 == SESPARSE_TABLE else -1

    def decode(raw: Sequence[int]) -> Sequence[int]:
        return [_sesparse_grain(entry, header) for entry in raw]

    grains = GrainTables(file, [header.directory], grain_count, Layout("Q", entries, table_at, decode))
    return SparseExtent(file, grains, size=header.size, grain_size=header.grain_size)


SESPARSE_TABLE = 0x10000000
"""The upper half of a directory entry that points to a table."""


def _sesparse_grain(entry: int, header: headers.SeSparseHeader) -> int:
    """The top four bits tell: 0 absent, 1 unmapped by the guest, 2 zeros, 3 stored at a number whose low 12 bits come first."""
    kind = entry >> 60
    if kind == 3:
        number = (entry >> 48 & 0xFFF) | (entry & 0xFFFFFFFFFFFF) << 12
        return min((header.grains + number * header.grain_size) // SECTOR, FARTHEST)
    if entry == 0:
        return ABSENT
    return ZEROED if kind in (1, 2) else UNKNOWN


_KINDS = (
    (headers.HOSTED_MAGIC, _open_hosted),
    (headers.COWD_MAGIC, _open_cowd),
    (headers.SESPARSE_MAGIC, _open_sesparse),
)
