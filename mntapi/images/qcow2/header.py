"""The header of a QCOW2 file and its extensions: bytes in, frozen dataclasses out; no I/O.

Source: QEMU, docs/interop/qcow2 ("Header", "Additional fields", "Header extensions"); limits as in QEMU's block/qcow2.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from mntapi.errors import Corrupt, Unsupported

MAGIC = b"QFI\xfb"
MIN_CLUSTER_BITS = 9
MAX_CLUSTER_BITS = 21
MAX_L1_BYTES = 32 << 20
"""Bytes an L1 table may take; QEMU opens no larger one."""
MAX_NAME = 1023
"""Bytes in the name of a backing file or data file."""

V2 = struct.Struct(">4sIQIIQIIQQIIQ")
V3 = struct.Struct(">QQQII")
EXTENSION = struct.Struct(">II")
_FEATURE = struct.Struct(">BB46s")
_CRYPTO = struct.Struct(">QQ")

V2_LENGTH = V2.size
V3_LENGTH = V2.size + V3.size

EXT_END = 0
EXT_BACKING_FORMAT = 0xE2792ACA
EXT_FEATURE_NAMES = 0x6803F857
EXT_BITMAPS = 0x23852875
EXT_CRYPTO = 0x0537BE77
EXT_DATA_FILE = 0x44415441
EXT_OVERLAY = 0x6D6E7470
"""Ours: the file is an overlay that ``overlay.py`` made, and may be written."""


class Incompatible(enum.IntFlag):
    """The incompatible features there are names for."""

    DIRTY = 1 << 0
    CORRUPT = 1 << 1
    DATA_FILE = 1 << 2
    COMPRESSION_TYPE = 1 << 3
    EXTENDED_L2 = 1 << 4


_KNOWN = sum(Incompatible)
DATA_FILE_RAW = 1 << 1
"""Autoclear bit: the external data file is a raw image in its own right."""


class Compression(enum.IntEnum):
    """What compressed clusters are compressed with."""

    DEFLATE = 0
    ZSTD = 1


class CryptMethod(enum.IntEnum):
    """How the contents of clusters are encrypted."""

    NONE = 0
    AES = 1
    LUKS = 2


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the header extensions say, as far as a reader needs it."""

    backing_format: str | None = None
    data_file: str | None = None
    crypto: tuple[int, int] | None = None
    """Where the encryption header is: (offset, length) in bytes."""
    feature_names: dict[int, str] = field(default_factory=dict)
    """Names of incompatible features, by bit number."""
    is_overlay: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. Offsets and sizes are bytes; ``l1_size`` and ``snapshot_count`` are counts."""

    version: int
    cluster_bits: int
    size: int
    crypt_method: CryptMethod
    l1_size: int
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshot_count: int
    snapshots_offset: int
    incompatible: Incompatible
    compatible: int
    autoclear: int
    refcount_order: int
    compression: Compression
    backing_name: str | None
    extensions: Extensions

    @property
    def cluster_size(self) -> int:
        """Bytes in a cluster, 512 .. 2 MiB."""
        return 1 << self.cluster_bits

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries are 16 bytes and have a bitmap of subclusters."""
        return bool(self.incompatible & Incompatible.EXTENDED_L2)

    @property
    def l2_bits(self) -> int:
        """Clusters that one L2 table maps are ``1 << l2_bits``."""
        return self.cluster_bits - (4 if self.extended_l2 else 3)

    @property
    def has_data_file(self) -> bool:
        """Whether the guest's clusters are in another file."""
        return bool(self.incompatible & Incompatible.DATA_FILE)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about an image that is readable all the same."""
        notes = []
        if self.incompatible & Incompatible.CORRUPT:
            notes.append("marked as corrupt by its last writer: compare what is read with another copy")
        if self.incompatible & Incompatible.DIRTY:
            notes.append("not closed by its last writer: its reference counts may be wrong, which reading does not use")
        return tuple(notes)

    def l1_needed(self, size: int) -> int:
        """L1 entries that a disk of ``size`` bytes needs."""
        return -(-size >> (self.cluster_bits + self.l2_bits))


def first_cluster_size(head: bytes) -> int:
    """Bytes that ``parse_header`` needs of the file that starts with ``head``: no more, for what follows may be unreadable."""
    bits = int.from_bytes(head[20:24], "big")
    return 1 << min(max(bits, MIN_CLUSTER_BITS), MAX_CLUSTER_BITS)


def parse_header(head: bytes) -> Header:
    """The header at the start of a file.

    Args:
        head: the first cluster, or what the file has of it; more does no harm.

    Raises:
        Corrupt: it contradicts the format, with the byte offset.
        Unsupported: another version, or a feature that is not known, by its name.
    """
    if len(head) < V2_LENGTH:
        raise Corrupt("is too short for a QCOW2 header", offset=0, expected=f"{V2_LENGTH} bytes", found=len(head))
    magic, version, backing_offset, backing_length, cluster_bits, size, crypt, *tables = V2.unpack_from(head)
    l1_size, l1_offset, refcount_offset, refcount_clusters, snapshot_count, snapshots_offset = tables
    if magic != MAGIC:
        raise Corrupt("is not a QCOW2 file", offset=0, expected=MAGIC.hex(), found=magic.hex())
    if version not in (2, 3):
        raise Unsupported(
            f"QCOW version {version} is not read", offset=4, expected="2 or 3", found=version, reason="qcow-version"
        )
    if not MIN_CLUSTER_BITS <= cluster_bits <= MAX_CLUSTER_BITS:
        raise Corrupt("the cluster size is not possible", offset=20, expected="9 .. 21 bits", found=cluster_bits)
    area_end = min(len(head), 1 << cluster_bits)
    length, features = _parse_features(head[:area_end], version)
    extensions = _parse_extensions(head[: min(area_end, backing_offset or area_end)], length)
    _check_features(features.incompatible, extensions, cluster_bits)
    if crypt not in tuple(CryptMethod):
        raise Unsupported(f"encryption method {crypt} is not known", offset=32, found=crypt, reason="encrypted")
    header = Header(
        version=version,
        cluster_bits=cluster_bits,
        size=size,
        crypt_method=CryptMethod(crypt),
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_table_offset=refcount_offset,
        refcount_table_clusters=refcount_clusters,
        snapshot_count=snapshot_count,
        snapshots_offset=snapshots_offset,
        incompatible=Incompatible(features.incompatible),
        compatible=features.compatible,
        autoclear=features.autoclear,
        refcount_order=features.refcount_order,
        compression=_parse_compression(head, length, features.incompatible),
        backing_name=_parse_backing_name(head[:area_end], backing_offset, backing_length),
        extensions=extensions,
    )
    check_l1(header, header.size, l1_offset, l1_size, at=36)
    return header


def check_l1(header: Header, size: int, l1_offset: int, l1_size: int, *, at: int) -> None:
    """Raise Corrupt, at byte ``at``, unless an L1 table of ``l1_size`` entries at ``l1_offset`` can map ``size`` bytes."""
    if l1_size * 8 > MAX_L1_BYTES:
        raise Corrupt(
            "the L1 table is too large",
            offset=at,
            expected=f"at most {MAX_L1_BYTES // 8} entries",
            found=l1_size,
            reason="l1-size",
        )
    needed = header.l1_needed(size)
    if l1_size < needed:
        raise Corrupt(
            "the L1 table is too small for the disk", offset=at, expected=f"{needed} entries", found=l1_size, reason="l1-size"
        )
    if l1_offset % header.cluster_size:
        raise Corrupt("the L1 table is not at a cluster boundary", offset=at, found=l1_offset, reason="alignment")


@dataclass(frozen=True, slots=True)
class _Features:
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4


def _parse_features(head: bytes, version: int) -> tuple[int, _Features]:
    """The header's length and the fields that version 3 added."""
    if version == 2:
        return V2_LENGTH, _Features()
    if len(head) < V3_LENGTH:
        raise Corrupt("is too short for a QCOW2 version 3 header", offset=0, expected=f"{V3_LENGTH} bytes", found=len(head))
    incompatible, compatible, autoclear, refcount_order, length = V3.unpack_from(head, V2_LENGTH)
    if length < V3_LENGTH or length % 8 or length > len(head):
        raise Corrupt(
            "the header length is not possible", offset=100, expected=f"a multiple of 8 from {V3_LENGTH} on", found=length
        )
    return length, _Features(incompatible, compatible, autoclear, refcount_order)


