"""The header of LUKS1: on volumes, and inside encrypted QCOW2 files.

Source: LUKS1 On-Disk Format Specification 1.2.3, figures 1 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mntapi.crypto.derivation import check_iterations
from mntapi.crypto.keyslot import Digest, Kdf, KeySlot, Read
from mntapi.errors import Corrupt, MntapiError, Unsupported
from mntapi.units import SECTOR

HEADER_LENGTH = 592
MAGIC = b"LUKS\xba\xbe"
KEY_ENABLED = 0x00AC71F3
KEY_SIZES = (16, 24, 32, 48, 64)

_SLOTS = 8
_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")


@dataclass(frozen=True, slots=True)
class Luks1Header:
    """A checked header; sizes and offsets in bytes, offsets from its start."""

    cipher: str
    """Cipher, mode and vectors as dm-crypt spells them: ``aes-xts-plain64``."""
    key_size: int
    payload_offset: int
    uuid: str
    digest: Digest
    slots: tuple[KeySlot, ...]


def parse_luks1(raw: bytes) -> Luks1Header:
    """The header at the start of ``raw``. Raises Corrupt or Unsupported, with offsets from its start.

    The numbers of a key slot are checked when it is tried: one that is spoilt spoils no other.
    """
    if len(raw) < HEADER_LENGTH:
        raise Corrupt("is too short for a LUKS header", offset=0, expected=f"{HEADER_LENGTH} bytes", found=len(raw))
    magic, version, cipher, mode, hash_spec, payload_sector, key_size, digest, salt, iterations, uuid = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise Corrupt("the encryption header is not LUKS", offset=0, expected=MAGIC.hex(), found=magic.hex())
    if version != 1:
        raise Unsupported("LUKS of this version is not read here", offset=6, found=f"version {version}", reason="encrypted")
    if key_size not in KEY_SIZES:
        raise Corrupt("the key size is not possible", offset=108, expected=KEY_SIZES, found=key_size)
    name, hash_name = f"{_word(cipher)}-{_word(mode)}", _word(hash_spec)
    check_iterations(iterations, offset=164)
    slots = [_parse_slot(raw, number, name, hash_name, key_size) for number in range(_SLOTS)]
    return Luks1Header(
        cipher=name,
        key_size=key_size,
        payload_offset=payload_sector * SECTOR,
        uuid=_word(uuid),
        digest=Digest(hash_name, salt, iterations, digest),
        slots=tuple(slot for slot in slots if slot is not None),
    )


def _word(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def _parse_slot(raw: bytes, number: int, cipher: str, hash_name: str, key_size: int) -> KeySlot | None:
    place = _HEADER.size + number * _SLOT.size
    state, iterations, salt, material_sector, stripes = _SLOT.unpack_from(raw, place)
    if state != KEY_ENABLED:
        return None
    return KeySlot(
        number=number,
        kdf=Kdf("pbkdf2", salt, iterations, hash_name),
        key_size=key_size,
        stripes=stripes,
        split_hash=hash_name,
        area_offset=material_sector * SECTOR,
        area_key_size=key_size,
        encryption=cipher,
        place=place,
    )


def master_key(header: Luks1Header, passphrases: Iterable[bytes], read: Read) -> bytes | None:
    """The master key that the first fitting passphrase opens, or None.

    Raises:
        MntapiError: none fits, and a slot could not be tried.
    """
    trouble: MntapiError | None = None
    for passphrase in passphrases:
        for slot in header.slots:
            try:
                key = slot.candidate(passphrase, read)
            except MntapiError as error:
                trouble = trouble or error
                continue
            if header.digest.fits(key):
                return key
    if trouble is not None:
        raise trouble
    return None
