"""From what a person knows to a key: hashes, PBKDF2, Argon2, and the merging of a key that was split over many stripes.

Source: RFC 8018 section 5.2 (PBKDF2); RFC 9106 (Argon2); LUKS1 On-Disk Format Specification 1.2.3, section 2.4 (anti-forensic
splitter).
"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import cast

from mntapi.crypto import gcrypt
from mntapi.errors import Corrupt, Failed, Unsupported

MAX_ITERATIONS = 50_000_000
"""Of PBKDF2: what cryptsetup chooses for 5 s of work on a fast processor; its default is 2 s."""
MAX_ARGON2_MEMORY = 4 << 20
"""KiB that Argon2 may take: cryptsetup's own limit, 4 GiB."""
MAX_ARGON2_LANES = 4
"""Threads of Argon2: cryptsetup's own limit."""
MAX_ARGON2_WORK = 64 << 20
"""KiB of memory times passes over it, 64 GiB: about half a minute of one processor."""

_QUICK = 100_000
"""Iterations of PBKDF2 that nobody waits for."""

_WITH_SIZE = {"wp512": ("whirlpool", 64), "wp384": ("whirlpool", 48), "wp256": ("whirlpool", 32)}
"""The kernel's names for a hash that is cut off."""
_SPELLINGS = {"blake2b-512": "blake2b", "blake2s-256": "blake2s"} | {
    f"sha3-{bits}": f"sha3_{bits}" for bits in (224, 256, 384, 512)
}
"""What the kernel and cryptsetup call a hash, and what hashlib does."""
_SHAPELESS = ("shake", "md5")
"""Of hashlib's, those without a size, and one that LUKS never had."""


def preload() -> None:
    """Load all that the functions here load on first use."""
    for name in ("sha1", "sha256", "sha512"):
        hashlib.pbkdf2_hmac(name, b"", b"", 1)
    for kind in ("argon2i", "argon2id"):
        argon2(kind, b"", bytes(16), time=1, memory=32, lanes=4, length=32)


def hash_function(name: str) -> Callable[[bytes], bytes]:
    """The hash of that name, in the words of the kernel. Raises Unsupported."""
    if name in _WITH_SIZE:
        whole, size = _WITH_SIZE[name]
        inner = hash_function(whole)
        return lambda content: inner(content)[:size]
    name = _SPELLINGS.get(name, name)
    if name in hashlib.algorithms_available and not name.startswith(_SHAPELESS):
        constructor = getattr(hashlib, name, None) or partial(hashlib.new, name)
        return lambda content: bytes(constructor(content).digest())
    if name in gcrypt.HASHES and gcrypt.library() is not None:
        return partial(gcrypt.digest, name)
    raise _unknown_hash(name)


def _unknown_hash(name: str) -> Unsupported:
    hint = gcrypt.HINT if name in gcrypt.HASHES else None
    return Unsupported("uses a hash that is not read", found=ascii(name), hint=hint, reason="hash")


def digest(name: str, content: bytes) -> bytes:
    """The hash of the content."""
    return hash_function(name)(content)


def check_iterations(count: int, *, offset: int | None = None) -> None:
    """Raise unless PBKDF2 can be asked for so many: Corrupt if none at all, Unsupported if it would take too long."""
    if count < 1:
        raise Corrupt("the iteration count is not possible", offset=offset, expected="at least 1", found=count)
    if count > MAX_ITERATIONS:
        what = "the iteration count is too high to try a key"
        raise Unsupported(what, offset=offset, expected=f"at most {MAX_ITERATIONS}", found=count, reason="iterations")


def pbkdf2(name: str, passphrase: bytes | memoryview, salt: bytes, iterations: int, length: int) -> bytes:
    """``length`` bytes by PBKDF2. Raises Unsupported for a hash that is not known, and as ``check_iterations``."""
    check_iterations(iterations)
    name = _SPELLINGS.get(name, name)
    if name in hashlib.algorithms_available and not name.startswith(_SHAPELESS):
        work = partial(hashlib.pbkdf2_hmac, name, passphrase, salt, iterations, length)
    elif name in gcrypt.HASHES and gcrypt.library() is not None:
        work = partial(gcrypt.pbkdf2, name, passphrase, salt, iterations, length)
    else:
        raise _unknown_hash(name)
    return work() if iterations <= _QUICK else _interruptible(work)