def _check_features(incompatible: int, extensions: Extensions, cluster_bits: int) -> None:
    unknown = incompatible & ~_KNOWN
    if unknown:
        bits = [bit for bit in range(64) if unknown >> bit & 1]
        names = [extensions.feature_names.get(bit, f"bit {bit}") for bit in bits]
        raise Unsupported(
            "needs features that are not known here: " + ", ".join(names),
            offset=72,
            hint="convert it with the program that wrote it",
            reason="qcow2-feature",
        )
    if incompatible & Incompatible.EXTENDED_L2 and cluster_bits < 14:
        raise Corrupt("extended L2 entries need clusters of 16 KiB or more", offset=20, found=f"{cluster_bits} bits")


def _parse_compression(head: bytes, length: int, incompatible: int) -> Compression:
    kind = head[V3_LENGTH] if length > V3_LENGTH else 0
    if bool(kind) != bool(incompatible & Incompatible.COMPRESSION_TYPE):
        raise Corrupt("the compression type and its feature bit contradict each other", offset=V3_LENGTH, found=kind)
    if kind not in tuple(Compression):
        raise Unsupported(f"compression type {kind} is not known", offset=V3_LENGTH, found=kind, reason="compression")
    return Compression(kind)


def _parse_backing_name(cluster: bytes, offset: int, length: int) -> str | None:
    """The name where the header says; it lies in the first cluster."""
    if not offset or not length:
        return None
    if length > MAX_NAME:
        raise Corrupt("the name of the backing file is too long", offset=16, expected=f"at most {MAX_NAME} bytes", found=length)
    if offset < V2_LENGTH or offset + length > len(cluster):
        raise Corrupt("the name of the backing file is not in the first cluster", offset=8, found=offset)
    return _text(cluster[offset : offset + length], offset)


