"""AES by the package ``cryptography``, which has OpenSSL inside. It is imported with the first key."""

from __future__ import annotations

from mntapi.errors import Corrupt, Invalid, Unsupported
from mntapi.keys import Secret

CIPHERS = frozenset({"aes"})
_BLOCK = 16


def preload() -> None:
    """Import it, and have OpenSSL set up what it sets up on first use."""
    key = bytes(range(64))
    xts, cbc, content = Xts("aes", key), Cbc("aes", key[:32]), memoryview(bytearray(16))
    xts.decrypt(content, bytes(16), 16)
    xts.encrypt(content, bytes(16), 16)
    cbc.decrypt(content, bytes(16))
    cbc.encrypt(content, bytes(16), 16)
    Ecb("aes", key[:32]).encrypt(bytes(16))


class _Aes:
    """A key. ``close`` overwrites it."""

    KEY_SIZES: tuple[int, ...] = (16, 24, 32)

    def __init__(self, cipher: str, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        except ImportError as error:
            hint = "pip install cryptography"
            raise Unsupported("needs the Python package cryptography", hint=hint, reason="cipher") from error
        if len(key) not in self.KEY_SIZES:
            raise Corrupt("the key size does not fit the cipher", found=f"{len(key)} bytes for {cipher}")
        self._key = Secret(key)
        self._algorithm = algorithms.AES(self._key.view())
        self._modes, self._cipher = modes, Cipher

    def _check(self) -> None:
        if self._key.is_wiped:
            raise Invalid("the volume has been closed")

    def close(self) -> None:
        """Overwrite the key."""
        self._key.wipe()


class Xts(_Aes):
    """AES-XTS. Thread-safe. Slow with small sectors: each takes an object of its own."""

    KEY_SIZES = (32, 64)

    def __init__(self, cipher: str, key: bytes) -> None:
        super().__init__(cipher, key)
        if key[: len(key) // 2] == key[len(key) // 2 :]:
            raise Unsupported("both halves of the key are the same, which OpenSSL refuses", reason="cipher")

    def decrypt(self, content: memoryview, tweaks: bytes, sector_size: int) -> None:
        """Decrypt sectors of ``sector_size`` bytes in place; ``tweaks`` has 16 bytes for each."""
        self._check()
        for number, at in enumerate(range(0, len(content), sector_size)):
            tweak = self._modes.XTS(tweaks[16 * number : 16 * number + 16])
            sector = content[at : at + sector_size]
            sector[:] = self._cipher(self._algorithm, tweak).decryptor().update(sector)

    def encrypt(self, content: memoryview, tweaks: bytes, sector_size: int) -> None:
        """The reverse of ``decrypt``."""
        self._check()
        for number, at in enumerate(range(0, len(content), sector_size)):
            tweak = self._modes.XTS(tweaks[16 * number : 16 * number + 16])
            sector = content[at : at + sector_size]
            sector[:] = self._cipher(self._algorithm, tweak).encryptor().update(sector)


class Cbc(_Aes):
    """AES-CBC. Thread-safe."""

    def decrypt(self, content: memoryview, iv: bytes) -> None:
        """Decrypt all of it in place, as one message."""
        self._check()
        context = self._cipher(self._algorithm, self._modes.CBC(iv)).decryptor()
        if len(content) > _BLOCK:  # it wants a block of room behind what it writes, and new memory takes longer than AES
            context.update_into(content[:-_BLOCK], content)
        content[-_BLOCK:] = context.update(content[-_BLOCK:])

    def encrypt(self, content: memoryview, vectors: bytes, sector_size: int) -> None:
        """Encrypt sectors of ``sector_size`` bytes in place, each a message; ``vectors`` has 16 bytes for each."""
        self._check()
        for number, at in enumerate(range(0, len(content), sector_size)):
            vector = self._modes.CBC(vectors[16 * number : 16 * number + 16])
            sector = content[at : at + sector_size]
            sector[:] = self._cipher(self._algorithm, vector).encryptor().update(sector)


class Ecb(_Aes):
    """AES, each block for itself. Thread-safe."""

    def encrypt(self, content: bytes) -> bytes:
        """The content encrypted."""
        self._check()
        return self._cipher(self._algorithm, self._modes.ECB()).encryptor().update(content)
