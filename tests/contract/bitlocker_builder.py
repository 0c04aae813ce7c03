"""Makes small BitLocker volumes, sector after sector and word after word: slow, and written from the description of the format
alone, so that what reads them in another way is checked by it. Tests have libbde and dislocker read them as well."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

VOLUME = UUID("11111111-2222-3333-4444-555555555555")
PASSWORD_ID = UUID("aaaaaaaa-0000-0000-0000-000000000001")
RECOVERY_ID = UUID("aaaaaaaa-0000-0000-0000-000000000002")
STARTUP_ID = UUID("aaaaaaaa-0000-0000-0000-000000000003")
CLEAR_ID = UUID("aaaaaaaa-0000-0000-0000-000000000004")
TPM_ID = UUID("aaaaaaaa-0000-0000-0000-000000000005")
PASSWORD = "Sesam öffne dich"
RECOVERY = "-".join(f"{11 * number:06}" for number in (1, 22, 333, 4444, 55555, 10101, 20202, 30303))
STARTUP_KEY = bytes(range(32))
_CLEAR_KEY = bytes(range(32, 64))
_MASTER = bytes(range(64, 96))
_DATA_KEY = sha256(b"one").digest() + sha256(b"two").digest()
_SALT = bytes(range(100, 116))
KEY_SIZES = {0x8000: 64, 0x8001: 64, 0x8002: 16, 0x8003: 32, 0x8004: 32, 0x8005: 64}

COPIES = (0x10000, 0x30000, 0x50000)
RELOCATED = 0x28000
RELOCATED_SIZE = 8192
SIZE = 0x70000


@dataclass
class Eow:
    """Encrypt-on-write: which chunks of each region are encrypted, and where the structures lie."""

    chunk: int
    regions: Sequence[tuple[int, int, Sequence[bool]]]
    """(start, length, one for each chunk)."""
    headers: tuple[int, int] = (0x60000, 0x61000)
    bitmaps: int = 0x62000
    """Each region's bitmap, 0x1000 further on than the one before, with its log behind it."""
    log: int = 0x800
    flags: int = 0
    broken_records: tuple[int, ...] = ()

    def hidden(self) -> list[tuple[int, int]]:
        areas = [(at, 512) for at in self.headers]
        for number, _ in enumerate(self.regions):
            areas += [(self.bitmaps + number * 0x1000, 1536), (self.bitmaps + number * 0x1000 + 0x800, self.log)]
        return areas


@dataclass
class Volume:
    """What to build. ``border``: up to where it is encrypted (its end if None)."""

    plain: bytes
    method: int = 0x8004
    protectors: Sequence[UUID] = (STARTUP_ID,)
    sector_size: int = 512
    version: int = 2
    to_go: bool = False
    state: int = 4
    border: int | None = None
    state_size: int = 0
    eow: Eow | None = None
    description: str = "HOST C: 1/1/2026"
    broken_copies: Sequence[int] = field(default=())

    def image(self) -> bytes:
        """The volume as it lies on the disk."""
        return _build(self)

    def shown(self) -> bytes:
        """The volume as Windows shows it: the plain bytes, with zeros where BitLocker's own are."""
        content = bytearray(self.plain)
        for start, length in self.hidden():
            content[start : start + length] = bytes(length)
        return bytes(content)

    def hidden(self) -> list[tuple[int, int]]:
        if self.version == 1:
            return [(copy, 16384) for copy in COPIES]
        areas = [(copy, 65536) for copy in COPIES] + [(RELOCATED, RELOCATED_SIZE)]
        return areas + (self.eow.hidden() if self.eow else [])


