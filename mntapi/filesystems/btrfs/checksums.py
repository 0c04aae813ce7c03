"""The four checksums of btrfs.

XXH64 is computed by the C library libxxhash where the host has it, else by ``xxh64.py``. It is loaded with this module: a
confined worker cannot open files any more when it needs it.

Source: btrfs documentation, "On-disk Format", section "Checksums"; include/uapi/linux/btrfs_tree.h ``btrfs_csum_type``;
``xxhash.h`` of xxHash 0.8.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from mntapi.crc32c import crc32c, crc32c_each
from mntapi.filesystems.btrfs.xxh64 import xxh64

Digest = Callable[[bytes], bytes]
Digests = Callable[[bytes, int], bytes]
"""Of each so many bytes, one after the other."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One of them. ``of`` gives the ``size`` bytes that are stored for a block."""

    name: str
    size: int
    of: Digest
    together: Digests | None = None
    """For those that are faster for many sectors at once."""

    def each(self, sectors: memoryview, size: int) -> bytes:
        """Those of whole sectors of ``size`` bytes, one after the other."""
        if self.together is not None:
            return self.together(bytes(sectors), size)
        return b"".join(self.of(bytes(sectors[at : at + size])) for at in range(0, len(sectors), size))


def _crc32c(data: bytes) -> bytes:
    return crc32c(data).to_bytes(4, "little")


def _crc32c_each(sectors: bytes, size: int) -> bytes:
    found = crc32c_each(sectors, size)
    return struct.pack(f"<{len(found)}I", *found)


def plain_xxh64(data: bytes) -> bytes:
    """Without a library."""
    return xxh64(data).to_bytes(8, "little")


def xxh64_by(soname: str) -> Digest:
    """That of libxxhash, or ours where there is none."""
    try:
        compute = ctypes.CDLL(soname).XXH64
    except (OSError, AttributeError):
        return plain_xxh64
    compute.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)
    compute.restype = ctypes.c_uint64
    return lambda data: int(compute(data, len(data), 0)).to_bytes(8, "little")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


_XXH64 = xxh64_by("libxxhash.so.0")


def has_libxxhash() -> bool:
    """Whether the host has the library."""
    return _XXH64 is not plain_xxh64


ALGORITHMS = {
    0: Algorithm("crc32c", 4, _crc32c, _crc32c_each),
    1: Algorithm("xxhash64", 8, _XXH64),
    2: Algorithm("sha256", 32, _sha256),
    3: Algorithm("blake2b", 32, _blake2b),
}
"""By the superblock's number."""
