"""Keys to encrypted volumes: what a user gave, for which volume. No cryptography here, and no I/O.

A ``Secret`` never shows its bytes in a repr, a traceback or JSON, and is wiped when it is no longer needed. Start at ``Keys``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field


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
    """Bytes that are shown to nobody. ``reveal`` is for the scheme that derives a key from them."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self._content = bytearray(content)

    def reveal(self) -> bytes:
        """A copy of the bytes; keep it no longer than the derivation takes."""
        return bytes(self._content)

    def wipe(self) -> None:
        """Overwrite the bytes. Revealed again, it is empty."""
        self._content[:] = bytes(len(self._content))
        self._content.clear()

    def __repr__(self) -> str:
        return "Secret(...)"


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

    def of(self, *names: str | None) -> Iterator[Key]:
        """The keys for a volume with these names (id, name, UUID): its own first, then those for any volume."""
        yield from (key for key in self.keys if key.volume is not None and key.volume in names)
        yield from (key for key in self.keys if key.volume is None)

    def wipe(self) -> None:
        """Overwrite every secret."""
        for key in self.keys:
            key.secret.wipe()
