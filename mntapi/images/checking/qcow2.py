"""QCOW2: every entry of every table, of the current state and of the snapshots, and what they make of the reference counts.

First the tables are found (one that several snapshots share is read once and counted as often as it is used), then their
entries are counted cluster by cluster, then the counts are compared with those in the file. Tables are read in the order of the
file, each once, so the work ends with its size.

Source: QEMU, docs/interop/qcow2; which differences are errors and which leaks: as ``qemu-img check`` has it.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.errors import MntapiError
from mntapi.images.checking.fault import Fault, Severity
from mntapi.images.checking.qcow2_clusters import Clusters
from mntapi.images.checking.qcow2_extras import bitmap_ranges, snapshot_table
from mntapi.images.checking.qcow2_refcounts import Refcounts, refcount_faults
from mntapi.images.formats import Chain
from mntapi.images.qcow2.header import Header
from mntapi.images.qcow2.image import read_header
from mntapi.images.qcow2.snapshots import read_snapshots
from mntapi.types import FileBlocks
from mntapi.units import MIB

MAX_L1_BYTES = 256 * MIB
"""Bytes of L1 tables, those of all snapshots together, that are looked at."""


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """What is wrong with one file. Raises what its parsers raise where nothing further can be said."""
    header = read_header(file)
    for note in header.notes:
        yield Fault(file.path, 72, note, Severity.NOTE)
    clusters = Clusters(file, header, _data_size(file, header, chain))
    refcounts = Refcounts(file, header)
    yield from _metadata_faults(file, header, clusters)
    yield from _l1_faults(file, header, clusters)
    yield from refcounts.find()
    for offset in refcounts.offsets():
        clusters.use(offset, header.cluster_size)
    yield from clusters.l2_faults(refcounts)
    if clusters.overflowed:
        what = "the file is too scattered: its reference counts were not compared"
        yield Fault(file.path, header.refcount_table_offset, what, Severity.NOTE)
    elif refcounts.is_usable:
        yield from refcount_faults(refcounts, clusters)


def _data_size(file: FileBlocks, header: Header, chain: Chain) -> int:
    """Bytes of the file with the guest's clusters."""
    if not header.has_data_file:
        return file.size
    data_file = chain.open_file((header.extensions.data_file or "").removeprefix("file:"), file)
    try:
        return data_file.size
    finally:
        data_file.close()


def _metadata_faults(file: FileBlocks, header: Header, clusters: Clusters) -> Iterator[Fault]:
    """Count the header and what hangs on it, but for the L1 tables."""
    table_bytes = header.refcount_table_clusters << header.cluster_bits
    ranges = [(0, header.cluster_size, "the header"), (header.refcount_table_offset, table_bytes, "the refcount table")]
    if header.extensions.crypto is not None:
        ranges.append((*header.extensions.crypto, "the encryption header"))
    for extra in (bitmap_ranges, snapshot_table):
        try:
            ranges += extra(file, header)
        except MntapiError as error:
            clusters.is_complete = False
            yield Fault.of(error, file.path)
    for offset, length, what in ranges:
        yield from clusters.use_checked(offset, length, what)


def _l1_faults(file: FileBlocks, header: Header, clusters: Clusters) -> Iterator[Fault]:
    """Count the L1 tables, each with the number of its users: the current state and the snapshots."""
    active = (header.l1_offset, header.l1_size)
    sizes = {active: [header.size]}
    try:
        for snapshot in read_snapshots(file, header):
            sizes.setdefault((snapshot.l1_offset, snapshot.l1_size), []).append(snapshot.size)
    except MntapiError as error:
        clusters.is_complete = False
        yield Fault.of(error, file.path)
    room = MAX_L1_BYTES
    for (offset, count), users in sizes.items():
        room -= 8 * count
        if room < 0:
            clusters.is_complete = False
            yield Fault(file.path, offset, "the L1 tables are too large: not all were looked at", Severity.NOTE)
            return
        is_active = (offset, count) == active
        yield from clusters.l1_faults(offset, count, times=len(users), is_active=is_active, size=max(users))
