"""The C library libgcrypt, where the host has it: the few of its functions that encrypt, decrypt and hash.

It is called by ctypes, because no package for Python offers these ciphers, or decrypts many XTS sectors without an object for
each.

Source: The Libgcrypt Reference Manual 1.10, sections 5 (symmetric cryptography), 7 (hashing), 8 (key derivation).
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from functools import lru_cache
from itertools import repeat
from operator import or_
from typing import Any, NamedTuple

from mntapi.errors import Corrupt, Failed, Invalid, Unsupported

HINT = "install libgcrypt (package libgcrypt20)"

_SONAME = "libgcrypt.so.20"
_MINIMUM = b"1.8.0"
"""The first with XTS."""
_INIT_SECURE_MEMORY, _NO_WARNING, _INITIALIZATION_FINISHED = 24, 27, 38
_SECURE_MEMORY = 128 << 10
"""Bytes of memory that is never swapped out: enough for some 40 keys. Those after them lie in other memory."""
_SECURE = 1
_ECB, _CBC, _XTS = 1, 3, 13
_PBKDF2 = 34

_CIPHERS = {
    ("aes", 16): 7,
    ("aes", 24): 8,
    ("aes", 32): 9,
    ("twofish", 32): 10,
    ("twofish", 16): 303,
    ("serpent", 16): 304,
    ("serpent", 24): 305,
    ("serpent", 32): 306,
    ("camellia", 16): 310,
    ("camellia", 24): 311,
    ("camellia", 32): 312,
}
"""Cipher as dm-crypt calls it, and bytes of its key."""
CIPHERS = frozenset(name for name, _ in _CIPHERS)
_HASHES = {
    "ripemd160": (3, 20),
    "whirlpool": (305, 64),
    "blake2b-384": (319, 48),
    "blake2b-256": (320, 32),
    "blake2b-160": (321, 20),
    "blake2s-224": (323, 28),
    "blake2s-160": (324, 20),
    "blake2s-128": (325, 16),
}
"""Number and digest size in bytes of what Python's own hashlib may lack."""
HASHES = frozenset(_HASHES)


class Library(NamedTuple):
    """The library twice: ``calls`` let other threads run meanwhile, ``quick`` ones are too short for that to pay."""

    calls: ctypes.CDLL
    quick: ctypes.PyDLL


@lru_cache(maxsize=1)
def library() -> Library | None:
    """The library, set up for use; None where there is none."""
    try:
        loaded = Library(ctypes.CDLL(_SONAME), ctypes.PyDLL(_SONAME))
    except OSError:
        return None
    for each in loaded:
        _declare(each)
    if loaded.calls.gcry_check_version(_MINIMUM) is None:
        return None
    loaded.calls.gcry_control(_NO_WARNING, 0)  # where the memory cannot be locked, it is used all the same
    loaded.calls.gcry_control(_INIT_SECURE_MEMORY, _SECURE_MEMORY)
    loaded.calls.gcry_control(_INITIALIZATION_FINISHED, 0)
    return loaded


def _declare(loaded: ctypes.CDLL) -> None:
    pointer, size, text, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("gcry_check_version", text, (text,)),
        ("gcry_strerror", text, (ctypes.c_uint,)),
        ("gcry_cipher_open", ctypes.c_uint, (pointer, number, number, ctypes.c_uint)),
        ("gcry_cipher_setkey", ctypes.c_uint, (pointer, text, size)),
        ("gcry_cipher_setiv", ctypes.c_uint, (pointer, text, size)),
        ("gcry_cipher_decrypt", ctypes.c_uint, (pointer, pointer, size, pointer, size)),
        ("gcry_cipher_encrypt", ctypes.c_uint, (pointer, pointer, size, pointer, size)),
        ("gcry_cipher_close", None, (pointer,)),
        ("gcry_md_hash_buffer", None, (number, pointer, text, size)),
        ("gcry_kdf_derive", ctypes.c_uint, (text, size, number, number, text, size, ctypes.c_ulong, size, pointer)),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments


def _needed() -> Library:
    loaded = library()
    if loaded is None:
        raise Unsupported("needs the library libgcrypt", hint=HINT, reason="cipher")
    return loaded


def _check(code: int) -> None:
    if code:
        text = _needed().calls.gcry_strerror(code).decode("ascii", "replace")
        raise Failed(f"libgcrypt cannot do it: {text}", reason="cipher")


def _address(content: memoryview | bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(content))


