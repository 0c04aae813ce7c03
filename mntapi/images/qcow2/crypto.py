"""Encrypted clusters: LUKS inside the file, and QEMU's old AES; decrypted 512 bytes at a time, as both were written.

Source: QEMU, docs/interop/qcow2 ("Data encryption"). The sector that goes into the initialization vector is the one of the file
(LUKS) or of the guest's disk (old AES). The key of old AES is the passphrase itself, 16 bytes, cut or filled with zeros: seen
on images made by qemu-img, where the specification says 256 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mntapi.blocks import read_clipped, whole
from mntapi.errors import Corrupt, Denied, MntapiError, Unsupported
from mntapi.images.qcow2.header import CryptMethod, Header
from mntapi.images.qcow2.mapping import Source
from mntapi.types import Extent, ExtentKind, FileBlocks
from mntapi.units import SECTOR, align_down, align_up

if TYPE_CHECKING:
    from mntapi.crypto.sectors import SectorCipher

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
    from mntapi.crypto.sectors import sector_cipher  # most images are not encrypted, and it takes time to import

    try:
        if header.crypt_method is CryptMethod.AES:
            key = passphrases[0][:16].ljust(16, b"\0")
            return _Decrypting(data_file, sector_cipher("aes-cbc-plain64", key), guest_keyed=True)
        return _Decrypting(data_file, _luks_cipher(file, header, passphrases), guest_keyed=False)
    except MntapiError as error:
        raise error.located(path=file.path) from error.__cause__


def _luks_cipher(file: FileBlocks, header: Header, passphrases: Sequence[bytes]) -> SectorCipher:
    from mntapi.crypto.luks1 import HEADER_LENGTH, master_key, parse_luks1
    from mntapi.crypto.sectors import sector_cipher

    if header.extensions.crypto is None:
        raise Corrupt("is encrypted with LUKS and does not say where its header is", path=file.path, offset=32)
    start, length = header.extensions.crypto

    def read_material(offset: int, count: int) -> bytes:
        if offset + count > length or start + offset + count > file.size:
            raise Corrupt("key material lies outside the encryption header", path=file.path, offset=start + offset)
        return read_clipped(file, start + offset, count)

    try:
        luks = parse_luks1(read_clipped(file, start, min(length, HEADER_LENGTH)))
        key = master_key(luks, passphrases, read_material)
    except MntapiError as error:
        raise error.located(path=file.path, base=start) from None
    if key is None:
        raise Denied("no passphrase that was given opens it", path=file.path, offset=start, reason="encrypted")
    return sector_cipher(luks.cipher, key)


class _Decrypting:
    """A file's clusters in the clear. ``guest_keyed``: addresses are ``(host - guest << 64) + guest``, see ``Stores``."""

    def __init__(self, file: FileBlocks, cipher: SectorCipher, *, guest_keyed: bool) -> None:
        self._file = file
        self._cipher = cipher
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
            self._cipher.decrypt(content, start // SECTOR)
            first, last = max(start, guest), min(stop, end)
            buffer[first - guest : last - guest] = content[first - start : last - start]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return whole(offset, length, ExtentKind.DATA)
