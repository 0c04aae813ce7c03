"""Sectors decrypted and encrypted in place: cipher, mode and initialization vectors as dm-crypt has them.

A name such as ``aes-xts-plain64`` or ``aes-cbc-essiv:sha256`` is cipher, mode, and how the vector comes from the number of
the sector. That number counts 512 bytes whatever the size of a sector; a sector of 4096 bytes has the number of its first.

Source: Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst, and the comments on vectors in drivers/md/dm-crypt.c; IEEE
1619 (XTS). Observed: the numbers of large sectors, on what cryptsetup wrote.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mntapi.crypto import gcrypt, openssl
from mntapi.crypto.derivation import digest
from mntapi.errors import Corrupt, Unsupported
from mntapi.units import SECTOR

BLOCK = 16
"""Bytes in a block of all ciphers here."""
RUN = 1 << 20
"""Bytes to decrypt at once: more is not faster, and other threads wait."""
NULL = "cipher_null"
_MODES = frozenset({"xts", "cbc"})
_VECTORS = frozenset({"plain", "plain64", "plain64be", "null", "essiv"})

_Vectors = Callable[[int, int], bytes]
"""(number of the first sector, count) to the vectors, 16 bytes each."""


class SectorCipher(Protocol):
    """Decrypts and encrypts whole sectors. Thread-safe."""

    def decrypt(self, content: memoryview, sector: int) -> None:
        """Decrypt ``content`` (writable, whole sectors) in place; ``sector`` is the number of its first, in 512 bytes."""

    def encrypt(self, content: memoryview, sector: int) -> None:
        """The reverse of ``decrypt``."""

    def close(self) -> None:
        """Overwrite the key; from then on all else raises Invalid."""


@dataclass(frozen=True, slots=True)
class CipherName:
    """The parts of ``aes-cbc-essiv:sha256``: ``aes``, ``cbc``, ``essiv``, ``sha256``."""

    cipher: str
    mode: str
    vector: str
    vector_hash: str


def parse_name(name: str) -> CipherName:
    """Take the name apart; what is not there is empty."""
    cipher, _, rest = name.partition("-")
    mode, _, vector = rest.partition("-")
    kind, _, vector_hash = vector.partition(":")
    return CipherName(cipher, mode, kind, vector_hash)


def sector_cipher(name: str, key: bytes, *, sector_size: int = SECTOR) -> SectorCipher:
    """What decrypts sectors of ``sector_size`` bytes with this key.

    Raises:
        Unsupported: the cipher, mode or vector is not one we read, or what it needs is not installed.
        Corrupt: the key is too long or too short for it.
    """
    check_name(name)
    parts = parse_name(name)
    if parts.cipher == NULL:
        return _Plain()
    if parts.mode == "xts":
        return _XtsSectors(_xts(parts.cipher, key), *_vectors(name, parts, key, sector_size), sector_size)
    return _CbcSectors(_cbc(parts.cipher, key), _vectors(name, parts, key, sector_size)[0], sector_size)


def check_name(name: str) -> None:
    """Raise Unsupported unless it is a cipher, mode and vector that we read. Loads nothing."""
    parts = parse_name(name)
    is_known = parts.cipher in gcrypt.CIPHERS and parts.mode in _MODES and parts.vector in _VECTORS
    if parts.cipher != NULL and not is_known:
        raise _unknown(name)


def _unknown(name: str) -> Unsupported:
    return Unsupported("is encrypted with a cipher that is not read", found=ascii(name), reason="cipher")


def _xts(cipher: str, key: bytes) -> gcrypt.Xts | openssl.Xts:
    if gcrypt.library() is None and cipher in openssl.CIPHERS:
        return openssl.Xts(cipher, key)
    return gcrypt.Xts(cipher, key)


def _cbc(cipher: str, key: bytes) -> gcrypt.Cbc | openssl.Cbc:
    if gcrypt.library() is None and cipher in openssl.CIPHERS:
        return openssl.Cbc(cipher, key)
    return gcrypt.Cbc(cipher, key)


def _vectors(name: str, parts: CipherName, key: bytes, sector_size: int) -> tuple[_Vectors, int]:
    """The vectors of sectors, and below which number they count up by one with each (0: they never do)."""
    step = sector_size // SECTOR
    if parts.vector == "essiv":
        salted = _block_cipher(name, parts.cipher, digest(parts.vector_hash, key))
        return (lambda first, count: salted.encrypt(_numbers(first, count, step))), 0
    if parts.vector == "null":
        return (lambda _first, count: bytes(BLOCK * count)), 0
    if parts.vector == "plain64be":
        return (lambda first, count: _numbers(first, count, step, is_big=True)), 0
    bits = 32 if parts.vector == "plain" else 64
    return (lambda first, count: _numbers(first, count, step, mask=(1 << bits) - 1)), 1 << bits if step == 1 else 0


def _block_cipher(name: str, cipher: str, key: bytes) -> openssl.Ecb | gcrypt.Ecb:
    try:
        is_ours = gcrypt.library() is None and cipher in openssl.CIPHERS
        return openssl.Ecb(cipher, key) if is_ours else gcrypt.Ecb(cipher, key)
    except Corrupt:
        raise _unknown(name) from None  # a hash that is no key for this cipher: what dm-crypt refuses as well


def _numbers(first: int, count: int, step: int, *, mask: int = (1 << 64) - 1, is_big: bool = False) -> bytes:
    """Vectors that are the sector's number: at the start and little-endian, or at the end and big-endian."""
    numbers = array("Q", (number & mask for number in range(first, first + count * step, step)))
    if is_big is (sys.byteorder == "little"):
        numbers.byteswap()
    result = array("Q", bytes(BLOCK * count))
    result[1 if is_big else 0 :: 2] = numbers
    return result.tobytes()


