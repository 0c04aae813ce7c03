"""Ciphers, hashes and key derivation. Oracles: IEEE 1619-2007, RFC 7914, 9106 and NIST SP 800-38A vectors, the package
cryptography sector by sector, the ISO vector of Whirlpool, and libgcrypt against OpenSSL."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from mntapi import crypto
from mntapi.crypto import derivation, gcrypt, openssl, sectors
from mntapi.crypto.derivation import argon2, hash_function, merge, pbkdf2
from mntapi.crypto.keyslot import Kdf
from mntapi.crypto.sectors import parse_name, sector_cipher
from mntapi.errors import Corrupt, Failed, Invalid, MntapiError, Unsupported

needs_libgcrypt = pytest.mark.skipif(gcrypt.library() is None, reason="libgcrypt is not installed")
KEY = bytes(range(64))


@pytest.fixture(params=["libgcrypt", "cryptography"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With libgcrypt where the host has it, and without."""
    if request.param == "cryptography":
        monkeypatch.setattr(gcrypt, "library", lambda: None)
    elif gcrypt.library() is None:
        pytest.skip("libgcrypt is not installed")
    yield request.param


def decrypted(name: str, key: bytes, content: bytes, sector: int, size: int = 512) -> bytes:
    buffer = bytearray(content)
    sector_cipher(name, key, sector_size=size).decrypt(memoryview(buffer), sector)
    return bytes(buffer)


def test_vector_of_ieee_1619(engine: str) -> None:
    """Vector 4: data unit 0, 512 bytes counting up, the first and last 16 bytes of the ciphertext."""
    key = bytes.fromhex("2718281828459045235360287471352631415926535897932384626433832795")
    stored = Cipher(algorithms.AES(key), modes.XTS(bytes(16))).encryptor().update(bytes(range(256)) * 2)
    assert stored[:16].hex() == "27a7479befa1d476489f308cd4cfa6e2"
    assert stored[-16:].hex() == "0a282df920147beabe421ee5319d0568"
    assert decrypted("aes-xts-plain64", key, stored, 0) == bytes(range(256)) * 2


def by_the_sector(mode: type, name: str, key: bytes, plain: bytes, sector: int, size: int) -> bytes:
    """Encrypted one sector at a time, vectors as dm-crypt's documentation has them."""
    stored = b""
    for at in range(0, len(plain), size):
        number = sector + at // 512
        vector = {
            "plain": lambda n: (n & 0xFFFFFFFF).to_bytes(16, "little"),
            "plain64": lambda n: n.to_bytes(16, "little"),
            "plain64be": lambda n: n.to_bytes(16, "big"),
            "null": lambda n: bytes(16),
            "essiv:sha256": lambda n: (
                Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor().update(n.to_bytes(16, "little"))
            ),
        }[name](number)
        stored += Cipher(algorithms.AES(key), mode(vector)).encryptor().update(plain[at : at + size])
    return stored


@pytest.mark.parametrize("size", [512, 1024, 4096])
@pytest.mark.parametrize("vector", ["plain", "plain64", "plain64be", "null", "essiv:sha256"])
@pytest.mark.parametrize(("mode", "key_size"), [("xts", 64), ("xts", 32), ("cbc", 16), ("cbc", 32)])
def test_vectors(engine: str, mode: str, key_size: int, vector: str, size: int) -> None:
    """From one sector to many, across the place where ``plain`` begins again, and at the end of all numbers."""
    key, plain = KEY[:key_size], os.urandom(8 * size)
    step = size // 512
    for first in (0, 8, (1 << 32) - 3 * step, (1 << 64) - 8 * step):
        stored = by_the_sector({"xts": modes.XTS, "cbc": modes.CBC}[mode], vector, key, plain, first, size)
        for count in (1, 2, 8):
            length = count * size
            assert decrypted(f"aes-{mode}-{vector}", key, stored[:length], first, size) == plain[:length]


