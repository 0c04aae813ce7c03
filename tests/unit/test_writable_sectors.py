"""Sectors encrypted. Oracle: the package cryptography, one sector at a time, and decrypting, which has oracles of its own."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from mntapi.crypto import gcrypt
from mntapi.crypto.sectors import sector_cipher
from mntapi.errors import Invalid
from unit.test_luks_crypto import by_the_sector

KEY = random.Random(5).randbytes(64)


@pytest.fixture(params=["libgcrypt", "cryptography"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With libgcrypt where the host has it, and without."""
    if request.param == "cryptography":
        monkeypatch.setattr(gcrypt, "library", lambda: None)
    elif gcrypt.library() is None:
        pytest.skip("libgcrypt is not installed")
    yield request.param


def encrypted(name: str, key: bytes, content: bytes, sector: int, size: int = 512) -> bytes:
    buffer = bytearray(content)
    sector_cipher(name, key, sector_size=size).encrypt(memoryview(buffer), sector)
    return bytes(buffer)


def test_vector_of_ieee_1619(engine: str) -> None:
    """Vector 4: data unit 0, 512 bytes counting up; the first and last 16 bytes of the ciphertext."""
    key = bytes.fromhex("2718281828459045235360287471352631415926535897932384626433832795")
    stored = encrypted("aes-xts-plain64", key, bytes(range(256)) * 2, 0)
    assert stored[:16].hex() == "27a7479befa1d476489f308cd4cfa6e2"
    assert stored[-16:].hex() == "0a282df920147beabe421ee5319d0568"


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("vector", ["plain", "plain64", "plain64be", "null", "essiv:sha256"])
@pytest.mark.parametrize(("mode", "key_size"), [("xts", 64), ("xts", 32), ("cbc", 16), ("cbc", 32)])
def test_vectors(engine: str, mode: str, key_size: int, vector: str, size: int) -> None:
    """One sector and several, across the place where ``plain`` begins again, and at the end of all numbers."""
    key, plain = KEY[:key_size], os.urandom(8 * size)
    step = size // 512
    for first in (0, 8, (1 << 32) - 3 * step, (1 << 64) - 8 * step):
        stored = by_the_sector({"xts": modes.XTS, "cbc": modes.CBC}[mode], vector, key, plain, first, size)
        for count in (1, 8):
            assert encrypted(f"aes-{mode}-{vector}", key, plain[: count * size], first, size) == stored[: count * size]


@pytest.mark.skipif(gcrypt.library() is None, reason="libgcrypt is not installed")
@pytest.mark.parametrize(
    "name", ["camellia-cbc-plain64", "serpent-xts-plain64", "twofish-cbc-essiv:sha256", "twofish-xts-plain"]
)
def test_other_ciphers(name: str) -> None:
    """Decrypting gives back what was encrypted; Camellia is in the package cryptography as well."""
    key, plain = KEY if "xts" in name else KEY[:32], os.urandom(16 * 512)
    stored = bytearray(encrypted(name, key, plain, 9))
    if name.startswith("camellia"):
        vector = modes.CBC((9).to_bytes(16, "little"))
        assert Cipher(Camellia(key), vector).encryptor().update(plain[:512]) == stored[:512]
    sector_cipher(name, key).decrypt(memoryview(stored), 9)
    assert stored == plain


def test_no_cipher() -> None:
    assert encrypted("cipher_null-ecb", b"", b"plain" * 100, 3) == b"plain" * 100


@pytest.mark.parametrize("name", ["aes-xts-plain64", "aes-xts-essiv:sha256", "aes-cbc-essiv:sha256", "aes-cbc-null"])
def test_closed(engine: str, name: str) -> None:
    cipher = sector_cipher(name, KEY[:32])
    cipher.close()
    with pytest.raises(Invalid, match="closed"):
        cipher.encrypt(memoryview(bytearray(512)), 0)


@pytest.mark.parametrize("name", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
def test_threads(engine: str, name: str) -> None:
    """Some encrypt while others decrypt, with one key."""
    cipher, plain = sector_cipher(name, KEY[:32]), os.urandom(64 * 512)
    stored = encrypted(name, KEY[:32], plain, 100)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            buffer = bytearray(plain if number % 2 else stored)
            (cipher.encrypt if number % 2 else cipher.decrypt)(memoryview(buffer), 100)
            if buffer != (stored if number % 2 else plain):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