class _Plain:
    """The null cipher: what is stored is the plain text."""

    def decrypt(self, content: memoryview, sector: int) -> None:
        """Nothing to do."""

    def encrypt(self, content: memoryview, sector: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to overwrite."""


class _XtsSectors:
    """Sectors in XTS mode."""

    def __init__(self, engine: gcrypt.Xts | openssl.Xts, vectors: _Vectors, counts_below: int, sector_size: int) -> None:
        self._engine = engine
        self._vectors = vectors
        self._counts_below = counts_below
        self._sector_size = sector_size
        self.close = engine.close

    def decrypt(self, content: memoryview, sector: int) -> None:
        count = len(content) // self._sector_size
        if isinstance(self._engine, gcrypt.Xts) and sector + count <= self._counts_below:
            self._engine.decrypt_counting(content, self._vectors(sector, 1), self._sector_size)
        else:
            self._engine.decrypt(content, self._vectors(sector, count), self._sector_size)

    def encrypt(self, content: memoryview, sector: int) -> None:
        count = len(content) // self._sector_size
        if isinstance(self._engine, gcrypt.Xts) and sector + count <= self._counts_below:
            self._engine.encrypt_counting(content, self._vectors(sector, 1), self._sector_size)
        else:
            self._engine.encrypt(content, self._vectors(sector, count), self._sector_size)


class _CbcSectors:
    """Sectors in CBC mode: all decrypted as one message, then the first block of each put right.

    In the message it was combined with the last stored block of the sector before, in truth with its sector's vector.
    Encrypting has no such way: every block waits for the one before it.
    """

    def __init__(self, engine: openssl.Cbc | gcrypt.Cbc, vectors: _Vectors, sector_size: int) -> None:
        self._engine = engine
        self._vectors = vectors
        self._sector_size = sector_size
        self._words = sector_size // 8
        self.close = engine.close

    def decrypt(self, content: memoryview, sector: int) -> None:
        words = content.cast("Q")
        step, count = self._words, len(words) // self._words
        vectors = memoryview(self._vectors(sector, count)).cast("Q")
        stored = [words[step - 2 + half : -step : step].tobytes() for half in (0, 1)]  # of all but the last sector
        self._engine.decrypt(content, vectors[:2].tobytes())
        for half in (0, 1) if count > 1 else ():
            firsts = words[step + half :: step]
            wrong = _xor(firsts.tobytes(), stored[half])
            firsts[:] = memoryview(_xor(wrong, vectors[2 + half :: 2].tobytes())).cast("Q")

    def encrypt(self, content: memoryview, sector: int) -> None:
        vectors = self._vectors(sector, len(content) // self._sector_size)
        self._engine.encrypt(content, vectors, self._sector_size)


def _xor(one: bytes, two: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(two, "little")).to_bytes(len(one), "little")
