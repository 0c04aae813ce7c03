"""QED, QEMU's enhanced disk: two levels of tables, and a backing file.

Source: qemu, docs/interop/qed_spec.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read, read_clipped
from mntapi.errors import Corrupt, Unsupported
from mntapi.images import formats
from mntapi.images.blockmap import ABSENT, ZERO, BlockMap, Table
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image, Link
from mntapi.units import KIB, MIB

FORMAT = "qed"
MAGIC = b"QED\0"
MIN_CLUSTER, MAX_CLUSTER = 4 * KIB, 64 * MIB
MAX_TABLE = 16
"""Clusters of a table."""
MAX_NAME = 1023
MAX_TABLES = 64
"""Second-level tables that are remembered."""
_HEADER = struct.Struct("<4sIIIQQQQQII")
_BACKING_FILE = 1
_NEED_CHECK = 2
_BACKING_IS_RAW = 4
_KNOWN = _BACKING_FILE | _NEED_CHECK | _BACKING_IS_RAW
"""NEED_CHECK says that clusters may have leaked and no more: data is written before the tables that point to it."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header; sizes and offsets are bytes, ``entries`` those of one table."""

    cluster_size: int
    entries: int
    features: int
    table_offset: int
    disk_size: int
    name_offset: int
    name_length: int


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open a QED with its backing files.

    Raises:
        Corrupt: the header contradicts the format.
        Unsupported: a feature we do not know; the message has its bits.
        NotFound: the backing file is missing.
    """
    header = parse_header(read_clipped(file, 0, _HEADER.size), file.path)
    if header.table_offset % header.cluster_size or header.table_offset + header.entries * 8 > file.size:
        raise Corrupt(
            "the first table is outside the file", path=file.path, offset=40, found=header.table_offset, reason="header"
        )
    parent = _open_backing(file, header, chain) if header.features & _BACKING_FILE else None
    blocks = BlockMap(
        file,
        _Layout(file, header),
        size=header.disk_size,
        block_size=header.cluster_size,
        parent=parent.blocks if parent else None,
    )
    return Image(file.path, FORMAT, blocks, (Link(file.path, FORMAT), *(parent.chain if parent else ())))


def parse_header(content: bytes, path: str) -> Header:
    """The header in the first 64 bytes."""
    if len(content) < _HEADER.size or not content.startswith(MAGIC):
        raise Corrupt("is not a QED", path=path, offset=0, expected=MAGIC, found=content[:4], reason="header")
    _, cluster, table, _, features, _, _, table_offset, size, name_offset, name_length = _HEADER.unpack_from(content)
    if features & ~_KNOWN:
        raise Unsupported(
            "a QED with unknown features", path=path, offset=16, found=f"{features & ~_KNOWN:#x}", reason="unknown-feature"
        )
    if (
        cluster & (cluster - 1)
        or not MIN_CLUSTER <= cluster <= MAX_CLUSTER
        or table & (table - 1)
        or not 0 < table <= MAX_TABLE
    ):
        raise Corrupt(
            "the sizes of clusters and tables are impossible", path=path, offset=4, found=f"{cluster}, {table}", reason="header"
        )
    entries = cluster * table // 8
    if size > entries * entries * cluster:
        raise Corrupt("the disk is larger than its tables", path=path, offset=48, found=size, reason="header")
    return Header(cluster, entries, features, table_offset, size, name_offset, name_length)


def _open_backing(file: FileBlocks, header: Header, chain: Chain) -> Image:
    if header.name_length > MAX_NAME or header.name_offset + header.name_length > min(file.size, header.cluster_size):
        raise Corrupt(
            "the name of the backing file is outside the header",
            path=file.path,
            offset=56,
            found=f"{header.name_length} bytes at {header.name_offset}",
            reason="header",
        )
    name = read(file, header.name_offset, header.name_length).decode("utf-8", "surrogateescape")
    if not header.features & _BACKING_IS_RAW:
        return chain.open_parent(name, file, formats=[row.name for row in formats.FORMATS])
    return chain.open_raw_parent(name, file)


class _Layout:
    """Where the clusters are; see ``mntapi.images.blockmap.Layout``."""

    def __init__(self, file: FileBlocks, header: Header) -> None:
        self._file = file
        self._header = header
        self._first = Table(file, header.table_offset, header.entries, width=8, order="little", absent=0, blank=b"\0")
        self._second: dict[int, Table] = {}

    def locate(self, index: int) -> int:
        number, at = divmod(index, self._header.entries)
        table = self._second.get(number) or self._load(number)
        if table is None:
            return ABSENT
        entry = table[at]
        if entry == 0:
            return ABSENT
        if entry == 1:
            return ZERO
        header = self._header
        if entry % header.cluster_size or entry + min(header.cluster_size, header.disk_size - index * header.cluster_size) > (
            self._file.size
        ):
            raise self._corrupt(f"cluster {index} is outside the file", table.offset_of(at), entry)
        return entry

    def _load(self, number: int) -> Table | None:
        """The second-level table, or None where there is none."""
        entry = self._first[number]
        if entry == 0:
            return None
        header = self._header
        if entry % header.cluster_size or entry + header.entries * 8 > self._file.size:
            raise self._corrupt(f"table {number} is outside the file", self._first.offset_of(number), entry)
        if len(self._second) >= MAX_TABLES:
            self._second.clear()
        table = Table(self._file, entry, header.entries, width=8, order="little", absent=0, blank=b"\0")
        self._second[number] = table
        return table

    def _corrupt(self, what: str, at: int, found: int) -> Corrupt:
        expected = f"before {self._file.size}"
        return Corrupt(what, path=self._file.path, offset=at, expected=expected, found=found, reason="block-outside")

    def next_present(self, index: int, end: int) -> int:
        entries = self._header.entries
        while index < end:
            number, at = divmod(index, entries)
            table = self._second.get(number) or self._load(number)
            if table is None:
                number = self._first.next_present(number + 1, -(-end // entries))
                index = number * entries
                continue
            found = table.next_present(at, entries)
            if found < entries:
                return min(end, number * entries + found)
            index = (number + 1) * entries
        return end