def argon2(kind: str, passphrase: bytes | memoryview, salt: bytes, *, time: int, memory: int, lanes: int, length: int) -> bytes:
    """``length`` bytes by Argon2.

    Args:
        kind: ``argon2i`` or ``argon2id``.
        passphrase: what the user knows.
        salt: at least 8 bytes.
        time: passes over the memory.
        memory: KiB.
        lanes: threads.
        length: bytes wanted.

    Raises:
        Unsupported: it would take more than the limits of this module, or is not installed.
        Corrupt: no Argon2 has such parameters.
        Failed: there is not so much memory.
    """
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id
    except ImportError as error:
        hint = "pip install 'cryptography>=47'"
        raise Unsupported("needs the Python package cryptography", hint=hint, reason="cipher") from error
    check_argon2(time, memory, lanes)
    try:
        make = Argon2id if kind == "argon2id" else Argon2i
        derive = make(salt=salt, length=length, iterations=time, lanes=lanes, memory_cost=memory).derive
        return _interruptible(partial(derive, cast(bytes, passphrase)))  # any buffer will do
    except ValueError as error:
        raise Corrupt("the parameters of Argon2 are not possible", found=f"{time} x {memory} KiB, {lanes} lanes") from error
    except MemoryError as error:
        raise Failed(f"there are no {memory} KiB of memory for Argon2", reason="memory") from error


def _interruptible(work: Callable[[], bytes]) -> bytes:
    """What ``work`` returns or raises, which is one long call of a library.

    Python handles signals between its own instructions, in the main thread: so there it waits for another thread to do the
    work, and Ctrl-C ends the waiting. What nobody waits for any more goes on until the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    outcome: list[bytes | Exception] = []
    worker = threading.Thread(target=_into, args=(outcome, work), daemon=True)
    worker.start()
    try:
        worker.join()
    except BaseException:
        atexit.register(_abandon, worker)
        raise
    (result,) = outcome
    if isinstance(result, bytes):
        return result
    raise result


def _into(outcome: list[bytes | Exception], work: Callable[[], bytes]) -> None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 (raised again where it is waited for)
        outcome.append(error)


def _abandon(worker: threading.Thread) -> None:
    """At the end of an interrupted process: libraries must not be taken down while one of their functions runs."""
    if worker.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGINT)


def check_argon2(time: int, memory: int, lanes: int) -> None:
    """Raise Unsupported unless it can be asked for that; ``memory`` in KiB."""
    if memory > MAX_ARGON2_MEMORY or memory * time > MAX_ARGON2_WORK or lanes > MAX_ARGON2_LANES:
        raise Unsupported(
            "Argon2 would take too much to try a key",
            expected=f"at most {MAX_ARGON2_MEMORY} KiB, {MAX_ARGON2_WORK} KiB times passes, {MAX_ARGON2_LANES} lanes",
            found=f"{memory} KiB, {time} passes, {lanes} lanes",
            reason="argon2",
        )


def merge(material: bytes, size: int, stripes: int, hash_name: str) -> bytes:
    """The anti-forensic merge: the key of ``size`` bytes that was split over ``stripes`` stripes of the same size."""
    hashed = hash_function(hash_name)
    step = len(hashed(b""))
    starts = [(number.to_bytes(4, "big"), start) for number, start in enumerate(range(0, size, step))]
    block = bytes(size)
    for at in range(0, (stripes - 1) * size, size):
        block = _xor(block, material[at : at + size])
        block = b"".join([hashed(number + block[start : start + step])[: size - start] for number, start in starts])
    return _xor(block, material[(stripes - 1) * size : stripes * size])


def _xor(one: bytes, two: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(two, "big")).to_bytes(len(one), "big")


def is_equal(one: bytes, two: bytes) -> bool:
    """Whether they are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, two)
