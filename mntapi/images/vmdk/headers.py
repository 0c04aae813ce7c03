"""The headers of the sparse extent formats: bytes in, frozen dataclasses out. Sizes in the files are sectors of 512 bytes.

Sources: hosted and stream-optimized: Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Stream-Optimized Compressed
Sparse Extents"; COWD: the same, "ESX Server Sparse Extents", and libvmdk's format notes; seSparse: no public
specification, the layout as QEMU's vmdk driver (MIT licence) reads it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.errors import Corrupt, Unsupported
from mntapi.images.vmdk.descriptor import MAX_SECTORS
from mntapi.units import KIB, MIB, SECTOR

HOSTED_MAGIC = b"KDMV"
COWD_MAGIC = b"COWD"
SESPARSE_MAGIC = bytes.fromhex("bebafeca00000000")
CTK_MAGIC = bytes.fromhex("a27219f6")

MAX_GRAIN = 128 * MIB
MAX_COMPRESSED_GRAIN = 4 * MIB
"""Bytes of a grain; a compressed one is held in memory whole. Everybody writes 64 KiB."""
MAX_TABLE_ENTRIES = 64 * KIB
"""Entries in a grain table; everybody writes 512."""
AT_END = (1 << 64) - 1
"""Where a stream's header should say where its grain directory is: the footer knows."""
_NEWLINE_TEST = b"\n \r\n"
_FLAG_NEWLINES, _FLAG_REDUNDANT, _FLAG_ZEROED, _FLAG_COMPRESSED, _FLAG_MARKERS = 1, 2, 4, 1 << 16, 1 << 17
_ALGORITHM_NONE, _ALGORITHM_DEFLATE = 0, 1


@dataclass(frozen=True, slots=True)
class HostedHeader:
    """Of a hosted sparse extent (``KDMV``). Bytes, except ``entries_per_table``; ``directory`` may be ``AT_END``."""

    size: int
    grain_size: int
    descriptor: int
    descriptor_size: int
    entries_per_table: int
    redundant_directory: int | None
    directory: int
    zeroed_grains: bool
    compressed: bool
    markers: bool
    overhead: int


_HOSTED = struct.Struct("<4sIIQQQQIQQQB4sH")
HOSTED_SIZE = SECTOR


