"""From what a user has to the key of the volume: protectors, stretching, seals.

A protector holds the volume master key sealed with another key; the master key opens the seal on the key of the data. Passwords
and recovery passwords are stretched by 2^20 rounds of SHA-256, about a second each; the number is fixed by the format, and how
many protectors are tried is limited.

Source: libyal, BitLocker Drive Encryption (BDE) format, "Keys" and "FVE AES-CCM encrypted key".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from uuid import UUID

from mntapi.errors import Corrupt, Denied, MntapiError
from mntapi.keys import Key, KeyKind
from mntapi.volumes.bitlocker.metadata import Metadata, Protector, Type, key_of, parse_startup_key, salt_of, sealed_entry

CLEAR, TPM, STARTUP, PIN, RECOVERY, CERTIFICATE, PASSWORD = 0x0000, 0x0100, 0x0200, 0x0400, 0x0800, 0x1000, 0x2000
"""Bits of ``Protector.protection``; all that are set are needed together."""

MAX_TRIED = 8
"""Protectors of one kind that a key is tried on."""

_ROUNDS = 1 << 20
_NONCE = 12
_TAG = 16
_GROUP = 11
_RECOVERY = re.compile(r"\s*(\d{6})" + r"[\s-]*(\d{6})" * 7 + r"\s*")


def unlock(metadata: Metadata, keys: Iterable[Key]) -> tuple[int, bytes]:
    """The method and the key of the volume's data, by the clear key if there is one, else by the first of ``keys`` that fits.

    Raises:
        Denied: none fits; ``reason`` is ``wrong-key`` if there was one of a kind that a protector wants, else ``locked``.
        Corrupt: a key or a protector is damaged, or the master key opened and the key of the data does not.
    """
    failure: MntapiError = Denied("locked", reason="locked")
    for opener in _all_openers(metadata, keys):
        try:
            return opener()
        except MntapiError as error:
            failure = error
    raise failure


def describe(protector: Protector) -> str:
    """The protector for people, as what it wants: ``the recovery password with id ...``."""
    id_ = str(protector.id).upper()
    known = {
        CLEAR: "nothing: a clear key is stored",
        STARTUP: f"the startup key file {id_}.BEK",
        RECOVERY: f"the recovery password with id {id_}",
        CERTIFICATE: "a smart card",
        PASSWORD: "a password",
        TPM: "the TPM of its machine",
        TPM | PIN: "the TPM of its machine and a PIN",
        TPM | STARTUP: "the TPM of its machine and a startup key file",
    }
    return known.get(protector.protection, f"something unknown (protector 0x{protector.protection:04x})")


def _all_openers(metadata: Metadata, keys: Iterable[Key]) -> Iterator[Callable[[], tuple[int, bytes]]]:
    """What to try, one after the other: each gives the key of the data or raises."""
    for protector in _of(metadata, CLEAR):
        yield partial(_data_key, metadata, protector, _clear_key)
    for key in keys:
        secret = key.secret.reveal()
        if key.kind is KeyKind.STARTUP:
            for protector in _of(metadata, STARTUP):
                yield partial(_data_key, metadata, protector, partial(_startup_key, secret))
        if key.kind is KeyKind.PASSPHRASE:
            for protector in _of(metadata, PASSWORD):
                yield partial(_data_key, metadata, protector, partial(_stretched, _password, secret))
                if secret.endswith(b"\n"):  # a file that an editor or echo made
                    typed = secret.removesuffix(b"\n").removesuffix(b"\r")
                    yield partial(_data_key, metadata, protector, partial(_stretched, _password, typed))
        if key.kind is KeyKind.RECOVERY or (key.kind is KeyKind.PASSPHRASE and _recovery_groups(secret)):
            for protector in _of(metadata, RECOVERY):
                yield partial(_data_key, metadata, protector, partial(_stretched, _recovery_password, secret))


def _of(metadata: Metadata, protection: int) -> list[Protector]:
    return [protector for protector in metadata.protectors if protector.protection == protection][:MAX_TRIED]


def _clear_key(protector: Protector) -> bytes:
    return key_of(protector.data(Type.KEY) or b"")[1]


def _startup_key(secret: bytes, protector: Protector) -> bytes:
    guid, key = parse_startup_key(secret)
    if guid != protector.id:
        raise Denied(f"wrong key: the startup key file is {str(guid).upper()}.BEK", reason="wrong-key")
    return key


def _stretched(digest: Callable[[bytes], bytes], secret: bytes, protector: Protector) -> bytes:
    return stretch(digest(secret), salt_of(protector.data(Type.STRETCH_KEY) or b""))


def stretch(digest: bytes, salt: bytes) -> bytes:
    """The key made of the digest of what the user knows, in 2^20 rounds."""
    last, rest, digest_of = bytes(32), digest + salt, sha256
    for count in range(_ROUNDS):
        last = digest_of(last + rest + count.to_bytes(8, "little")).digest()
    return last


def _password(secret: bytes) -> bytes:
    """The digest of a password: UTF-16 is hashed, so it must be text."""
    try:
        return sha256(sha256(secret.decode().encode("utf-16-le")).digest()).digest()
    except UnicodeDecodeError as error:
        raise Denied("wrong key: a BitLocker password is text, and this is not UTF-8", reason="wrong-key") from error


def _recovery_groups(secret: bytes) -> tuple[int, ...]:
    """The eight numbers of a recovery password, none if it does not look like one."""
    match = _RECOVERY.fullmatch(secret.decode("latin-1"))
    return tuple(int(group) for group in match.groups()) if match else ()


def _recovery_password(secret: bytes) -> bytes:
    """The digest of a recovery password. Each of its groups is a multiple of 11, so a slip of the finger is told."""
    groups = _recovery_groups(secret)
    if not groups:
        raise Denied("wrong key: a recovery password has 48 digits in 8 groups", reason="wrong-key")
    for place, group in enumerate(groups, 1):
        if group % _GROUP or group >= _GROUP << 16:
            raise Denied(f"wrong key: group {place} of the recovery password is mistyped", reason="wrong-key")
    return sha256(b"".join((group // _GROUP).to_bytes(2, "little") for group in groups)).digest()


def _data_key(metadata: Metadata, protector: Protector, opener: Callable[[Protector], bytes]) -> tuple[int, bytes]:
    """The key of the volume's data, through a protector that is opened by what ``opener`` makes for it."""
    _, master = sealed_entry(_unseal(opener(protector), protector.data(Type.SEALED), protector.id))
    try:
        return sealed_entry(_unseal(master, metadata.sealed_key, metadata.identifier))
    except Denied as error:
        raise Corrupt("bitlocker: the master key does not open the key of the data", reason="fve-key") from error


def _unseal(key: bytes, sealed: bytes | None, what: UUID) -> bytes:
    """What AES-CCM sealed: nonce, tag, content. Raises Denied if the key is another one."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM  # here: scans without BitLocker need none of it

    if sealed is None or len(sealed) <= _NONCE + _TAG or len(key) != 32:
        raise Corrupt(f"bitlocker: the sealed key of {what} is not there or cut off", reason="fve-key")
    nonce, tag, content = sealed[:_NONCE], sealed[_NONCE : _NONCE + _TAG], sealed[_NONCE + _TAG :]
    try:
        return AESCCM(key, tag_length=_TAG).decrypt(nonce, content + tag, None)
    except InvalidTag as error:
        raise Denied("wrong key", reason="wrong-key") from error
