"""A stream without an index, unpacked once and packed again in small pieces that can be read in any order.

The pieces are kept in memory, zeros not at all, and in the cache folder for the next time. That is for disks whose content
is small; larger ones are refused with what to do about it, before they fill the memory.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

from mntapi.errors import Unsupported
from mntapi.images.compressed import cache
from mntapi.images.compressed.stream import Damaged, open_unpacked, regrouped
from mntapi.images.formats import Chain
from mntapi.images.spans import Damage
from mntapi.types import FileBlocks, Image
from mntapi.units import GIB, KIB, MIB

PIECE = 256 * KIB
"""Bytes of the disk in a piece."""
MAX_PACKED = 128 * MIB
"""Bytes that the pieces of a disk may take."""
MAX_UNPACKED = 16 * GIB
"""Bytes of a disk: a stream of nothing but zeros is as long as its author likes, and must end."""
_KIND = "pieces"
_HEADER = struct.Struct("<QI")
_ZEROS = bytes(PIECE)


class Store:
    """Packed pieces, as a ``Source`` of spans. An empty one stands for zeros."""

    def __init__(self, pieces: Sequence[bytes], size: int) -> None:
        self.size = size
        self.starts: Sequence[int] = range(0, size, PIECE)
        self._pieces = pieces

    def is_zero(self, index: int) -> bool:
        return not self._pieces[index]

    def unpack(self, index: int) -> bytes:
        return zlib.decompress(self._pieces[index])  # our own work, in memory or under a checksum

    def dump(self) -> bytes:
        """The store as bytes."""
        lengths = array("I", map(len, self._pieces))
        if sys.byteorder == "big":
            lengths.byteswap()
        return b"".join((_HEADER.pack(self.size, len(lengths)), lengths.tobytes(), *self._pieces))

    @classmethod
    def load(cls, raw: bytes) -> Store | None:
        """The store that ``dump`` wrote; None if it is not one."""
        if len(raw) < _HEADER.size:
            return None
        size, count = _HEADER.unpack_from(raw)
        begin = _HEADER.size + 4 * count
        if count != -(-size // PIECE) or begin > len(raw):
            return None
        lengths = array("I", raw[_HEADER.size : begin])
        if sys.byteorder == "big":
            lengths.byteswap()
        ends = list(accumulate(lengths, initial=begin))
        if ends[-1] != len(raw):
            return None
        return cls([raw[start:end] for start, end in pairwise(ends)], size)


def open_stored(file: FileBlocks, chain: Chain, format_name: str, stream: Callable[[], Iterator[bytes]], hint: str) -> Image:
    """Open a packed file through a store: a kept one, or one made by reading ``stream`` to its end.

    Args:
        file: the packed file.
        chain: for the opener, and the files that the disk names.
        format_name: ``gzip``, ``xz`` or ``zstd``.
        stream: starts to unpack; may raise Damaged while it goes.
        hint: what to do if there is too much.

    Raises:
        Unsupported: there is too much.
        MntapiError: what ``open_unpacked`` raises.
    """
    name = cache.name_for(file, _KIND)
    kept = cache.load(name, chain.opener) if name else None
    store, damage = Store.load(kept) if kept else None, None
    if store is None:
        store, damage = make_store(stream(), file, hint)
        if name and damage is None:
            cache.save(name, store.dump())
    return open_unpacked(store, file, chain, format_name, damage=damage)


def make_store(stream: Iterator[bytes], file: FileBlocks, hint: str) -> tuple[Store, Damage | None]:
    """A store of all that ``stream`` gives, and why it ended too early. Raises Unsupported if there is too much."""
    pieces: list[bytes] = []
    used = total = 0
    damage = None
    try:
        for content in regrouped(stream, PIECE):
            pieces.append(_packed(content))
            used += len(pieces[-1])
            total += len(content)
            if used > MAX_PACKED or total > MAX_UNPACKED:
                raise Unsupported(
                    "cannot be read in place: it has no index, and is too large", path=file.path, hint=hint, reason="solid"
                )
    except Damaged as end:
        total, damage = end.good, end.damage
    return Store(_clipped(pieces, total), total), damage


def _packed(piece: bytes) -> bytes:
    return b"" if piece == _ZEROS[: len(piece)] else zlib.compress(piece, 1)


def _clipped(pieces: list[bytes], size: int) -> list[bytes]:
    """The pieces of the first ``size`` bytes."""
    whole, rest = divmod(size, PIECE)
    kept = pieces[:whole]
    if rest:
        last = pieces[whole]
        kept.append(_packed(zlib.decompress(last)[:rest]) if last else b"")
    return kept