@needs_libgcrypt
@pytest.mark.parametrize("cipher", ["serpent", "twofish", "camellia"])
def test_the_bulk_is_the_same_as_one_by_one(cipher: str) -> None:
    """CBC and XTS of other ciphers; what is right for one sector is in the contract's golden images."""
    content = os.urandom(64 * 512)
    for name, key in ((f"{cipher}-cbc-essiv:sha256", KEY[:32]), (f"{cipher}-xts-plain64", KEY), (f"{cipher}-xts-plain", KEY)):
        single = b"".join(decrypted(name, key, content[at : at + 512], 7 + at // 512) for at in range(0, len(content), 512))
        assert decrypted(name, key, content, 7) == single
        assert single != content


@pytest.mark.parametrize("name", ["aes-xts-plain64", "aes-cbc-essiv:sha256"])
def test_threads(engine: str, name: str) -> None:
    cipher = sector_cipher(name, KEY[:32])
    content = os.urandom(64 * 512)
    want = decrypted(name, KEY[:32], content, 100)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            buffer = bytearray(content)
            cipher.decrypt(memoryview(buffer), 100)
            if bytes(buffer) != want:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["aes-xts-plain64", "aes-xts-essiv:sha256", "aes-cbc-essiv:sha256", "aes-cbc-null"])
def test_closed(engine: str, name: str) -> None:
    cipher = sector_cipher(name, KEY[:32])
    cipher.close()
    cipher.close()
    with pytest.raises(Invalid, match="closed"):
        cipher.decrypt(memoryview(bytearray(512)), 0)


@needs_libgcrypt
def test_closed_serpent() -> None:
    for name in ("serpent-cbc-plain", "serpent-xts-plain"):
        cipher = sector_cipher(name, KEY[:32])
        cipher.close()
        with pytest.raises(Invalid, match="closed"):
            cipher.decrypt(memoryview(bytearray(512)), 0)
    ecb = gcrypt.Ecb("serpent", KEY[:16])
    ecb.close()
    with pytest.raises(Invalid):
        ecb.encrypt(bytes(16))
    aes = openssl.Ecb("aes", KEY[:16])
    aes.close()
    with pytest.raises(Invalid):
        aes.encrypt(bytes(16))


def test_no_cipher() -> None:
    cipher = sector_cipher("cipher_null-ecb", b"")
    content = bytearray(b"plain" * 100)
    cipher.decrypt(memoryview(content), 3)
    cipher.close()
    assert content == b"plain" * 100


@pytest.mark.parametrize(
    ("name", "key", "error", "text"),
    [
        ("aes-ecb", 32, Unsupported, "'aes-ecb'"),
        ("aes-xts-benbi", 32, Unsupported, "cipher that is not read"),
        ("xchacha12,aes-adiantum-plain64", 32, Unsupported, "adiantum"),
        ("", 32, Unsupported, "''"),
        ("aes-xts-plain64", 48 + 1, Corrupt, "does not fit"),
        ("aes-cbc-plain64", 64, Corrupt, "does not fit"),
        ("aes-cbc-plain64", 0, Corrupt, "does not fit"),
        ("aes-cbc-essiv:sha1", 16, Unsupported, "essiv:sha1"),
        ("aes-cbc-essiv:shake_128", 16, Unsupported, "hash that is not read"),
        ("aes-cbc-essiv", 16, Unsupported, "hash that is not read"),
    ],
)
def test_what_is_no_cipher(engine: str, name: str, key: int, error: type[MntapiError], text: str) -> None:
    with pytest.raises(error, match=text):
        sector_cipher(name, KEY[:key])


def test_without_libgcrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcrypt, "library", lambda: None)
    with pytest.raises(Unsupported, match="needs the library libgcrypt") as caught:
        sector_cipher("serpent-xts-plain64", KEY)
    assert caught.value.hint == gcrypt.HINT
    for use in (lambda: hash_function("whirlpool"), lambda: pbkdf2("whirlpool", b"", b"", 1, 1)):
        with pytest.raises(Unsupported) as caught:
            use()
        assert caught.value.hint == gcrypt.HINT
    with pytest.raises(Unsupported, match="both halves"):
        sector_cipher("aes-xts-plain64", bytes(64))


