"""Where keys come from on this host: key files, the folder MNTAPI_KEYS, and what a person typed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mntapi.errors import Corrupt, Denied, NotFound
from mntapi.kernel.memory import available_memory
from mntapi.keys import ARGON2_MEMORY, Key, KeyKind, Secret
from mntapi.units import MIB

ENVIRONMENT = "MNTAPI_KEYS"
ENDINGS = {
    ".key": KeyKind.PASSPHRASE,
    ".recovery": KeyKind.RECOVERY,
    ".bek": KeyKind.STARTUP,
    ".header": KeyKind.HEADER,
}
"""How the files of that folder end, in upper or lower case."""
ANY = "any"
"""The name of a file there whose key is for every volume."""
MAX_KEY = 8 * MIB
"""Bytes of a key file: cryptsetup's own limit."""
MAX_HEADER = 136 * MIB
"""Bytes of a LUKS header in a file: two copies of 4 MiB, and 128 MiB of key slots."""

_RECOVERY = re.compile(rb"\s*\d{6}(-\d{6}){7}\s*")


def read_key_file(path: str, kind: KeyKind, volume: str | None) -> Key:
    """The key in a file: its bytes as they are; a recovery password without space around it.

    Raises:
        NotFound, Denied: it cannot be read.
        Corrupt: it is longer than such a key can be.
    """
    limit = MAX_HEADER if kind is KeyKind.HEADER else MAX_KEY
    try:
        with open(path, "rb", buffering=0) as file:
            content = bytearray(file.read(limit + 1) or b"")
            while chunk := file.read(limit + 1 - len(content)):  # a pipe gives it in parts
                content += chunk
    except FileNotFoundError as error:
        raise NotFound("there is no such key file", path=path) from error
    except OSError as error:
        raise Denied(f"the key file cannot be read: {error.strerror}", path=path) from error
    if len(content) > limit:
        raise Corrupt("is too long for a key file", path=path, expected=f"at most {limit} bytes")
    try:
        return Key(kind, Secret(content.strip() if kind is KeyKind.RECOVERY else content), volume)
    finally:
        content[:] = bytes(len(content))


class KeyFolder:
    """A folder of keys, each file named after the id, name or UUID of a volume and the kind of key: ``UUID.key``.

    ``any.key`` is for every volume. A startup key (.bek) has the name that Windows gave it, and is for every BitLocker volume.
    """

    def __init__(self, path: str) -> None:
        """Raises NotFound or Denied if there is no such folder that can be read."""
        self._path = path
        self._names()

    def find(self, names: tuple[str, ...], kind: KeyKind | None) -> Iterator[Key]:
        """The keys for a volume with these names, its own first. Raises as ``read_key_file``."""
        known = {name.casefold() for name in names}
        found = [(Path(name), ENDINGS[ending]) for name in self._names() if (ending := Path(name).suffix.lower()) in ENDINGS]
        found = [(name, each) for name, each in found if kind in (None, each)]
        for is_own in (True, False):
            for name, each in found:
                stem = name.stem.casefold()
                for_any = stem == ANY or each is KeyKind.STARTUP
                if stem in known if is_own else for_any and stem not in known:
                    yield read_key_file(os.path.join(self._path, name), each, name.stem if is_own else None)

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._path))
        except FileNotFoundError as error:
            raise NotFound(f"there is no such folder of keys ({ENVIRONMENT})", path=self._path) from error
        except OSError as error:
            raise Denied(f"the folder of keys cannot be read: {error.strerror}", path=self._path) from error


def usable_memory() -> int:
    """Bytes that trying a key may take on this host."""
    there = available_memory()
    return ARGON2_MEMORY if there is None else min(ARGON2_MEMORY, there)


def typed_keys(text: bytes) -> list[Key]:
    """What a person typed, as the keys it may be; none if it was nothing."""
    if not text:
        return []
    keys = [Key(KeyKind.PASSPHRASE, Secret(text))]
    if _RECOVERY.fullmatch(text):
        keys.append(Key(KeyKind.RECOVERY, Secret(text.strip())))
    return keys
