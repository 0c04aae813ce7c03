"""The hives of one system, for looking around: what is not there is None, what is damaged is None and a reason of the guest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import TypeVar

from mntapi.errors import MntapiError, NotFound
from mntapi.guests.files import GuestFiles, one_line, open_file
from mntapi.guests.windows.regf import Hive, Key, Value
from mntapi.guests.windows.regf.hive import MAX_READ
from mntapi.guests.windows.systems import CONFIG
from mntapi.types import Blocks
from mntapi.units import KIB

MAX_TEXT = 64 * KIB
"""Bytes of a value that is a text, or a few numbers."""
_LOGS = (".LOG1", ".LOG2", ".LOG")
_UNIX_EPOCH = 116_444_736_000_000_000
"""1970 in the units of 100 ns since 1601 that Windows counts."""
_LAST_YEAR = _UNIX_EPOCH + 10_000_000 * 253_402_300_800
"""The end of 9999: times behind that are damage."""

T = TypeVar("T")


class Registry:
    """One hive, or none: then everything is None. Damage is noted in ``files.reasons``.

    ``doubt`` says why its newest changes may be missing.
    """

    def __init__(self, hive: Hive | None, files: GuestFiles, path: str) -> None:
        self.path = path
        self.applied = hive.applied if hive else 0
        self.doubt = hive.doubt if hive else None
        self._hive = hive
        self._files = files

    @property
    def is_there(self) -> bool:
        """Whether there is a hive that can be read."""
        return self._hive is not None

    def key(self, path: str) -> Key | None:
        """The key at a path."""
        hive = self._hive
        return None if hive is None else self._try(lambda: hive.key(path))

    def keys(self, path: str, limit: int) -> list[Key]:
        """The keys in the key at a path, at most ``limit``; that there are more is a reason."""
        key = self.key(path)
        return [] if key is None else list(self._limited(key.subkeys(), limit, path))

    def values(self, path: str, limit: int) -> list[Value]:
        """The values of the key at a path, as ``keys``."""
        key = self.key(path)
        return [] if key is None else list(self._limited(key.values(), limit, path))

    def value(self, key: Key | str, name: str) -> Value | None:
        """A value of a key, or of the key at a path."""
        found = self.key(key) if isinstance(key, str) else key
        return None if found is None else self._try(lambda: found.value(name))

    def text(self, key: Key | str, name: str) -> str | None:
        """A value that is one line: without control characters, at most 256 of the others; None if nothing is left."""
        value = self.value(key, name)
        found = None if value is None else self._try(value.text)
        return one_line(found) if found else None

    def texts(self, key: Key | str, name: str) -> list[str]:
        """A value that is a list of texts, as they are."""
        value = self.value(key, name)
        return [] if value is None else self._try(value.texts) or []

    def number(self, key: Key | str, name: str) -> int | None:
        """A value that is a number."""
        value = self.value(key, name)
        return None if value is None else self._try(value.number)

    def data(self, key: Key | str, name: str) -> bytes | None:
        """The bytes of a value."""
        value = self.value(key, name)
        return None if value is None else self.bytes_of(value)

    def bytes_of(self, value: Value) -> bytes | None:
        """The bytes of a value that was found."""
        return self._try(lambda: value.data(MAX_TEXT))

    def note(self, text: str) -> None:
        """Keep a reason that is about this hive."""
        self._files.note(MntapiError(text), self.path)

    def _try(self, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except MntapiError as error:
            self._files.note(error, self.path)
            return None

    def _limited(self, items: Iterator[T], limit: int, where: str) -> Iterator[T]:
        try:
            yield from islice(items, limit)
            if next(items, None) is not None:
                self.note(f"{where!a} has more than {limit} entries; the rest is not looked at")
        except MntapiError as error:
            self._files.note(error, self.path)


def open_registry(files: GuestFiles, folder: str, name: str, resources: ExitStack, *, limit: int = MAX_READ) -> Registry:
    """The hive ``name`` (``SOFTWARE``, ``SYSTEM``, ``SAM``) of the system in ``folder``, with its transaction logs.

    Its files are closed with ``resources``; ``limit`` is that of ``Hive.open``. That there is no such file is a reason, too:
    every system has these.
    """
    path = f"/{folder}/{CONFIG}/{name}"
    try:
        primary = _opened(files, path, resources)
        logs = list(_existing(files, [path + suffix for suffix in _LOGS], resources))
        return Registry(Hive.open(primary, logs, path=path, limit=limit), files, path)
    except NotFound:
        files.note(MntapiError("is missing"), path)
    except MntapiError as error:
        files.note(error, path)
    return Registry(None, files, path)


def _opened(files: GuestFiles, path: str, resources: ExitStack) -> Blocks:
    content = open_file(files.fs, path, fold=True)
    resources.callback(content.close)
    return content


def _existing(files: GuestFiles, paths: Iterable[str], resources: ExitStack) -> Iterator[Blocks]:
    for path in paths:
        try:
            yield _opened(files, path, resources)
        except MntapiError as error:
            files.note(error, path)


def unix_ns(filetime: int | None) -> int | None:
    """A time of Windows (100 ns since 1601) as nanoseconds since 1970; None where it is not set, or impossible."""
    if filetime is None or not _UNIX_EPOCH < filetime < _LAST_YEAR:
        return None
    return (filetime - _UNIX_EPOCH) * 100
