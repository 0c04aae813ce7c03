"""``/etc/fstab`` and ``/etc/crypttab``: lines of fields.

Source: fstab(5) and libmount's ``mnt_parse_table_line``; crypttab(5). Where libmount drops a line for what stands in its last
two fields, which nothing here needs, the line counts: systemd and older systems mount it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.units import MIB

MAX_FSTAB = MIB
"""Bytes of an fstab, crypttab or mdadm.conf that are read."""
MAX_LINES = 1024
"""Lines that say something; a table with more is used up to there, with a reason."""
BIND = frozenset(("bind", "rbind"))
_FIELD = re.compile(r"[ \t]+")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounting:
    """What a guest says is to be mounted. ``origin`` is where it says so, for messages."""

    source: str
    target: str
    type: str
    options: tuple[str, ...]
    origin: str

    @property
    def is_bind(self) -> bool:
        """Whether it shows another folder of the guest."""
        return not BIND.isdisjoint(self.options)

    def option(self, name: str) -> str | None:
        """The value of ``name=value`` among the options, the last if there are several."""
        values = [option.partition("=")[2] for option in self.options if option.startswith(f"{name}=")]
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class CryptName:
    """A line of crypttab: what appears as ``/dev/mapper/NAME``."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Table:
    """An fstab's lines, and what is wrong with the others."""

    entries: tuple[Mounting, ...]
    reasons: tuple[str, ...] = ()


def parse_fstab(text: str, origin: str = "/etc/fstab") -> Table:
    """All lines that have at least source, target and type."""
    entries: list[Mounting] = []
    reasons: list[str] = []
    for number, fields in _lines(text):
        place = f"{origin}, line {number}"
        if len(entries) == MAX_LINES:
            reasons.append(f"{place}: more than {MAX_LINES} entries; the rest is not looked at")
            break
        if len(fields) < 3:
            reasons.append(f"{place}: has no type of file system")
            continue
        source, target, kind = (unescape(field) for field in fields[:3])
        options = unescape(fields[3]) if len(fields) > 3 else ""
        entries.append(Mounting(source, target, kind, split_options(options), place))
    return Table(tuple(entries), tuple(reasons[:MAX_LINES]))


def parse_crypttab(text: str) -> tuple[CryptName, ...]:
    """The names and their devices; at most ``MAX_LINES``."""
    found: list[CryptName] = []
    for _, fields in _lines(text):
        if len(fields) >= 2 and len(found) < MAX_LINES:
            found.append(CryptName(unescape(fields[0]), unescape(fields[1])))
    return tuple(found)


def unescape(field: str) -> str:
    """The field with its octal escapes (``\\040`` is a space) replaced; they stand for bytes."""
    if "\\" not in field:
        return field
    raw = field.encode("utf-8", "surrogateescape")
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), raw).decode("utf-8", "surrogateescape")


def split_options(text: str) -> tuple[str, ...]:
    """Options at their commas; a comma between double quotes (SELinux contexts) separates nothing."""
    parts = re.findall(r'(?:[^,"]|"[^"]*"|")+', text)
    return tuple(part.strip() for part in parts if part.strip())


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that is neither empty nor a comment, with its number."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line and not line.startswith("#"):
            yield number, _FIELD.split(line, maxsplit=6)
