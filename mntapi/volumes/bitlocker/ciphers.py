"""The ciphers of BitLocker, over many sectors at once.

AES is that of ``mntapi.crypto``. Here is what BitLocker puts around it, done for all sectors of a run side by side: a long
integer holds the same word of each sector, one lane a sector.

Source: IEEE 1619-2007 (XTS); N. Ferguson, AES-CBC + Elephant diffuser, Microsoft 2006; libyal, BitLocker Drive Encryption (BDE)
format, "Encryption methods".
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from mntapi.crypto import gcrypt, openssl
from mntapi.errors import Unsupported
from mntapi.volumes.bitlocker.blocks import SectorCipher
from mntapi.volumes.bitlocker.metadata import METHODS

_BLOCK = 16
_WORD = 4
_DIFFUSER_A = (5, -2, -5, (9, 0, 13, 0))
_DIFFUSER_B = (3, 2, 5, (0, 10, 0, 25))
"""Cycles over the sector; how far off the word is that is mixed in as it is, and the one that is rotated; the rotations."""


def cipher(method: int, key: bytes, sector_size: int) -> SectorCipher:
    """The cipher of this method number of the metadata.

    Raises:
        Unsupported: there is no such method, or the key is too short for it.
    """
    name, length = METHODS.get(method, (None, 0))
    if name is None or len(key) < length:
        raise Unsupported(f"bitlocker: encryption method 0x{method:04x} with {len(key)} bytes of key", reason="fve-method")
    if method in (0x8004, 0x8005):
        return Xts(key[:length], sector_size)
    size = 32 if method & 1 else 16
    if method in (0x8002, 0x8003):
        return Cbc(key[:size], sector_size)
    return Elephant(key[:size], key[32 : 32 + size], sector_size)


class Xts:
    """XTS with the number of the sector as its tweak, counted in sectors of the volume's own size."""

    def __init__(self, key: bytes, sector_size: int) -> None:
        self._engine = openssl.Xts("aes", key) if gcrypt.library() is None else gcrypt.Xts("aes", key)
        self._sector_size = sector_size

    def decrypt(self, content: memoryview, offset: int) -> None:
        first, count = offset // self._sector_size, len(content) // self._sector_size
        tweaks = b"".join(sector.to_bytes(_BLOCK, "little") for sector in range(first, first + count))
        self._engine.decrypt(content, tweaks, self._sector_size)

    def close(self) -> None:
        self._engine.close()


class Cbc:
    """CBC, restarted in each sector with the encrypted offset of the sector as its vector."""

    def __init__(self, key: bytes, sector_size: int) -> None:
        self._data = openssl.Cbc("aes", key)
        self._vector = openssl.Ecb("aes", key)
        self._sector_size = sector_size

    def decrypt(self, content: memoryview, offset: int) -> None:
        # One chain through all sectors is right but for the first block of each, which got the last one of the sector before
        # instead of the vector.
        size = self._sector_size
        starts = range(0, len(content), size)
        vectors = self._vector.encrypt(_offsets(range(offset, offset + len(content), size)))
        before = vectors[:_BLOCK] + b"".join(content[start - _BLOCK : start] for start in starts[1:])
        self._data.decrypt(content, vectors[:_BLOCK])
        changes = _xor(before, vectors)
        for place, start in enumerate(starts):
            block = content[start : start + _BLOCK]
            block[:] = _xor(block, changes[place * _BLOCK : (place + 1) * _BLOCK])

    def close(self) -> None:
        self._data.close()
        self._vector.close()


class Elephant:
    """CBC, two diffusers over the words of the sector, and a sector key on top (Windows Vista and 7)."""

    def __init__(self, key: bytes, tweak_key: bytes, sector_size: int) -> None:
        self._cbc = Cbc(key, sector_size)
        self._sector_key = openssl.Ecb("aes", tweak_key)
        self._sector_size = sector_size

    def decrypt(self, content: memoryview, offset: int) -> None:
        sectors = range(offset, offset + len(content), self._sector_size)
        self._cbc.decrypt(content, offset)
        words, stride = array("I", bytes(content)), self._sector_size // _WORD
        lanes = [int.from_bytes(words[word::stride], "little") for word in range(stride)]
        _undiffuse(lanes, len(sectors), *_DIFFUSER_B)
        _undiffuse(lanes, len(sectors), *_DIFFUSER_A)
        for word, lane in enumerate(lanes):
            words[word::stride] = array("I", lane.to_bytes(len(sectors) * _WORD, "little"))
        content[:] = _xor(words, self._sector_keys(sectors))

    def close(self) -> None:
        self._cbc.close()
        self._sector_key.close()

    def _sector_keys(self, sectors: range) -> bytes:
        """32 bytes for each sector, repeated over it: its offset encrypted, and again with the highest bit set."""
        low = self._sector_key.encrypt(_offsets(sectors))
        high = self._sector_key.encrypt(_offsets(sectors, 1 << 127))
        blocks = range(0, len(low), _BLOCK)
        return b"".join((low[at : at + _BLOCK] + high[at : at + _BLOCK]) * (self._sector_size // 32) for at in blocks)


def _undiffuse(lanes: list[int], count: int, cycles: int, near: int, far: int, rotations: Sequence[int]) -> None:
    """Add to each word, in order, one word of the sector and a rotated one; ``lanes`` are the words, each of all sectors."""
    words = len(lanes)
    top = _lanes(0x80000000, _WORD, count)
    rest = _lanes(0x7FFFFFFF, _WORD, count)
    masks = {turn: _lanes(0xFFFFFFFF << turn & 0xFFFFFFFF, _WORD, count) for turn in rotations}
    every = _lanes(0xFFFFFFFF, _WORD, count)
    for step in range(cycles * words):
        word, turn = step % words, rotations[step % 4]
        rotated = lanes[(word + far) % words]
        if turn:
            rotated = ((rotated << turn) & masks[turn]) | ((rotated >> (32 - turn)) & (every ^ masks[turn]))
        mixed = lanes[(word + near) % words] ^ rotated
        # A sum modulo 2^32 in each lane: the highest bits are added without their carry.
        lanes[word] = ((lanes[word] & rest) + (mixed & rest)) ^ ((lanes[word] ^ mixed) & top)


def _lanes(value: int, size: int, count: int) -> int:
    """``count`` lanes of ``size`` bytes, each holding ``value``."""
    return int.from_bytes(value.to_bytes(size, "little") * count, "little")


def _offsets(sectors: range, extra: int = 0) -> bytes:
    return b"".join((offset | extra).to_bytes(_BLOCK, "little") for offset in sectors)


def _xor(one: bytes | memoryview | array[int], other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(other), "little")