class _Cipher:
    """A cipher with its key, in one mode. Its key is overwritten when it is closed, or when nobody has it any more."""

    def __init__(self, cipher: str, mode: int, key: bytes) -> None:
        self._library = _needed()
        keys = 2 if mode == _XTS else 1
        number = _CIPHERS.get((cipher, len(key) // keys))
        if number is None or len(key) % keys:
            raise Corrupt("the key size does not fit the cipher", found=f"{len(key)} bytes for {cipher}")
        calls, handle = self._library.calls, ctypes.c_void_p()
        if calls.gcry_cipher_open(ctypes.addressof(handle), number, mode, _SECURE):
            _check(calls.gcry_cipher_open(ctypes.addressof(handle), number, mode, 0))
        self._handle = handle.value
        self._free = weakref.finalize(self, calls.gcry_cipher_close, self._handle)
        self._lock = threading.Lock()
        _check(calls.gcry_cipher_setkey(self._handle, key, len(key)))

    def _use(self) -> int | None:
        """The handle, for a call with the lock held. Raises Invalid after ``close``."""
        if not self._free.alive:
            raise Invalid("the volume has been closed")
        return self._handle

    def _each(self, function: Any, content: memoryview, vectors: bytes, sector_size: int) -> None:
        """Encrypt or decrypt each sector in place, with its own 16 bytes of ``vectors``."""
        set_vector = self._library.quick.gcry_cipher_setiv
        start, each_vector = _address(content), [vectors[at : at + 16] for at in range(0, len(vectors), 16)]
        sectors = range(start, start + len(content), sector_size)
        with self._lock:
            handle = self._use()
            # map() takes a step of each in turn, without going through the interpreter
            set_all = map(set_vector, repeat(handle), each_vector, repeat(16))
            work_on_all = map(function, repeat(handle), sectors, repeat(sector_size), repeat(None), repeat(0))
            failed = any(map(or_, set_all, work_on_all))
        _check(failed)

    def close(self) -> None:
        """Overwrite the key and free it."""
        with self._lock:
            self._free()


class Xts(_Cipher):
    """A block cipher in XTS mode. Thread-safe."""

    def __init__(self, cipher: str, key: bytes) -> None:
        super().__init__(cipher, _XTS, key)

    def decrypt(self, content: memoryview, tweaks: bytes, sector_size: int) -> None:
        """Decrypt sectors of ``sector_size`` bytes in place; ``tweaks`` has 16 bytes for each."""
        self._each(self._library.quick.gcry_cipher_decrypt, content, tweaks, sector_size)

    def encrypt(self, content: memoryview, tweaks: bytes, sector_size: int) -> None:
        """The reverse of ``decrypt``."""
        self._each(self._library.quick.gcry_cipher_encrypt, content, tweaks, sector_size)

    def decrypt_counting(self, content: memoryview, tweak: bytes, sector_size: int) -> None:
        """The same for tweaks that go up by one with each sector: the library does that by itself."""
        self._counting(self._library.quick.gcry_cipher_decrypt, content, tweak, sector_size)

    def encrypt_counting(self, content: memoryview, tweak: bytes, sector_size: int) -> None:
        """The reverse of ``decrypt_counting``."""
        self._counting(self._library.quick.gcry_cipher_encrypt, content, tweak, sector_size)

    def _counting(self, function: Any, content: memoryview, tweak: bytes, sector_size: int) -> None:
        start = _address(content)
        sectors = range(start, start + len(content), sector_size)
        with self._lock:
            handle = self._use()
            failed = self._library.quick.gcry_cipher_setiv(handle, tweak, 16)
            failed |= any(map(function, repeat(handle), sectors, repeat(sector_size), repeat(None), repeat(0)))
        _check(failed)


class Cbc(_Cipher):
    """A block cipher in CBC mode. Thread-safe."""

    def __init__(self, cipher: str, key: bytes) -> None:
        super().__init__(cipher, _CBC, key)

    def decrypt(self, content: memoryview, iv: bytes) -> None:
        """Decrypt all of it in place, as one message."""
        with self._lock:
            handle, calls = self._use(), self._library.calls
            _check(calls.gcry_cipher_setiv(handle, iv, len(iv)))
            _check(calls.gcry_cipher_decrypt(handle, _address(content), len(content), None, 0))

    def encrypt(self, content: memoryview, vectors: bytes, sector_size: int) -> None:
        """Encrypt sectors of ``sector_size`` bytes in place, each a message; ``vectors`` has 16 bytes for each."""
        self._each(self._library.quick.gcry_cipher_encrypt, content, vectors, sector_size)


class Ecb(_Cipher):
    """A block cipher, each block for itself. Thread-safe."""

    def __init__(self, cipher: str, key: bytes) -> None:
        super().__init__(cipher, _ECB, key)

    def encrypt(self, content: bytes) -> bytes:
        """The content encrypted."""
        result = bytearray(content)
        with self._lock:
            _check(self._library.calls.gcry_cipher_encrypt(self._use(), _address(result), len(result), None, 0))
        return bytes(result)


def digest(name: str, content: bytes) -> bytes:
    """The hash ``name`` (one of ``HASHES``) of the content."""
    number, size = _HASHES[name]
    result = bytearray(size)
    _needed().calls.gcry_md_hash_buffer(number, _address(result), content, len(content))
    return bytes(result)


def pbkdf2(name: str, passphrase: bytes | memoryview, salt: bytes, iterations: int, length: int) -> bytes:
    """``length`` bytes derived by PBKDF2 with the hash ``name`` (one of ``HASHES``)."""
    result, number, passphrase = bytearray(length), _HASHES[name][0], bytes(passphrase)
    derive = _needed().calls.gcry_kdf_derive
    _check(derive(passphrase, len(passphrase), _PBKDF2, number, salt, len(salt), iterations, length, _address(result)))
    return bytes(result)
