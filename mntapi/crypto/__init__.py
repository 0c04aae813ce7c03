"""Ciphers, hashes and key derivation of encrypted disks: what the LUKS inside a QCOW2 file and LUKS volumes have in common.

Not here: where a header lies, what a volume is, and what a user was asked. Start reading at ``sectors.py`` (a cipher that
decrypts sectors in place), then ``luks1.py`` (a header, and the master key behind a passphrase).

AES is decrypted by the C library libgcrypt where the host has it, and else by the package ``cryptography``: the same bytes, but
XTS changes its tweak with every sector, for which that package makes a new object each time. Serpent, Twofish, Camellia and
the hash Whirlpool are in libgcrypt only. Argon2 is always that of ``cryptography``.

Always true: a name from a header is looked up in a table, and what is not there is Unsupported; nothing is imported or loaded
before there is a key to try.
"""

from __future__ import annotations

from importlib import import_module


def preload() -> None:
    """Import and load now all that is needed later, for a process that soon can open no files any more."""
    import_module("mntapi.crypto.luks1")  # which imports all modules here
    from mntapi.crypto import derivation, gcrypt, openssl

    import_module("cryptography.hazmat.primitives.ciphers.aead")  # seals the keys of BitLocker
    openssl.preload()
    gcrypt.library()
    derivation.preload()
