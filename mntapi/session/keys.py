"""Where keys come from on this host: key files, the folder MNTAPI_KEYS, and what a person typed; and whether they did it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from mntapi.errors import Corrupt, Denied, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.kernel.memory import available_memory
from mntapi.keys import ARGON2_MEMORY, Key, KeyKind, Keys, Secret
from mntapi.types import VolumeState
from mntapi.units import MIB
from mntapi.volumes.luks.places import HEAD, MAGIC, ROAMING, SECOND_MAGIC, SIZES, names_of

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

_HINT = "--key VOLUME:FILE, FILE being the file that holds the key"
_REFUSALS: Mapping[str, type[MntapiError]] = {
    VolumeState.ENCRYPTED: Denied,
    VolumeState.UNSUPPORTED: Unsupported,
    VolumeState.DAMAGED: Corrupt,
}
"""What it is called if a key was given for a volume in this state."""
_INSIDE = ("luks:", "bitlocker:")
"""How ids begin of what a key has opened."""
_RECOVERY = re.compile(rb"\s*\d{6}(-\d{6}){7}\s*")


def read_key_file(path: str, kind: KeyKind, volume: str | None) -> Key:
    """The key in a file: its bytes as they are; a recovery password without space around it.

    Raises:
        NotFound, Denied: it cannot be read.
        Invalid: it is no such key: a folder, empty, longer than one can be, or no LUKS header where it should be one.
    """
    content = _content(path, MAX_HEADER if kind is KeyKind.HEADER else MAX_KEY)
    try:
        if kind is KeyKind.HEADER and not _is_header(content):
            what = "is no LUKS header"
            raise Invalid(what, path=path, hint="cryptsetup luksHeaderBackup writes one", reason="header")
        if kind is KeyKind.HEADER and (volume is None or volume.casefold() in names_of(content)):
            volume = ROAMING  # nothing on a volume says that this is its header
        return Key(kind, Secret(content.strip() if kind is KeyKind.RECOVERY else content), volume)
    finally:
        content[:] = bytes(len(content))


def _content(path: str, limit: int) -> bytearray:
    try:
        with open(path, "rb", buffering=0) as file:
            content = bytearray(file.read(limit + 1) or b"")
            while chunk := file.read(limit + 1 - len(content)):  # a pipe gives it in parts
                content += chunk
    except FileNotFoundError as error:
        raise NotFound("there is no such key file", path=path, hint=_HINT) from error
    except IsADirectoryError as error:
        hint = f"name a file in it, or give it as a folder of keys: {ENVIRONMENT}={path}"
        raise IsADirectory("is a folder, not a key file", path=path, hint=hint) from error
    except OSError as error:
        raise Denied(f"the key file cannot be read: {error.strerror}", path=path) from error
    if not content:
        raise Invalid("the key file is empty", path=path, hint="a file that holds the passphrase or the key is wanted")
    if len(content) > limit:
        content[:] = bytes(len(content))
        raise Invalid("is too long for a key file", path=path, expected=f"at most {limit} bytes", hint=_HINT)
    return content


def _is_header(content: bytearray) -> bool:
    """Whether it begins as one; of LUKS2 the first copy may be wiped, and the second be there."""
    wiped = not any(content[:HEAD]) and any(content.startswith(SECOND_MAGIC, at) for at in SIZES)
    return content.startswith(MAGIC) or wiped


class KeyFolder:
    """A folder of keys, each file named after the id, name or UUID of a volume and the kind of key: ``UUID.key``.

    ``any.key`` is for every volume. A startup key (.bek) has the name that Windows gave it, and is for every BitLocker volume.
    A header that is named after the UUID inside of it is for the volume that it fits, and so is ``any.header``.
    """

    def __init__(self, path: str) -> None:
        """Raises NotFound or Denied if there is no such folder that can be read."""
        self._path = path
        self._names()

    def find(self, names: tuple[str, ...], kind: KeyKind | None) -> Iterator[Key]:
        """The keys for a volume with these names, its own first. Raises NotFound, or Denied for a file that is no key."""
        known = {name.casefold() for name in names}
        found = [(Path(name), ENDINGS[ending]) for name in self._names() if (ending := Path(name).suffix.lower()) in ENDINGS]
        found = [(name, each) for name, each in found if kind in (None, each)]
        own = [one for one in found if one[0].stem.casefold() in known]
        for name, each in own:
            yield self._read(name, each, name.stem)
        for name, each in found:
            if (name, each) not in own and self._is_for_any(name, each, known):
                yield self._read(name, each, None)

    def _is_for_any(self, name: Path, kind: KeyKind, known: set[str]) -> bool:
        stem = name.stem.casefold()
        if kind is KeyKind.HEADER:
            return ROAMING in known and (stem == ANY or stem in names_of(_head_of(os.path.join(self._path, name))))
        return stem == ANY or kind is KeyKind.STARTUP

    def _read(self, name: Path, kind: KeyKind, volume: str | None) -> Key:
        try:
            return read_key_file(os.path.join(self._path, name), kind, volume)
        except Invalid as error:  # nothing is wrong with what the caller asked for
            raise Denied(error.what, path=error.path, hint=error.hint, expected=error.expected, reason="key") from error

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._path))
        except FileNotFoundError as error:
            what = f"there is no such folder of keys ({ENVIRONMENT})"
            raise NotFound(what, path=self._path, hint=f"make that folder, or unset {ENVIRONMENT}") from error
        except NotADirectoryError as error:
            hint = f"put the file into a folder as any.key and name the folder, or give the file as --key '*:{self._path}'"
            raise NotADirectory(f"is a file, and {ENVIRONMENT} names a folder", path=self._path, hint=hint) from error
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


def _head_of(path: str) -> bytes:
    """The start of a file; nothing if it cannot be read, which whoever reads it whole is told."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(HEAD) or b""
    except OSError:
        return b""


def in_vain(keys: Keys) -> Iterator[str]:
    """What to say of each key that was given for a volume which was not come across."""
    for volume in keys.strangers():
        if volume == ROAMING:
            yield "no volume looks as if this LUKS header could be its own; if one is, name it: --key VOLUME:header=FILE"
        else:
            yield f"--key {volume}: no volume has that name, id or UUID, or it needs no key"


class Treated(Protocol):
    """What became of a volume."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...


def check_opened(keys: Keys, volumes: Iterable[Treated]) -> None:
    """Make sure that no key was in vain: one for a volume opened it, and those for any volume opened some, if any was locked.

    Args:
        keys: those that were tried; they may have been wiped since.
        volumes: what was found with them.

    Raises:
        Denied: no key opens the volume.
        Unsupported, Corrupt: none could be tried, because of how the volume is encrypted or of damage to it.
    """
    shut = [one for one in volumes if _is_shut(one)]
    for one in shut:
        if keys.has_for(one.id, one.name):
            raise _in_vain(one)
    locked = [one for one in shut if one.state == VolumeState.ENCRYPTED]
    if locked and keys.fit_none(one.id for one in shut):
        raise _in_vain(locked[0])


def _is_shut(volume: Treated) -> bool:
    is_inside = volume.id.startswith(_INSIDE) and volume.state != VolumeState.ENCRYPTED
    return volume.state in _REFUSALS and not is_inside


def _in_vain(volume: Treated) -> MntapiError:
    hint = "mntapi info shows what it wants" if volume.state == VolumeState.ENCRYPTED else None
    return _REFUSALS[volume.state](f"{volume.name} stays locked: {volume.reason}", hint=hint, reason="key")
