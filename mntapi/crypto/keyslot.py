"""A LUKS key slot: the master key, encrypted with a key that comes from a passphrase. The same thing in LUKS1 and LUKS2.

Source: LUKS1 On-Disk Format Specification 1.2.3, section 4.2 and figure 5; LUKS2 On-Disk Format Specification 1.1.1, sections
3.2 (key slots), 3.4 (digests) and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mntapi.crypto import derivation
from mntapi.crypto.sectors import sector_cipher
from mntapi.errors import Corrupt
from mntapi.units import KIB, SECTOR, align_up, format_size

Read = Callable[[int, int], bytes]
"""Bytes at (offset, length), both in bytes from the start of the header."""

MAX_STRIPES = 8192
"""Stripes of a key slot; all programs write 4000."""
MAX_KEY_SIZE = 512
"""Bytes of a master key; the longest that a cipher takes is 64, and an authenticated one some more."""
_SLOW_ITERATIONS = 1_000_000
"""Of PBKDF2, with SHA-256 about a second."""
_SLOW_ARGON2 = 2 << 20
"""KiB of memory times passes over it, about a second."""


@dataclass(frozen=True, slots=True)
class Kdf:
    """How a key comes from a passphrase. ``passes`` are PBKDF2's iterations or Argon2's passes over ``memory`` KiB."""

    kind: str
    salt: bytes
    passes: int
    hash_name: str = ""
    memory: int = 0
    lanes: int = 1

    def derive(self, passphrase: bytes | memoryview, length: int) -> bytes:
        """A key of ``length`` bytes. Raises Unsupported if that would take too long or too much memory."""
        if self.kind == "pbkdf2":
            return derivation.pbkdf2(self.hash_name, passphrase, self.salt, self.passes, length)
        return derivation.argon2(
            self.kind, passphrase, self.salt, time=self.passes, memory=self.memory, lanes=self.lanes, length=length
        )

    @property
    def is_slow(self) -> bool:
        """Whether a person notices it, by what processors do in about a second."""
        return self.passes >= _SLOW_ITERATIONS if self.kind == "pbkdf2" else self.memory * self.passes >= _SLOW_ARGON2

    def __str__(self) -> str:
        if self.kind == "pbkdf2":
            return f"pbkdf2-{self.hash_name} x {self.passes}"
        return f"{self.kind} {format_size(self.memory * KIB)} x {self.passes}"


@dataclass(frozen=True, slots=True)
class KeySlot:
    """A key slot in use; offsets and sizes in bytes, the offset from the start of the header."""

    number: int
    kdf: Kdf
    key_size: int
    stripes: int
    split_hash: str
    area_offset: int
    area_key_size: int
    encryption: str
    priority: int = 1
    place: int | None = None
    """Where its numbers are in the header of LUKS1, for messages."""

    @property
    def area_size(self) -> int:
        """Bytes of the encrypted stripes."""
        return self.key_size * self.stripes

    def candidate(self, passphrase: bytes | memoryview, read: Read) -> bytes:
        """The master key if the passphrase is right, other bytes if not.

        Raises:
            Unsupported: a hash, cipher or cost that is not accepted.
            Corrupt: parameters that contradict each other.
            MntapiError: what ``read`` raises.
        """
        self._check()
        stored = read(self.area_offset, align_up(self.area_size, SECTOR))
        material = memoryview(bytearray(stored))
        cipher = sector_cipher(self.encryption, self.kdf.derive(passphrase, self.area_key_size))
        try:
            cipher.decrypt(material, 0)
            return derivation.merge(bytes(material[: self.area_size]), self.key_size, self.stripes, self.split_hash)
        finally:
            cipher.close()
            material[:] = bytes(len(material))

    def _check(self) -> None:
        if self.kdf.kind == "pbkdf2":
            derivation.check_iterations(self.kdf.passes, offset=None if self.place is None else self.place + 4)
        if not 1 <= self.stripes <= MAX_STRIPES:
            offset = None if self.place is None else self.place + 44
            what = "the number of stripes is not possible"
            raise Corrupt(what, offset=offset, expected=f"1 .. {MAX_STRIPES}", found=self.stripes)


@dataclass(frozen=True, slots=True)
class Digest:
    """What tells whether a candidate is the master key."""

    hash_name: str
    salt: bytes
    iterations: int
    content: bytes

    def fits(self, candidate: bytes) -> bool:
        """Whether it is."""
        found = derivation.pbkdf2(self.hash_name, candidate, self.salt, self.iterations, len(self.content))
        return derivation.is_equal(found, self.content)