def _text(raw: bytes, offset: int) -> str:
    if b"\0" in raw:
        raise Corrupt("a file name has a zero byte", offset=offset, found=ascii(raw.decode("utf-8", "replace")))
    return raw.decode("utf-8", "surrogateescape")


def _parse_extensions(area: bytes, start: int) -> Extensions:
    backing_format = data_file = crypto = None
    names: dict[int, str] = {}
    is_overlay = False
    for kind, offset, content in each_extension(area, start):
        if kind == EXT_BACKING_FORMAT:
            backing_format = _text(content, offset)
        elif kind == EXT_DATA_FILE:
            data_file = _text(content[: MAX_NAME + 1], offset)
        elif kind == EXT_FEATURE_NAMES:
            names = _parse_feature_names(content)
        elif kind == EXT_OVERLAY:
            is_overlay = True
        elif kind == EXT_CRYPTO:
            if len(content) != _CRYPTO.size:
                raise Corrupt("the encryption pointer has a wrong length", offset=offset, expected=16, found=len(content))
            crypto = _CRYPTO.unpack(content)
    if data_file is not None and len(data_file) > MAX_NAME:
        raise Corrupt("the name of the data file is too long", offset=start, expected=f"at most {MAX_NAME} bytes")
    return Extensions(backing_format, data_file, crypto, names, is_overlay)


def each_extension(area: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """The extensions: (type, where its content is, content). Each is 8 bytes at least, so the end of the area is reached.

    Args:
        area: the first cluster, up to the name of the backing file.
        offset: the header's length; bytes.

    Raises:
        Corrupt: one is longer than what is left of the area.
    """
    while offset + EXTENSION.size <= len(area):
        kind, length = EXTENSION.unpack_from(area, offset)
        if kind == EXT_END:
            return
        offset += EXTENSION.size
        if length > len(area) - offset:
            raise Corrupt(
                f"header extension {kind:#010x} is longer than its area", offset=offset - 4, found=length, reason="extension"
            )
        yield kind, offset, area[offset : offset + length]
        offset += -(-length // 8) * 8


def _parse_feature_names(content: bytes) -> dict[int, str]:
    entries = _FEATURE.iter_unpack(content[: len(content) // _FEATURE.size * _FEATURE.size])
    return {bit: raw.rstrip(b"\0").decode("utf-8", "replace") for kind, bit, raw in entries if kind == 0}