def test_a_library_that_is_not_there_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    gcrypt.library.cache_clear()
    monkeypatch.setattr(gcrypt, "_SONAME", "libgcrypt-of-nowhere.so.0")
    assert gcrypt.library() is None
    gcrypt.library.cache_clear()
    monkeypatch.undo()
    if gcrypt.library() is not None:
        gcrypt.library.cache_clear()
        monkeypatch.setattr(gcrypt, "_MINIMUM", b"99.0.0")
        assert gcrypt.library() is None
        gcrypt.library.cache_clear()


@needs_libgcrypt
def test_what_libgcrypt_refuses() -> None:
    with pytest.raises(Failed, match="libgcrypt cannot do it"):
        gcrypt.pbkdf2("whirlpool", b"x", b"salt", 0, 16)


def test_names() -> None:
    assert parse_name("aes-cbc-essiv:sha256") == sectors.CipherName("aes", "cbc", "essiv", "sha256")
    assert parse_name("cipher_null-ecb") == sectors.CipherName("cipher_null", "ecb", "", "")


def test_hashes() -> None:
    assert hash_function("sha3-256")(b"x") == hashlib.sha3_256(b"x").digest()
    assert hash_function("sha256")(b"x") == hashlib.sha256(b"x").digest()
    assert pbkdf2("sha3-256", b"x", b"y", 2, 8) == hashlib.pbkdf2_hmac("sha3_256", b"x", b"y", 2, 8)
    for name, constructor in (("blake2b-512", hashlib.blake2b), ("blake2s-256", hashlib.blake2s)):
        assert hash_function(name)(b"x") == constructor(b"x").digest()
        block = hmac.digest(b"x", b"y\0\0\0\1", constructor)
        assert pbkdf2(name, b"x", b"y", 1, len(block)) == block
    for name in ("md5", "shake_128", "sha-256", "", "\x1b"):
        with pytest.raises(Unsupported, match="hash that is not read"):
            hash_function(name)
        with pytest.raises(Unsupported, match="hash that is not read"):
            pbkdf2(name, b"", b"", 1, 1)