def _build(volume: Volume) -> bytes:
    image = bytearray(volume.plain)
    for start in range(0, len(image), volume.sector_size):
        if _is_encrypted(volume, start):
            image[start : start + volume.sector_size] = _encrypt(volume, image[start : start + volume.sector_size], start)
    if volume.version == 1:
        image[:8192] = volume.plain[:8192]
        image[3:11] = b"-FVE-FS-"
        image[56:64] = struct.pack("<Q", COPIES[0] // 4096)
        image[11:14] = struct.pack("<HB", 512, 8)
    else:
        for start in range(0, RELOCATED_SIZE, volume.sector_size):
            moved, at = volume.plain[start : start + volume.sector_size], RELOCATED + start
            image[at : at + volume.sector_size] = _encrypt(volume, moved, at) if _is_encrypted(volume, at) else moved
        image[:RELOCATED_SIZE] = bytes(RELOCATED_SIZE)
        image[:512] = _boot_sector(volume)
    for copy in COPIES:
        image[copy : copy + 65536 if volume.version == 2 else copy + 16384] = _metadata(volume)
    for number in volume.broken_copies:
        image[COPIES[number] + 100] ^= 0xFF
    if volume.eow:
        _write_eow(volume.eow, image)
    return bytes(image)


def _is_encrypted(volume: Volume, at: int) -> bool:
    if volume.state == 1:
        return False
    if volume.eow:
        for start, length, chunks in volume.eow.regions:
            if start <= at < start + length:
                return chunks[(at - start) // volume.eow.chunk]
        return False
    return volume.border is None or at < volume.border


def _boot_sector(volume: Volume) -> bytes:
    sector = bytearray(512)
    sector[:11] = b"\xeb\x58\x90MSWIN4.1" if volume.to_go else b"\xeb\x58\x90-FVE-FS-"
    sector[11:14] = struct.pack("<HB", volume.sector_size, 8)
    at = 424 if volume.to_go else 160
    guid = "92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8" if volume.eow else "4967d63b-2e29-4ad8-8399-f6a339e3d001"
    sector[at : at + 40] = UUID(guid).bytes_le + struct.pack("<3Q", *COPIES)
    if volume.eow:
        sector[at + 40 : at + 56] = struct.pack("<2Q", *volume.eow.headers)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def _entry(role: int, kind: int, data: bytes) -> bytes:
    return struct.pack("<4H", len(data) + 8, role, kind, 1) + data


def _key(method: int, key: bytes) -> bytes:
    return _entry(0, 1, struct.pack("<I", method) + key)


def _sealed(key: bytes, content: bytes, role: int = 0) -> bytes:
    nonce = struct.pack("<QI", 132601471973043090, len(content))
    sealed = AESCCM(key, tag_length=16).encrypt(nonce, content, None)
    return _entry(role, 5, nonce + sealed[-16:] + sealed[:-16])


@lru_cache(maxsize=8)
def _stretch(digest: bytes) -> bytes:
    last = bytes(32)
    for count in range(1 << 20):
        last = sha256(last + digest + _SALT + count.to_bytes(8, "little")).digest()
    return last


def _protector(guid: UUID) -> bytes:
    protection, opener, properties = 0, b"", b""
    if guid == PASSWORD_ID:
        protection, opener = 0x2000, _stretch(sha256(sha256(PASSWORD.encode("utf-16-le")).digest()).digest())
    elif guid == RECOVERY_ID:
        halves = b"".join((int(group) // 11).to_bytes(2, "little") for group in RECOVERY.split("-"))
        protection, opener = 0x0800, _stretch(sha256(halves).digest())
    elif guid == STARTUP_ID:
        protection, opener, properties = 0x0200, STARTUP_KEY, _entry(0, 2, "ExternalKey\0".encode("utf-16-le"))
    elif guid == CLEAR_ID:
        opener, properties = _CLEAR_KEY, _key(0x2002, _CLEAR_KEY)
    elif guid == TPM_ID:
        protection, opener = 0x0100, sha256(b"in the TPM").digest()
    if protection in (0x0800, 0x2000):
        properties = _entry(0, 3, struct.pack("<I", 0x1000) + _SALT)
    properties += _sealed(opener, _key(0x2003, _MASTER))
    return _entry(2, 8, guid.bytes_le + struct.pack("<Q2H", 132601471973043090, 0, protection) + properties)


def startup_key_file(guid: UUID = STARTUP_ID, key: bytes = STARTUP_KEY) -> bytes:
    """A .BEK file."""
    external = _entry(6, 9, guid.bytes_le + struct.pack("<Q", 0) + _key(0x2002, key))
    size = 48 + len(external)
    return struct.pack("<4I16sI2HQ", size, 1, 48, size, guid.bytes_le, 1, 0, 0, 132601471973043090) + external


def _metadata(volume: Volume) -> bytes:
    entries = _entry(7, 2, (volume.description + "\0").encode("utf-16-le"))
    entries += b"".join(_protector(guid) for guid in volume.protectors)
    if volume.state != 1:
        entries += _sealed(_MASTER, _key(volume.method, _DATA_KEY[: KEY_SIZES[volume.method]]), role=3)
    if volume.version == 2:
        entries += _entry(15, 15, struct.pack("<2Q", RELOCATED, RELOCATED_SIZE))
    size = 48 + len(entries)
    data_set = struct.pack("<4I16sI2HQ", size, 1, 48, size, VOLUME.bytes_le, 9, volume.method, 0, 132601471973043090)
    unit = 16 if volume.version == 2 else 1
    total = -(-(64 + size) // unit)
    border = len(volume.plain) if volume.border is None and volume.state == 4 else volume.border or 0
    header = struct.pack(
        "<8s4HQ2I3QQ",
        b"-FVE-FS-",
        total,
        volume.version,
        volume.state,
        volume.state,
        border if volume.version == 2 else 0,
        volume.state_size,
        RELOCATED_SIZE // volume.sector_size if volume.version == 2 else 0,
        *COPIES,
        RELOCATED if volume.version == 2 else _mirror(volume),
    )
    block = (header + data_set + entries).ljust(total * unit, b"\0")
    whole = 65536 if volume.version == 2 else 16384
    return (block + struct.pack("<2HI", whole - len(block), volume.version, zlib.crc32(block))).ljust(whole, b"\0")


def _mirror(volume: Volume) -> int:
    found: int = struct.unpack_from("<Q", volume.plain, 56)[0]
    return found


def _write_eow(eow: Eow, image: bytearray) -> None:
    places = [eow.bitmaps + number * 0x1000 for number, _ in enumerate(eow.regions)]
    size = 56 + 8 * len(places)
    fields = (b"FVE-EOW\0", 56, size, 512, 512, eow.chunk, eow.log, 0, len(places), 0, *eow.headers, *places)
    header = bytearray(struct.pack(f"<8s2H7I2Q{len(places)}Q", *fields))
    header[36:40] = struct.pack("<I", zlib.crc32(header))
    for at in eow.headers:
        image[at : at + size] = header
    for number, (place, (start, length, chunks)) in enumerate(zip(places, eow.regions, strict=True)):
        fields = (b"FVE-EOWBM\0", 60, 1536, number, start, length, place + 0x800, 512, 1024, 512, 0)
        content = bytearray(struct.pack("<10sH2I3Q4I", *fields)).ljust(1536, b"\0")
        content[56:60] = struct.pack("<I", zlib.crc32(content[:512]))
        bits = sum(1 << index for index, is_encrypted in enumerate(chunks) if is_encrypted)
        for record, sequence in ((512, 7), (1024, 6)):  # the older one says the opposite
            value = bits if sequence == 7 else ~bits & 0xFFFFFFFF
            fields = (b"FVE-EOWBR\0", 36, 512, len(chunks), sequence, eow.flags, 0)
            written = bytearray(struct.pack("<10sH2IQ2I", *fields)) + value.to_bytes(476, "little")
            written[32:36] = struct.pack("<I", zlib.crc32(written))
            if number in eow.broken_records:
                written[40] ^= 0xFF
            content[record : record + 512] = written
        image[place : place + 1536] = content


def _encrypt(volume: Volume, sector: bytes | bytearray, at: int) -> bytes:
    size = 32 if volume.method & 1 else 16
    if volume.method >= 0x8004:
        tweak = (at // volume.sector_size).to_bytes(16, "little")
        return Cipher(algorithms.AES(_DATA_KEY[: 2 * size]), modes.XTS(tweak)).encryptor().update(bytes(sector))
    if volume.method < 0x8002:
        sector = _diffused(sector, _DATA_KEY[32 : 32 + size], at)
    vector = _block(_DATA_KEY[:size], at)
    return Cipher(algorithms.AES(_DATA_KEY[:size]), modes.CBC(vector)).encryptor().update(bytes(sector))


def _block(key: bytes, number: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(number.to_bytes(16, "little"))


def _diffused(sector: bytes | bytearray, tweak_key: bytes, at: int) -> bytes:
    """Sector key, then diffuser A, then diffuser B, in the direction of encryption (Ferguson 2006, section 5)."""
    pad = (_block(tweak_key, at) + _block(tweak_key, at | 1 << 127)) * (len(sector) // 32)
    words = list(struct.unpack(f"<{len(sector) // 4}I", bytes(a ^ b for a, b in zip(sector, pad, strict=True))))
    count = len(words)
    for cycles, near, far, turns in ((5, -2, -5, (9, 0, 13, 0)), (3, 2, 5, (0, 10, 0, 25))):
        for step in range(cycles * count - 1, -1, -1):
            index = step % count
            other, turn = words[(index + far) % count], turns[step % 4]
            turned = (other << turn | other >> (32 - turn)) & 0xFFFFFFFF
            words[index] = (words[index] - (words[(index + near) % count] ^ turned)) & 0xFFFFFFFF
    return struct.pack(f"<{count}I", *words)


def some_ntfs(content: bytes) -> bytes:
    """The content with the boot sector of an NTFS volume of its size."""
    boot = b"\xeb\x52\x90NTFS    " + struct.pack("<HB", 512, 8)
    boot = boot.ljust(40, b"\0") + struct.pack("<3Qb3xb3xQ", len(content) // 512 - 1, 4, 8, -10, 1, 0x1122334455667788)
    return boot.ljust(510, b"\0") + b"\x55\xaa" + content[512:]
