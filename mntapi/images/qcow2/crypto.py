"""Encrypted clusters: LUKS inside the file, and QEMU's old AES; decrypted 512 bytes at a time, as both were written.

Source: QEMU, docs/interop/qcow2 ("Data encryption"). The sector that goes into the initialization vector is the one of the file
(LUKS) or of the guest's disk (old AES). The key of old AES is the passphrase itself, 16 bytes, cut or filled with zeros: seen
on images made by qemu-img, where the specification says 256 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mntapi.blocks import read_clipped, whole
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.images.qcow2.header import CryptMethod, Header
from mntapi.images.qcow2.luks import HEADER_LENGTH, LuksHeader, master_key, parse_luks
from mntapi.images.qcow2.mapping import Source
from mntapi.types import Extent, ExtentKind, FileBlocks
from mntapi.units import SECTOR, align_down, align_up

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

    _SectorCipher = Callable[[int], CipherContext]
    """What decrypts the sector with that number."""

CHUNK = 1 << 20
"""Bytes that are decrypted at once."""


def decrypting(file: FileBlocks, data_file: FileBlocks, header: Header, passphrases: Sequence[bytes]) -> Source:
    """The clusters in ``data_file`` in the clear.

    Raises:
        Unsupported: no passphrase was given, or the cipher is not one we read, or the package cryptography is absent.
        Denied: no passphrase fits (LUKS; old AES cannot tell).
        Corrupt: the LUKS header contradicts its format.
    """
    if not passphrases:
        raise Unsupported(
            f"is encrypted ({header.crypt_method.name})",
            path=file.path,
            offset=32,
            hint="give its passphrase",
            reason="encrypted",
        )
    if header.crypt_method is CryptMethod.AES:
        key = passphrases[0][:16].ljust(16, b"\0")
        return _Decrypting(data_file, _sector_cipher("aes-cbc-plain64", key, file.path), guest_keyed=True)
    luks, key = _open_luks(file, header, passphrases)
    return _Decrypting(data_file, _sector_cipher(luks.cipher, key, file.path), guest_keyed=False)


def _open_luks(file: FileBlocks, header: Header, passphrases: Sequence[bytes]) -> tuple[LuksHeader, bytes]:
    if header.extensions.crypto is None:
        raise Corrupt("is encrypted with LUKS and does not say where its header is", path=file.path, offset=32)
    start, length = header.extensions.crypto

    def read_material(offset: int, count: int) -> bytes:
        if offset + count > length or start + offset + count > file.size:
            raise Corrupt("key material lies outside the encryption header", path=file.path, offset=start + offset)
        return read_clipped(file, start + offset, count)

    try:
        luks = parse_luks(read_clipped(file, start, min(length, HEADER_LENGTH)))
    except MntapiError as error:
        raise error.located(path=file.path, base=start) from None

    def decrypt(key: bytes, content: bytes) -> bytes:
        padded = bytearray(content.ljust(align_up(len(content), SECTOR), b"\0"))
        _decrypt(_sector_cipher(luks.cipher, key, file.path), memoryview(padded), 0)
        return bytes(padded[: len(content)])

    key = master_key(luks, passphrases, read_material, decrypt)
    if key is None:
        raise Denied("no passphrase that was given opens it", path=file.path, offset=start, reason="encrypted")
    return luks, key


def _sector_cipher(name: str, key: bytes, path: str) -> _SectorCipher:
    """What decrypts sectors with the cipher of that name, as dm-crypt spells it."""
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as error:
        raise Unsupported(
            "is encrypted, which needs the Python package cryptography",
            path=path,
            hint="pip install cryptography",
            reason="encrypted",
        ) from error
    try:
        aes = algorithms.AES(key)
        salt = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB())
        ciphers: dict[str, _SectorCipher] = {
            "aes-xts-plain64": lambda sector: Cipher(aes, modes.XTS(_plain64(sector))).decryptor(),
            "aes-cbc-plain64": lambda sector: Cipher(aes, modes.CBC(_plain64(sector))).decryptor(),
            "aes-cbc-essiv:sha256": lambda sector: Cipher(
                aes, modes.CBC(salt.encryptor().update(_plain64(sector)))
            ).decryptor(),
        }
        if name in ciphers:
            ciphers[name](0)
            return ciphers[name]
    except ValueError as error:
        raise Corrupt("the key size does not fit the cipher", path=path, found=f"{len(key)} bytes for {name!a}") from error
    raise Unsupported("is encrypted with a cipher that is not read", path=path, found=ascii(name), reason="encrypted")


def _plain64(sector: int) -> bytes:
    return sector.to_bytes(16, "little")


def _decrypt(cipher_of: _SectorCipher, content: memoryview, sector: int) -> None:
    """Decrypt whole sectors in place."""
    for start in range(0, len(content), SECTOR):
        part = content[start : start + SECTOR]
        part[:] = cipher_of(sector + start // SECTOR).update(part)


class _Decrypting:
    """A file's clusters in the clear. ``guest_keyed``: addresses are ``(host - guest << 64) + guest``, see ``Stores``."""

    def __init__(self, file: FileBlocks, cipher_of: _SectorCipher, *, guest_keyed: bool) -> None:
        self._file = file
        self._cipher_of = cipher_of
        self._guest_keyed = guest_keyed

    def readinto(self, offset: int, buffer: memoryview) -> None:
        guest = offset & ((1 << 64) - 1) if self._guest_keyed else offset
        shift = offset >> 64 if self._guest_keyed else 0
        end = guest + len(buffer)
        for start in range(align_down(guest, SECTOR), end, CHUNK):
            stop = min(align_up(end, SECTOR), start + CHUNK)
            content = memoryview(bytearray(stop - start))
            available = min(len(content), self._file.size - start - shift)  # a raw data file may end inside the last sector
            self._file.readinto(start + shift, content[:available])
            _decrypt(self._cipher_of, content, start // SECTOR)
            first, last = max(start, guest), min(stop, end)
            buffer[first - guest : last - guest] = content[first - start : last - start]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)