@needs_libgcrypt
@pytest.mark.parametrize(
    ("name", "constructor", "bits"),
    [("blake2b", hashlib.blake2b, bits) for bits in (160, 256, 384)]
    + [("blake2s", hashlib.blake2s, bits) for bits in (128, 160, 224)],
)
def test_hashes_that_were_cut_off(name: str, constructor: Callable[..., Any], bits: int) -> None:
    """Against Python's own, which has them for hashing only; PBKDF2 by its definition for one block and one round."""
    make = partial(constructor, digest_size=bits // 8)
    assert hash_function(f"{name}-{bits}")(b"x") == make(b"x").digest()
    block = hmac.new(b"x", b"y\0\0\0\1", lambda content=b"": make(content)).digest()
    assert pbkdf2(f"{name}-{bits}", b"x", b"y", 1, len(block)) == block


@needs_libgcrypt
def test_whirlpool() -> None:
    """ISO/IEC 10118-3, the hash of "abc"; PBKDF2 against its definition for one block and one round."""
    want = "4e2448a4c6f486bb16b6562c73b4020bf3043e3a731bce721ae1b303d97e6d4c"
    want += "7181eebdb6c57e277d0e34957114cbd6c797fc9d95d8b582d225292076d4eef5"
    assert hash_function("whirlpool")(b"abc").hex() == want
    assert hash_function("wp256")(b"abc").hex() == want[:64]
    key = b"password".ljust(64, b"\0")
    inner = gcrypt.digest("whirlpool", bytes(byte ^ 0x36 for byte in key) + b"salt" + b"\0\0\0\1")
    outer = gcrypt.digest("whirlpool", bytes(byte ^ 0x5C for byte in key) + inner)
    assert pbkdf2("whirlpool", b"password", b"salt", 1, 64) == outer


def test_pbkdf2() -> None:
    """RFC 7914, section 11."""
    assert pbkdf2("sha256", b"passwd", b"salt", 1, 64).hex().startswith("55ac046e56e3089fec1691c22544b605")
    for count in (0, derivation.MAX_ITERATIONS + 1):
        with pytest.raises(MntapiError, match="iteration count"):
            pbkdf2("sha256", b"", b"", count, 1)


def test_what_takes_long_is_done_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the main thread hears of Ctrl-C; its result and its errors are those of the call. Oracle: cryptography."""
    count = derivation._QUICK + 1
    want = PBKDF2HMAC(hashes.SHA256(), 32, b"salt", count).derive(b"password")
    threads: list[threading.Thread] = []
    real = hashlib.pbkdf2_hmac

    def derive(*words: object) -> bytes:
        threads.append(threading.current_thread())
        if words[2] == b"bad":
            raise OverflowError("as the library says it")
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", derive)
    assert pbkdf2("sha256", b"password", b"salt", count, 32) == want
    with pytest.raises(OverflowError, match="as the library"):
        pbkdf2("sha256", b"password", b"bad", count, 32)
    assert threading.main_thread() not in threads
    other = threading.Thread(target=pbkdf2, args=("sha256", b"password", b"salt", count, 32))
    other.start()
    other.join()
    assert threads[-1] is other, "who hears no signals does it by itself"


def test_argon2() -> None:
    """Made with the reference program: echo -n password | argon2 somesalt -i/-id -t 2 -k 256 -p 1 -l 24 -r."""
    common = {"time": 2, "memory": 256, "lanes": 1, "length": 32}
    found = argon2("argon2id", b"password", b"somesalt", **common)
    assert found.hex() == "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"
    found = argon2("argon2i", b"password", b"somesalt", **common)
    assert found.hex() == "89e9029f4637b295beb027056a7336c414fadd43f6b208645281cb214a56452f"


def test_argon2_without_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives.kdf import argon2 as package

    class Full:
        def __init__(self, **_: object) -> None:
            raise MemoryError

    monkeypatch.setattr(package, "Argon2id", Full)
    with pytest.raises(Failed, match="no 32 KiB of memory"):
        argon2("argon2id", b"", bytes(16), time=1, memory=32, lanes=1, length=32)
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.kdf.argon2", None)
    with pytest.raises(Unsupported, match="package cryptography"):
        argon2("argon2id", b"", bytes(16), time=1, memory=32, lanes=1, length=32)


def test_the_merge_undoes_a_split() -> None:
    """A split with random stripes, after the specification; key and hash of lengths that do not divide each other."""
    for name, size in (("sha1", 64), ("sha256", 24), ("sha512", 32)):
        key, stripes = os.urandom(size), 50
        step = hashlib.new(name).digest_size
        block, material = bytes(size), b""
        for _ in range(stripes - 1):
            stripe = os.urandom(size)
            material += stripe
            block = bytes(one ^ other for one, other in zip(block, stripe, strict=True))
            parts = [block[at : at + step] for at in range(0, size, step)]
            block = b"".join(
                hashlib.new(name, number.to_bytes(4, "big") + part).digest()[: len(part)] for number, part in enumerate(parts)
            )
        material += bytes(one ^ other for one, other in zip(block, key, strict=True))
        assert merge(material, size, stripes, name) == key


def test_costs_as_text() -> None:
    assert str(Kdf("argon2id", b"", 4, memory=1 << 20)) == "argon2id 1.00 GiB x 4"
    assert str(Kdf("pbkdf2", b"", 1000, "sha1")) == "pbkdf2-sha1 x 1000"


def test_preload() -> None:
    """All that opens files does so now; what it loaded works."""
    crypto.preload()
