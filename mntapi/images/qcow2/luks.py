"""The LUKS header inside an encrypted QCOW2 file: its master key, from a passphrase.

Source: LUKS1 On-Disk Format Specification 1.2.3, sections 2.4 (anti-forensic splitter), 4 and figures 1, 3 and 5; QEMU,
docs/interop/qcow2 ("Full disk encryption header pointer"): key material is counted from the LUKS header, not from the file.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mntapi.errors import Corrupt, Unsupported

HEADER_LENGTH = 592
MAGIC = b"LUKS\xba\xbe"
KEY_ENABLED = 0x00AC71F3
MAX_ITERATIONS = 10_000_000
"""PBKDF2 iterations; what QEMU and cryptsetup choose for a second or two of work is below that."""
MAX_STRIPES = 8192
"""Stripes of a key slot; all programs write 4000."""
KEY_SIZES = (16, 24, 32, 48, 64)
HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512")

_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")


@dataclass(frozen=True, slots=True)
class KeySlot:
    """A key slot in use: where its material is (bytes from the LUKS header), in how many stripes."""

    iterations: int
    salt: bytes
    material_offset: int
    stripes: int


@dataclass(frozen=True, slots=True)
class LuksHeader:
    """A checked header; ``key_size`` in bytes."""

    cipher: str
    """Cipher and mode as dm-crypt spells them: ``aes-xts-plain64``."""
    hash_name: str
    key_size: int
    digest: bytes
    digest_salt: bytes
    digest_iterations: int
    slots: tuple[KeySlot, ...]


def parse_luks(raw: bytes) -> LuksHeader:
    """The header at the start of ``raw``. Raises Corrupt or Unsupported, with offsets from its start."""
    if len(raw) < HEADER_LENGTH:
        raise Corrupt("is too short for a LUKS header", offset=0, expected=f"{HEADER_LENGTH} bytes", found=len(raw))
    magic, version, cipher, mode, hash_spec, _, key_size, digest, salt, iterations, _ = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise Corrupt("the encryption header is not LUKS", offset=0, expected=MAGIC.hex(), found=magic.hex())
    hash_name = _word(hash_spec)
    if version != 1 or hash_name not in HASHES:
        raise Unsupported(
            "LUKS of this kind is not read", offset=6, found=f"version {version}, {hash_name!a}", reason="encrypted"
        )
    if key_size not in KEY_SIZES:
        raise Corrupt("the key size is not possible", offset=108, expected=KEY_SIZES, found=key_size)
    _check_iterations(iterations, 164)
    slots = tuple(slot for number in range(8) if (slot := _parse_slot(raw, _HEADER.size + number * _SLOT.size)))
    return LuksHeader(f"{_word(cipher)}-{_word(mode)}", hash_name, key_size, digest, salt, iterations, slots)


def _word(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def _check_iterations(count: int, offset: int) -> None:
    if not 1 <= count <= MAX_ITERATIONS:
        raise Corrupt("the iteration count is not possible", offset=offset, expected=f"1 .. {MAX_ITERATIONS}", found=count)


def _parse_slot(raw: bytes, offset: int) -> KeySlot | None:
    state, iterations, salt, material_sector, stripes = _SLOT.unpack_from(raw, offset)
    if state != KEY_ENABLED:
        return None
    _check_iterations(iterations, offset + 4)
    if not 1 <= stripes <= MAX_STRIPES:
        raise Corrupt(
            "the number of stripes is not possible", offset=offset + 44, expected=f"1 .. {MAX_STRIPES}", found=stripes
        )
    return KeySlot(iterations, salt, material_sector * 512, stripes)


def master_key(
    header: LuksHeader,
    passphrases: Sequence[bytes],
    read_material: Callable[[int, int], bytes],
    decrypt: Callable[[bytes, bytes], bytes],
) -> bytes | None:
    """The master key that the first fitting passphrase opens, or None.

    Args:
        header: the parsed header.
        passphrases: what to try.
        read_material: bytes at (offset from the LUKS header, length).
        decrypt: (key, content) decrypted as sectors from 0 on.
    """
    for passphrase in passphrases:
        for slot in header.slots:
            key = hashlib.pbkdf2_hmac(header.hash_name, passphrase, slot.salt, slot.iterations, header.key_size)
            material = read_material(slot.material_offset, header.key_size * slot.stripes)
            candidate = _merged(decrypt(key, material), header.key_size, slot.stripes, header.hash_name)
            digest = hashlib.pbkdf2_hmac(header.hash_name, candidate, header.digest_salt, header.digest_iterations, 20)
            if hmac.compare_digest(digest, header.digest):
                return candidate
    return None


def _merged(material: bytes, size: int, stripes: int, hash_name: str) -> bytes:
    """The anti-forensic merge of ``stripes`` stripes of ``size`` bytes."""
    block = bytes(size)
    for number in range(stripes - 1):
        block = _diffused(_xor(block, material[number * size : (number + 1) * size]), hash_name)
    return _xor(block, material[(stripes - 1) * size : stripes * size])


def _xor(one: bytes, two: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(two, "big")).to_bytes(len(one), "big")


def _diffused(block: bytes, hash_name: str) -> bytes:
    size = hashlib.new(hash_name).digest_size
    parts = [
        hashlib.new(hash_name, number.to_bytes(4, "big") + block[start : start + size]).digest()[: len(block) - start]
        for number, start in enumerate(range(0, len(block), size))
    ]
    return b"".join(parts)
