"""LUKS2 headers written by hand, for what cryptsetup never writes. Content is encrypted by the package cryptography."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KIB = 1024
KEY = bytes(range(1, 65))
"""The master key, for AES-256-XTS."""
PASSPHRASE = b"open sesame"
AREA = 32 * KIB
DATA = 320 * KIB
_BINARY = struct.Struct(">6sHQQ48s32s64s40s48sQ184x64s")


def xts(key: bytes, content: bytes, sector: int, size: int = 512) -> bytes:
    """Encrypted as sectors of ``size`` bytes, the first of which has the number ``sector``."""
    parts = []
    for at in range(0, len(content), size):
        tweak = (sector + at // 512).to_bytes(16, "little")
        parts.append(Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor().update(content[at : at + size]))
    return b"".join(parts)


def split(key: bytes, stripes: int) -> bytes:
    """The anti-forensic split with SHA-256, all stripes but the last being zeros: written after the specification."""
    block = bytes(len(key))
    for _ in range(stripes - 1):
        parts = [block[at : at + 32] for at in range(0, len(block), 32)]
        block = b"".join(
            hashlib.sha256(number.to_bytes(4, "big") + part).digest()[: len(part)] for number, part in enumerate(parts)
        )
    last = bytes(one ^ other for one, other in zip(block, key, strict=True))
    return bytes(len(key)) * (stripes - 1) + last


def metadata() -> dict[str, Any]:
    """A correct one: a slot with few stripes for ``PASSPHRASE``, a segment."""
    salt = base64.b64encode(bytes(32)).decode()
    digest = hashlib.pbkdf2_hmac("sha256", KEY, bytes(32), 10, 32)
    return {
        "keyslots": {
            "0": {
                "type": "luks2",
                "key_size": 64,
                "af": {"type": "luks1", "stripes": 40, "hash": "sha256"},
                "area": {
                    "type": "raw",
                    "offset": str(AREA),
                    "size": "131072",
                    "encryption": "aes-xts-plain64",
                    "key_size": 64,
                },
                "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 10, "salt": salt},
            }
        },
        "tokens": {},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": str(DATA),
                "size": "dynamic",
                "iv_tweak": "0",
                "encryption": "aes-xts-plain64",
                "sector_size": 512,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2",
                "keyslots": ["0"],
                "segments": ["0"],
                "hash": "sha256",
                "iterations": 10,
                "salt": salt,
                "digest": base64.b64encode(digest).decode(),
            }
        },
        "config": {"json_size": "12288", "keyslots_size": "262144"},
    }


def copy(text: bytes, *, offset: int = 0, size: int = 16 * KIB, sequence: int = 1, **fields: Any) -> bytes:
    """One copy of a header with its checksum; ``fields`` replace those of the binary part."""
    values = {
        "magic": b"SKUL\xba\xbe" if offset else b"LUKS\xba\xbe",
        "version": 2,
        "size": size,
        "sequence": sequence,
        "label": b"hand-made",
        "checksum": b"sha256",
        "salt": bytes(64),
        "uuid": b"4c554b53-1111-4000-8000-000000000000",
        "subsystem": b"",
        "offset": offset,
    } | fields
    binary = _BINARY.pack(*values.values(), bytes(64)).ljust(4096, b"\0")
    whole = (binary + text).ljust(size, b"\0")
    checksum = hashlib.sha256(whole).digest()
    return whole[:448] + checksum + whole[480:]


def volume(fields: dict[str, Any] | bytes, content: bytes = b"", **binary: Any) -> bytes:
    """Two copies of a header, the slot's material, and at ``DATA`` what is given, encrypted as it is."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    head = copy(text, **binary) + copy(text, offset=16 * KIB, **binary)
    slot_key = hashlib.pbkdf2_hmac("sha256", PASSPHRASE, bytes(32), 10, 64)
    material = xts(slot_key, split(KEY, 40), 0)
    return (head + material).ljust(DATA, b"\0") + content