def parse_hosted(raw: bytes, path: str, at: int = 0) -> HostedHeader:
    """Parse and check a header or footer; ``at`` is its byte offset in the file. An unclean shutdown matters to writers only.

    Raises:
        Corrupt: it is cut off, damaged by a transfer as text, or has numbers that cannot be.
        Unsupported: a version or compression of later times.
    """
    if len(raw) < _HOSTED.size:
        raise Corrupt(
            "the header is cut off", path=path, offset=at, expected=f"{_HOSTED.size} bytes", found=len(raw), reason="truncated"
        )
    (magic, version, flags, capacity, grain, descriptor, descriptor_size, entries) = _HOSTED.unpack_from(raw)[:8]
    (redundant, directory, overhead, _, newlines, algorithm) = _HOSTED.unpack_from(raw)[8:]
    if magic != HOSTED_MAGIC:
        raise Corrupt("not a sparse extent", path=path, offset=at, expected=HOSTED_MAGIC, found=magic, reason="bad-magic")
    _check_newlines(flags, newlines, path, at)
    if not 1 <= version <= 3:
        raise Unsupported("a sparse extent of unknown version", path=path, offset=at + 4, expected="1 to 3", found=version)
    _check_algorithm(flags, algorithm, path, at)
    compressed = algorithm == _ALGORITHM_DEFLATE
    largest = MAX_COMPRESSED_GRAIN if compressed else MAX_GRAIN
    _check_capacity(capacity, path, at + 12)
    _check_power("grain size", grain, 8, largest // SECTOR, path, at + 20)
    _check_power("grain table size", entries, 1, MAX_TABLE_ENTRIES, path, at + 44)
    return HostedHeader(
        size=capacity * SECTOR,
        grain_size=grain * SECTOR,
        descriptor=descriptor * SECTOR,
        descriptor_size=descriptor_size * SECTOR,
        entries_per_table=entries,
        redundant_directory=redundant * SECTOR if flags & _FLAG_REDUNDANT and redundant else None,
        directory=AT_END if directory == AT_END else directory * SECTOR,
        zeroed_grains=bool(flags & _FLAG_ZEROED),
        compressed=compressed,
        markers=bool(flags & _FLAG_MARKERS),
        overhead=overhead * SECTOR,
    )


def _check_newlines(flags: int, newlines: bytes, path: str, at: int) -> None:
    if flags & _FLAG_NEWLINES and newlines != _NEWLINE_TEST:
        raise Corrupt(
            "damaged by a transfer that changed line ends",
            path=path,
            offset=at + 73,
            expected=_NEWLINE_TEST,
            found=newlines,
            hint="copy it again in binary mode",
            reason="text-transfer",
        )


def _check_algorithm(flags: int, algorithm: int, path: str, at: int) -> None:
    if algorithm not in (_ALGORITHM_NONE, _ALGORITHM_DEFLATE):
        raise Unsupported(
            "grains are compressed in an unknown way", path=path, offset=at + 77, expected="0 or 1", found=algorithm
        )
    if flags & _FLAG_COMPRESSED and algorithm == _ALGORITHM_NONE:
        raise Corrupt("grains are compressed and no algorithm is named", path=path, offset=at + 77, expected=1, found=algorithm)


def _check_capacity(capacity: int, path: str, at: int) -> None:
    if capacity > MAX_SECTORS:
        expected = f"at most {MAX_SECTORS} sectors"
        raise Corrupt("a capacity that cannot be", path=path, offset=at, expected=expected, found=capacity)


def _check_power(what: str, number: int, least: int, most: int, path: str, at: int) -> None:
    """Check that a number found at byte ``at`` is a power of two within these bounds."""
    if not least <= number <= most or number & (number - 1):
        expected = f"a power of two from {least} to {most}"
        raise Corrupt(f"a {what} that cannot be", path=path, offset=at, expected=expected, found=number)


COWD_ENTRIES_PER_TABLE = 4096


@dataclass(frozen=True, slots=True)
class CowdHeader:
    """Of an ESX server sparse extent (``COWD``), in bytes; ``directory_count`` is entries."""

    size: int
    grain_size: int
    directory: int
    directory_count: int


_COWD = struct.Struct("<4s6I")


def parse_cowd(raw: bytes, path: str) -> CowdHeader:
    """Parse and check the header. Raises Corrupt or Unsupported as ``parse_hosted`` does."""
    if len(raw) < _COWD.size:
        raise Corrupt(
            "the header is cut off", path=path, offset=0, expected=f"{_COWD.size} bytes", found=len(raw), reason="truncated"
        )
    magic, version, _, capacity, grain, directory, count = _COWD.unpack_from(raw)
    if magic != COWD_MAGIC:
        raise Corrupt("not an ESX sparse extent", path=path, offset=0, expected=COWD_MAGIC, found=magic, reason="bad-magic")
    if version != 1:
        raise Unsupported("an ESX sparse extent of unknown version", path=path, offset=4, expected=1, found=version)
    _check_capacity(capacity, path, 12)
    _check_power("grain size", grain, 1, MAX_GRAIN // SECTOR, path, 16)
    needed = -(-capacity // (grain * COWD_ENTRIES_PER_TABLE))
    if count < needed:
        raise Corrupt("the grain directory is too small", path=path, offset=24, expected=f"{needed} entries", found=count)
    return CowdHeader(capacity * SECTOR, grain * SECTOR, directory * SECTOR, needed)


SESPARSE_VERSION = 0x0000000200000001


@dataclass(frozen=True, slots=True)
class SeSparseHeader:
    """Of a space-efficient sparse extent, in bytes; the second header, at ``volatile``, says whether it was closed."""

    size: int
    grain_size: int
    table_size: int
    volatile: int
    directory: int
    directory_size: int
    tables: int
    grains: int


_SESPARSE = struct.Struct("<26Q")
_VOLATILE = struct.Struct("<8s3Q")
VOLATILE_MAGIC = bytes.fromhex("fecafeca00000000")
_SESPARSE_GRAIN, _SESPARSE_TABLE = 8, 64


def parse_sesparse(raw: bytes, path: str) -> SeSparseHeader:
    """Parse and check the constant header.

    Raises:
        Corrupt: it is cut off, or has numbers that cannot be.
        Unsupported: anything that is not as in every image seen so far, since nothing says what it would mean.
    """
    if len(raw) < SECTOR:
        raise Corrupt(
            "the header is cut off", path=path, offset=0, expected=f"{SECTOR} bytes", found=len(raw), reason="truncated"
        )
    words = _SESPARSE.unpack_from(raw)
    if raw[:8] != SESPARSE_MAGIC:
        raise Corrupt(
            "not a seSparse extent", path=path, offset=0, expected=SESPARSE_MAGIC.hex(), found=raw[:8].hex(), reason="bad-magic"
        )
    version, capacity, grain, table, *unknown = words[1:10]
    found = (version, grain, table, *unknown)
    expected = (SESPARSE_VERSION, _SESPARSE_GRAIN, _SESPARSE_TABLE, 0, 0, 0, 0, 0)
    if found != expected or raw[_SESPARSE.size : SECTOR].strip(b"\0"):
        raise Unsupported(
            "a seSparse extent of an unknown kind", path=path, offset=8, expected=expected, found=found, reason="sesparse"
        )
    _check_capacity(capacity, path, 16)
    return SeSparseHeader(
        size=capacity * SECTOR,
        grain_size=grain * SECTOR,
        table_size=table * SECTOR,
        volatile=words[10] * SECTOR,
        directory=words[16] * SECTOR,
        directory_size=words[17] * SECTOR,
        tables=words[18] * SECTOR,
        grains=words[24] * SECTOR,
    )


def check_volatile(raw: bytes, path: str, at: int) -> None:
    """Check the second header of a seSparse extent, found at byte ``at``.

    Raises:
        Corrupt: it is not there.
        Unsupported: the journal was not replayed, so tables on disk may be old.
    """
    if len(raw) < _VOLATILE.size or raw[:8] != VOLATILE_MAGIC:
        raise Corrupt(
            "the volatile header is damaged",
            path=path,
            offset=at,
            expected=VOLATILE_MAGIC.hex(),
            found=raw[:8].hex(),
            reason="bad-magic",
        )
    replay = _VOLATILE.unpack_from(raw)[3]
    if replay:
        raise Unsupported(
            "the extent was not closed: its journal must be replayed",
            path=path,
            offset=at + 24,
            expected=0,
            found=replay,
            hint="open and close the disk on its ESXi host once",
            reason="sesparse-journal",
        )


GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Marker:
    """Of a stream: before a compressed grain (``size`` bytes for sector ``value``), or before ``value`` sectors of metadata."""

    value: int
    size: int
    kind: int


_MARKER = struct.Struct("<QII")
MARKER_SIZE = _MARKER.size
GRAIN_MARKER_SIZE = 12
"""A grain's data follows where other markers have their ``kind``."""


def parse_marker(raw: bytes) -> Marker:
    """Parse a marker; ``raw`` is at least ``MARKER_SIZE`` bytes."""
    return Marker(*_MARKER.unpack_from(raw))
