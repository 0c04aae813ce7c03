"""Trying keys on the slots of a header."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mntapi.crypto.keyslot import KeySlot
from mntapi.errors import MntapiError
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.units import KIB
from mntapi.volumes.luks.header import Header, Place

MAX_TIME_S = 180.0
"""How long keys are tried on one volume, in seconds; the derivation at work then is finished. A header can ask for hours."""
MAX_ASKED = 3
"""Times a person is asked for a passphrase."""
MAX_TYPED = 512
"""Bytes of a passphrase that a person types: cryptsetup's own limit."""
_MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which some editors put at the start of a file."""


@dataclass(slots=True)
class Attempt:
    """Trying keys on one volume, and what came of it."""

    header: Header
    place: Place
    memory: int
    announce: Callable[[str], None] = field(repr=False)
    """Is told, once, that trying a key on a slot takes a while."""
    wrong: int = 0
    """Keys that were compared with at least one slot and fit none."""
    troubles: list[str] = field(default_factory=list)
    """Why slots could not be tried, each once."""
    _is_compared: bool = False
    _is_announced: bool = False
    _ends_at: float = field(default_factory=lambda: time.monotonic() + MAX_TIME_S)

    def master_key(self, keys: Iterable[Key]) -> bytes | None:
        """The master key, if one of the passphrases among the keys opens a slot."""
        for key in keys:
            if key.kind is KeyKind.PASSPHRASE and not key.secret.is_wiped:
                self._is_compared = False
                for passphrase in _spellings(key.secret):
                    found = self._open(passphrase)
                    if found is not None:
                        return found
                self.wrong += self._is_compared
        return None

    def _open(self, passphrase: memoryview) -> bytes | None:
        for slot in self.header.slots:
            if time.monotonic() > self._ends_at:
                self._note(f"not all slots were tried: it took more than {MAX_TIME_S:.0f} seconds")
                return None
            try:
                found = self._candidate(slot, passphrase)
            except MntapiError as error:
                self._note(f"slot {slot.number} cannot be tried: {error}")
                continue
            if found is not None:
                return found
        return None

    def _candidate(self, slot: KeySlot, passphrase: memoryview) -> bytes | None:
        """The master key if the passphrase opens the slot. Raises what trying it raises."""
        digest = self.header.digest
        if slot.kdf.memory * KIB > self.memory:
            self._note(f"slot {slot.number} cannot be tried: {slot.kdf} is more memory than there is")
            return None
        if slot.kdf.is_slow and not self._is_announced:
            self._is_announced = True
            self.announce(f"trying a key takes a while (slot {slot.number}: {slot.kdf})")
        candidate = slot.candidate(passphrase, self.place.read)
        fits = digest is not None and digest.fits(candidate)
        self._is_compared = True
        return candidate if fits else None

    def _note(self, text: str) -> None:
        if text not in self.troubles:
            self.troubles.append(text)


def _spellings(secret: Secret) -> Iterator[memoryview]:
    """The passphrases that the contents of a file may stand for, the likelier one first: each costs the whole derivation.

    One line of text is what a person typed, and the newline and the byte order mark are the editor's: first without them,
    then as it is, which is how cryptsetup takes key files. All else is a key file, as it is. No copy is made: what is in
    Python's own memory cannot be overwritten for sure.
    """
    content = secret.view()
    start = len(_MARK) if bytes(content[: len(_MARK)]) == _MARK else 0
    end = next((len(ending) for ending in (b"\r\n", b"\n") if bytes(content[-len(ending) :]) == ending), 0)
    typed = content[start : len(content) - end]
    if len(typed) < len(content) and _can_be_typed(typed):
        yield typed
    yield content


def _can_be_typed(content: memoryview) -> bool:
    return len(content) <= MAX_TYPED and not any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in content)


def find_master_key(attempt: Attempt, keys: Keys, names: tuple[str, ...], shown: str, wants: str) -> bytes | None:
    """The master key by the keys given, or else by what a person answers. ``shown``: the volume's name for that person."""
    found = attempt.master_key(keys.of(*names, kind=KeyKind.PASSPHRASE))
    for _ in range(MAX_ASKED if attempt.header.slots else 0):
        if found is not None:
            return found
        answers = list(keys.asked(shown, f"wrong key; {wants}" if attempt.wrong else wants))
        if not answers:
            return None
        try:
            found = attempt.master_key(answers)
        finally:
            for key in answers:
                key.secret.wipe()
    if found is None and attempt.header.slots:
        keys.give_up(shown, "wrong key" if attempt.wrong else "; ".join(attempt.troubles) or "no key")
    return found
