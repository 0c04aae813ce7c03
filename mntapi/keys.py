"""Keys to encrypted volumes: what a user gave, for which volume. No cryptography here, and no I/O.

A ``Secret`` never shows its bytes in a repr, a traceback or JSON, and is wiped when it is no longer needed. Start at ``Keys``.
"""

from __future__ import annotations

import enum
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

ARGON2_MEMORY = 4 << 30
"""Bytes that trying one key may take at most: the most that LUKS2 can ask for."""

MAX_LOCKED = 1 << 20
"""Bytes of a secret that is locked into memory. A LUKS header is longer, and holds no secret by itself."""

_MAP_LOCKED = 0x2000 if os.uname().machine in ("x86_64", "aarch64", "riscv64", "s390x") else 0
"""``MAP_LOCKED`` of Linux (asm-generic/mman.h), which the module mmap does not name; other machines have other numbers."""


class KeyKind(enum.StrEnum):
    """What a key is, and so what a scheme does with it."""

    PASSPHRASE = "passphrase"
    """What a person types; also the contents of a key file: bytes, taken as they are."""
    RECOVERY = "recovery"
    """A BitLocker recovery password: 48 digits in 8 groups."""
    STARTUP = "startup"
    """The contents of a BitLocker startup key file (.BEK)."""
    HEADER = "header"
    """The contents of a LUKS header that was stored away from its volume."""


class Secret:
    """Bytes that are shown to nobody. ``view`` and ``reveal`` are for the scheme that derives a key from them.

    They have memory pages of their own that go into no core dump and, where the system allows it, not to swap. To fill one
    without another copy, make it of zeros and write into its ``view``.
    """

    __slots__ = ("_pages", "_size")

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self._size = len(content)
        self._pages = _pages(max(1, self._size))
        self._pages[: self._size] = content

    def view(self) -> memoryview:
        """The bytes themselves, until ``wipe``. Nothing if they were wiped."""
        return memoryview(self._pages)[: self._size] if self._size else memoryview(b"")

    def reveal(self) -> bytes:
        """A copy of the bytes, which nobody wipes: for what cannot take ``view``."""
        return bytes(self.view())

    @property
    def is_wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._pages.closed or not self._size

    def wipe(self) -> None:
        """Overwrite the bytes. Revealed again, it is empty. Wiping twice is fine."""
        if self._pages.closed:
            return
        self._pages[:] = bytes(len(self._pages))
        self._size = 0
        try:
            self._pages.close()
        except BufferError:
            return  # somebody holds a view: it shows zeros, and the pages go with it

    def __repr__(self) -> str:
        return "Secret(...)"


def _pages(size: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        pages = mmap.mmap(-1, size, flags=flags | (_MAP_LOCKED if size <= MAX_LOCKED else 0))
    except OSError:  # RLIMIT_MEMLOCK
        pages = mmap.mmap(-1, size, flags=flags)
    pages.madvise(mmap.MADV_DONTDUMP)
    return pages


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``volume`` is the id, name or UUID of the volume it is for, or None: to be tried on every volume of its kind."""

    kind: KeyKind
    secret: Secret
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys a user gave, and where more come from."""

    keys: tuple[Key, ...] = ()
    ask: Callable[[str, str], Iterable[Key]] | None = field(default=None, repr=False)
    """Called with a volume's name and a sentence on what it wants if no key given fits; answers with keys to try, or none."""
    tell: Callable[[str, str], None] | None = field(default=None, repr=False)
    """Called with a volume's name and a sentence when the last answer did not open it either."""
    wait: Callable[[str, str], None] | None = field(default=None, repr=False)
    """Called with a volume's name and a sentence before work begins that a person notices."""
    find: Callable[[tuple[str, ...], KeyKind | None], Iterable[Key]] | None = field(default=None, repr=False)
    """Called with a volume's names (id, name, UUID) and a kind, once for each; answers with the keys that are kept for it."""
    memory: int = ARGON2_MEMORY
    """Bytes that trying one key may take."""
    _found: dict[tuple[tuple[str, ...], KeyKind | None], tuple[Key, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _headers_for: set[str] = field(default_factory=set, repr=False, compare=False)
    """Names of the volumes that headers were looked for: all in a scan."""
    _names: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)
    """Of the volumes that keys were looked for, each of their names to all of them."""

    def of(self, *names: str | None, kind: KeyKind | None = None) -> Iterator[Key]:
        """The keys for a volume with these names (id, name, UUID): its own first, then those for any volume.

        Upper and lower case are the same. ``kind``: only such.
        """
        if kind is KeyKind.HEADER:
            self._headers_for.update(known := _folded(names))
        else:
            known = self.meet(*names)
        wanted = [key for key in self.keys if kind in (None, key.kind)]
        yield from (key for key in wanted if key.volume is not None and key.volume.casefold() in known)
        yield from self._kept_for(tuple(name for name in names if name), kind)
        yield from (key for key in wanted if key.volume is None)

    def meet(self, *names: str | None) -> frozenset[str]:
        """Take note that a volume with these names is one for which there may be keys; returns the names without their case."""
        known = _folded(names)
        self._names.update(dict.fromkeys(known, known))
        return known

    def _kept_for(self, names: tuple[str, ...], kind: KeyKind | None) -> tuple[Key, ...]:
        if self.find is None or not names:
            return ()
        if (names, kind) not in self._found:
            self._found[names, kind] = tuple(self.find(names, kind))
        return self._found[names, kind]

    @property
    def has_any(self) -> bool:
        """Whether there is a key, or a way to come by one."""
        return bool(self.keys or self.ask or self.find)

    def asked(self, volume: str, wants: str) -> Iterator[Key]:
        """What the user answers, if somebody can be asked."""
        if self.ask is not None:
            yield from self.ask(volume, wants)

    def give_up(self, volume: str, why: str) -> None:
        """Tell whoever was asked that the volume stays locked."""
        if self.tell is not None:
            self.tell(volume, f"{why}; it stays locked")

    def announce(self, volume: str, what: str) -> None:
        """Tell whoever looks on that this takes a while."""
        if self.wait is not None:
            self.wait(volume, what)

    def has_for(self, *names: str | None) -> bool:
        """Whether the user gave a key for the volume with one of these names, and not for just any.

        By any name it has: keys were looked for by all of them, its UUID included.
        """
        known = _folded(names)
        known = known.union(*(self._names.get(name, ()) for name in known))
        return any(key.volume is not None and key.volume.casefold() in known for key in self.keys)

    def fit_none(self, locked: Iterable[str]) -> bool:
        """Whether there are keys for any volume, and none is open of those that keys were looked for.

        Args:
            locked: ids of the volumes that are not.
        """
        still = _folded(locked)
        return any(_is_for_any(key) for key in self.keys) and all(not still.isdisjoint(names) for names in self._names.values())

    def strangers(self) -> list[str]:
        """The volumes that keys were given for and that no scheme has come across: misspelt, or in another set."""
        named = [key for key in self.keys if key.volume is not None]
        met = {True: self._headers_for, False: self._names}
        return list(
            {str(key.volume): None for key in named if str(key.volume).casefold() not in met[key.kind is KeyKind.HEADER]}
        )

    def wipe(self) -> None:
        """Overwrite every secret."""
        for key in (*self.keys, *(key for found in self._found.values() for key in found)):
            key.secret.wipe()


def _is_for_any(key: Key) -> bool:
    return key.volume is None and key.kind is not KeyKind.HEADER


def _folded(names: Iterable[str | None]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names if name)
