"""The JSON of a LUKS2 header: key slots, digests and segments, every value checked.

Source: LUKS2 On-Disk Format Specification 1.1.1, section 3. Tokens are not looked at but for their types.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from mntapi.crypto.keyslot import MAX_KEY_SIZE, MAX_STRIPES, Digest, Kdf, KeySlot
from mntapi.errors import Corrupt
from mntapi.units import SECTOR
from mntapi.volumes.luks.header import Header, Segment

MAX_OBJECTS = 32
"""Key slots, digests, tokens or segments: cryptsetup's own limit."""
MAX_OFFSET = 1 << 62
"""Bytes; more is on no disk, and the sums of two stay below 64 bits."""
_SECTOR_SIZES = (512, 1024, 2048, 4096)
_DECIMAL_DIGITS = 20


class Fields:
    """A JSON object, whose members are asked for with the type they must have. ``name`` is its path, for messages."""

    def __init__(self, content: object, name: str) -> None:
        if not isinstance(content, dict):
            raise Corrupt(f"{name} is no JSON object", found=type(content).__name__)
        self._content: dict[str, Any] = content
        self.name = name

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def wrong(self, key: str, expected: object) -> Corrupt:
        """The error that says that a member is not as it must be."""
        return Corrupt(f"{self.name}.{key} is not possible", expected=expected, found=ascii(self._content.get(key))[:100])

    def object(self, key: str) -> Fields:
        """A member that is an object."""
        return Fields(self._content.get(key, {}), f"{self.name}.{key}")

    def objects(self) -> Iterator[tuple[int, Fields]]:
        """The members, each an object under a number, in the order of the numbers."""
        if len(self._content) > MAX_OBJECTS:
            raise Corrupt(f"{self.name} has too many members", expected=f"at most {MAX_OBJECTS}", found=len(self._content))
        if not all(_is_decimal(key) for key in self._content):
            raise Corrupt(f"{self.name} has a member whose name is no number")
        for key in sorted(self._content, key=int):
            yield int(key), Fields(self._content[key], f"{self.name}.{key}")

    def text(self, key: str) -> str:
        """A member that is a short string."""
        value = self._content.get(key)
        if not isinstance(value, str) or len(value) > 128:
            raise self.wrong(key, "a short string")
        return value

    def number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A member that is a number in ``low .. high``."""
        value = self._content.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(key, f"{low} .. {high}")
        return value

    def offset(self, key: str) -> int:
        """A member that is a number of bytes or sectors, written as a string."""
        value = self._content.get(key)
        if not isinstance(value, str) or not _is_decimal(value) or int(value) > MAX_OFFSET:
            raise self.wrong(key, f"a decimal string, at most {MAX_OFFSET}")
        return int(value)

    def content(self, key: str) -> bytes:
        """A member that is bytes in base64."""
        value = self._content.get(key)
        try:
            if isinstance(value, str) and len(value) <= 4096:
                return b64decode(value, validate=True)
        except binascii.Error as error:
            raise self.wrong(key, f"base64 ({error})") from None
        raise self.wrong(key, "base64")

    def words(self, key: str) -> list[str]:
        """A member that is a list of short strings; none if it is not there."""
        value = self._content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) and len(word) <= 128 for word in value):
            raise self.wrong(key, "a list of short strings")
        return value


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DECIMAL_DIGITS


def parse(content: dict[str, Any]) -> Header:
    """What the JSON says. Raises Corrupt for a value that cannot be, naming it."""
    top = Fields(content, "json")
    unsupported = list(_unsupported(top))
    tokens = [fields.text("type") for _, fields in top.object("tokens").objects()]
    details = {"tokens": ", ".join(tokens)} if tokens else {}
    found = [(number, fields) for number, fields in top.object("segments").objects() if not _is_backup(fields)]
    if not found:
        raise Corrupt("the header names no segment")
    slots = list(_slots(top, unsupported))
    digest: Digest | None = None
    segments: tuple[Segment, ...] = ()
    if not unsupported:
        digest, names = _digest(top, {str(number) for number, _ in found})
        slots = [slot for slot in slots if str(slot.number) in names]
        segments = tuple(_segments([fields for _, fields in found], unsupported))
    return Header(
        version=2,
        uuid="",
        segments=segments,
        slots=tuple(sorted(slots, key=lambda slot: (-slot.priority, slot.number))),
        digest=digest,
        key_size=slots[0].key_size if slots else 0,
        unsupported="; ".join(unsupported) or None,
        details=details,
    )


def _unsupported(top: Fields) -> Iterator[str]:
    """Why the volume cannot be read, as the requirements say."""
    for word in top.object("config").object("requirements").words("mandatory"):
        if "reencrypt" in word:
            yield f"reencryption is in progress ({_shown(word)}): finish it with cryptsetup reencrypt --resume-only"
        else:
            yield f"requires {_shown(word)}"


def _shown(word: str) -> str:
    return word if word.isprintable() and word.isascii() else ascii(word)


def _is_backup(segment: Fields) -> bool:
    return any(flag.startswith("backup-") for flag in segment.words("flags"))


def _digest(top: Fields, segments: set[str]) -> tuple[Digest, set[str]]:
    """The digest of the master key of all segments, and the names of the key slots that hold that key."""
    for _, fields in top.object("digests").objects():
        if segments <= set(fields.words("segments")):
            if fields.text("type") != "pbkdf2":
                raise fields.wrong("type", "pbkdf2")
            content = fields.content("digest")
            if not 16 <= len(content) <= 64:
                raise fields.wrong("digest", "16 .. 64 bytes")
            iterations = fields.number("iterations", 1, (1 << 32) - 1)
            digest = Digest(fields.text("hash"), fields.content("salt"), iterations, content)
            return digest, set(fields.words("keyslots"))
    raise Corrupt("no digest belongs to the segments")


def _slots(top: Fields, unsupported: list[str]) -> Iterator[KeySlot]:
    for number, fields in top.object("keyslots").objects():
        if fields.text("type") == "luks2":
            yield _slot(number, fields)
        elif fields.text("type") == "reencrypt" and not unsupported:
            unsupported.append("reencryption is in progress: finish it with cryptsetup reencrypt --resume-only")


def _slot(number: int, fields: Fields) -> KeySlot:
    area, split = fields.object("area"), fields.object("af")
    if split.text("type") != "luks1":
        raise split.wrong("type", "luks1")
    key_size = fields.number("key_size", 1, MAX_KEY_SIZE)
    stripes = split.number("stripes", 1, MAX_STRIPES)
    if area.text("type") != "raw":
        raise area.wrong("type", "raw")
    if area.offset("size") < key_size * stripes:
        raise area.wrong("size", f"at least {key_size * stripes}")
    return KeySlot(
        number=number,
        kdf=_kdf(fields.object("kdf")),
        key_size=key_size,
        stripes=stripes,
        split_hash=split.text("hash"),
        area_offset=area.offset("offset"),
        area_key_size=area.number("key_size", 1, MAX_KEY_SIZE),
        encryption=area.text("encryption"),
        priority=fields.number("priority", 0, 2, default=1),
    )


def _kdf(fields: Fields) -> Kdf:
    kind, salt, most = fields.text("type"), fields.content("salt"), (1 << 32) - 1
    if kind == "pbkdf2":
        return Kdf(kind, salt, fields.number("iterations", 1, most), fields.text("hash"))
    if kind in ("argon2i", "argon2id"):
        memory, lanes = fields.number("memory", 1, most), fields.number("cpus", 1, most)
        return Kdf(kind, salt, fields.number("time", 1, most), memory=memory, lanes=lanes)
    raise fields.wrong("type", "pbkdf2, argon2i or argon2id")


def _segments(found: list[Fields], unsupported: list[str]) -> Iterator[Segment]:
    for number, fields in enumerate(found):
        if fields.text("type") != "crypt":
            unsupported.append(f"has a segment of type {_shown(fields.text('type'))}")
            continue
        if "integrity" in fields:
            kind = _shown(fields.object("integrity").text("type"))
            unsupported.append(f"has integrity tags ({kind}), which are not read")
            continue
        if fields.text("size") == "dynamic" and number < len(found) - 1:
            raise fields.wrong("size", "a size: only the last segment goes on to the end")
        yield _segment(fields)


def _segment(fields: Fields) -> Segment:
    sector_size = fields.number("sector_size", _SECTOR_SIZES[0], _SECTOR_SIZES[-1])
    offset = fields.offset("offset")
    length = None if fields.text("size") == "dynamic" else fields.offset("size")
    if sector_size not in _SECTOR_SIZES:
        raise fields.wrong("sector_size", _SECTOR_SIZES)
    if offset % SECTOR:
        raise fields.wrong("offset", f"a multiple of {SECTOR}")
    if length is not None and (not length or length % sector_size):
        raise fields.wrong("size", f"a multiple of {sector_size}")
    return Segment(offset, length, fields.text("encryption"), sector_size, fields.offset("iv_tweak"))
