"""Internal snapshots: the table that names them, and choosing one.

Source: QEMU, docs/interop/qcow2 ("Snapshots"); limits as in QEMU's block/qcow2.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mntapi.blocks import read_clipped
from mntapi.errors import Corrupt, Invalid, NotFound
from mntapi.images.qcow2.header import Header, check_l1
from mntapi.types import FileBlocks

MAX_SNAPSHOTS = 65536
MAX_TABLE_BYTES = 64 << 20
MAX_EXTRA = 1024

_ENTRY = struct.Struct(">QIHHIIQII")
_EXTRA_SIZE = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An internal snapshot: ``size`` and ``vm_state_size`` in bytes, ``time_ns`` since 1970 UTC, ``l1_size`` in entries."""

    id: str
    name: str
    time_ns: int
    size: int
    vm_state_size: int
    l1_offset: int
    l1_size: int


def read_snapshots(file: FileBlocks, header: Header) -> Iterator[Snapshot]:
    """The snapshots in the order of their table.

    Raises:
        Corrupt: the table is larger than any real one, or leaves the file, or an entry contradicts the format.
    """
    if not header.snapshot_count:
        return
    if header.snapshot_count > MAX_SNAPSHOTS:
        raise Corrupt(
            "there are too many snapshots", offset=60, expected=f"at most {MAX_SNAPSHOTS}", found=header.snapshot_count
        ).located(path=file.path)
    offset = header.snapshots_offset
    if offset % header.cluster_size:
        raise Corrupt("the snapshot table is not at a cluster boundary", path=file.path, offset=64, found=offset)
    limit = min(file.size, offset + MAX_TABLE_BYTES)
    for _ in range(header.snapshot_count):
        snapshot, offset = _read_entry(file, header, offset, limit)
        yield snapshot


def _read_entry(file: FileBlocks, header: Header, offset: int, limit: int) -> tuple[Snapshot, int]:
    """The snapshot at ``offset``, and where the next one is."""
    fixed = read_clipped(file, offset, _ENTRY.size)
    if len(fixed) < _ENTRY.size:
        raise Corrupt("the snapshot table goes past the end of the file", path=file.path, offset=offset)
    l1_offset, l1_size, id_length, name_length, seconds, nanoseconds, _, vm_state_size, extra_length = _ENTRY.unpack(fixed)
    if extra_length > MAX_EXTRA:
        raise Corrupt("a snapshot has too much extra data", path=file.path, offset=offset + 36, found=extra_length)
    length = extra_length + id_length + name_length
    if offset + _ENTRY.size + length > limit:
        raise Corrupt("the snapshot table goes past its end", path=file.path, offset=offset, expected=f"at most {limit}")
    rest = read_clipped(file, offset + _ENTRY.size, length)
    size = header.size
    if extra_length >= _EXTRA_SIZE.size:
        vm_state_size, size = _EXTRA_SIZE.unpack_from(rest)
    name_start = extra_length + id_length
    snapshot = Snapshot(
        id=rest[extra_length:name_start].decode("utf-8", "surrogateescape"),
        name=rest[name_start:].decode("utf-8", "surrogateescape"),
        time_ns=seconds * 10**9 + nanoseconds,
        size=size,
        vm_state_size=vm_state_size,
        l1_offset=l1_offset,
        l1_size=l1_size,
    )
    return snapshot, offset + -(-(_ENTRY.size + length) // 8) * 8


def select(file: FileBlocks, header: Header, wanted: str) -> Snapshot:
    """The snapshot with that ID, else with that name.

    Raises:
        NotFound: there is none; the hint names those there are.
        Invalid: several have that name.
        Corrupt: as ``read_snapshots``, or its L1 table is impossible.
    """
    snapshots = list(read_snapshots(file, header))
    found = [snapshot for snapshot in snapshots if snapshot.id == wanted]
    found = found or [snapshot for snapshot in snapshots if snapshot.name == wanted]
    if not found:
        raise NotFound(f"has no snapshot {wanted!a}", path=file.path, hint=_known(snapshots))
    if len(found) > 1:
        raise Invalid(f"has several snapshots named {wanted!a}", path=file.path, hint=_known(snapshots))
    try:
        check_l1(header, found[0].size, found[0].l1_offset, found[0].l1_size, at=header.snapshots_offset)
    except Corrupt as error:
        raise error.located(path=file.path) from None
    return found[0]


def _known(snapshots: Sequence[Snapshot]) -> str:
    shown = [f"{snapshot.id} ({snapshot.name})" for snapshot in snapshots[:8]]
    return "known: " + (", ".join(shown) or "none")
