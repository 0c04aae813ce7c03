"""The metadata's language: ``name { ... }``, ``key = 1``, ``key = "text"``, ``key = ["list", 2]``, and comments.

One compiled expression takes a whole statement at a time: a group of 1,000 volumes has 50,000 of them. Every repetition in
it is possessive, so no text makes it go back. Source: lvm.conf(5) and libdm/libdm-config.c of LVM2 (the language).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mntapi.errors import Corrupt, Unsupported

MAX_VALUES = 300_000
"""Values and sections in a text: 20,000 linear volumes. More would take too much time and memory."""

MAX_DEPTH = 16
"""Sections inside one another. LVM has 5."""

Value = int | str | tuple[int | str, ...]

_STATEMENT = re.compile(
    r"""(?: [\s\0]++ | \#[^\n]*+ )*+
        (?: (?P<end> \} )
        |   (?P<name> [A-Za-z0-9_+.\-/]++ ) \s*+
            (?: (?P<open> \{ )
            |   = \s*+ (?: (?P<integer> -?+[0-9]{1,20} ) (?![\w.])
                       |   " (?P<string> [^"\\]*+ (?: \\. [^"\\]*+ )*+ ) "
                       |   \[ (?P<list> (?: [^\]"\#]++ | "[^"\\]*+(?:\\.[^"\\]*+)*+" | \#[^\n]*+ )*+ ) \]
                       |   (?P<other> [0-9.eE+\-]++ ) ) )
        |   (?P<last> \Z ) )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_ITEM = re.compile(
    r"""(?: [\s,\0]++ | \#[^\n]*+ )*+
        (?: "(?P<string> [^"\\]*+ (?: \\. [^"\\]*+ )*+ )" | (?P<integer> -?+[0-9]{1,20} ) | (?P<last> \Z ) )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Source(Protocol):
    """Where a text comes from, for errors."""

    @property
    def content(self) -> bytes:
        """The text."""

    @property
    def volume(self) -> str:
        """The volume that holds it."""

    def place(self, position: int) -> int:
        """The byte of the volume that holds the text's byte at ``position``."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: values and sections by name, in the order of the text. ``at`` is the position of its name in the text."""

    name: str
    at: int
    source: Source = field(repr=False)
    values: dict[str, Value] = field(default_factory=dict, repr=False)
    sections: dict[str, Section] = field(default_factory=dict, repr=False)

    def corrupt(self, what: str, *, expected: object = None, found: object = None, reason: str = "lvm-metadata") -> Corrupt:
        """An error about this section, with its place."""
        return Corrupt(
            f"{self.name}: {what}",
            path=self.source.volume,
            offset=self.source.place(self.at),
            expected=expected,
            found=found,
            reason=reason,
        )

    def number(self, key: str, default: int | None = None, *, least: int = 0, most: int = 2**63 - 1) -> int:
        """An integer between ``least`` and ``most``; ``default`` where there is none, Corrupt without a default."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or not least <= value <= most:
            raise self.corrupt(f"{key} is wrong", expected=f"{least} to {most}", found=_short(value))
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text; ``default`` where there is none, Corrupt without a default."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.corrupt(f"{key} is wrong", expected="a text", found=_short(value))
        return value

    def items(self, key: str) -> tuple[int | str, ...]:
        """A list, empty where there is none; a single value is a list of one."""
        value = self.values.get(key, ())
        return value if isinstance(value, tuple) else (value,)

    def words(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        words = tuple(item for item in self.items(key) if isinstance(item, str))
        if len(words) != len(self.items(key)):
            raise self.corrupt(f"{key} is wrong", expected="texts", found=_short(self.items(key)))
        return words

    def inner(self, name: str) -> Section:
        """The section of that name, or Corrupt."""
        section = self.sections.get(name)
        if section is None:
            raise self.corrupt(f"has no {name}")
        return section


def _short(value: object) -> str:
    return "nothing" if value is None else repr(value)[:80]


def parse(source: Source) -> Section:
    """The whole text as a section.

    Raises:
        Corrupt: it is not of this language, a name stands twice in a section, or a section does not end.
        Unsupported: more than ``MAX_VALUES`` or ``MAX_DEPTH``.
    """
    text = source.content.decode("latin-1")  # so that positions are bytes
    root = Section("the metadata", 0, source)
    stack = [root]
    position, budget = 0, MAX_VALUES
    while True:
        match = _STATEMENT.match(text, position)
        if match is None:
            raise _error(source, position, "the metadata cannot be understood", text[position : position + 40])
        kind, at, position = match.lastgroup, match.start(match.lastgroup or 0), match.end()
        budget -= 1
        if kind == "last":
            break
        if kind == "end":
            if len(stack) == 1:
                raise _error(source, at, "the metadata closes a section that is not open", text[at : at + 40])
            stack.pop()
            continue
        budget = _add(stack, match, budget)
        if budget < 0:
            raise _too_much(source, at, f"more than {MAX_VALUES} values in the metadata")
    if len(stack) > 1:
        raise stack[-1].corrupt("does not end")
    return root


def _add(stack: list[Section], match: re.Match[str], budget: int) -> int:
    """Add a statement to the innermost section; returns what is left of the budget."""
    section, name, kind = stack[-1], match["name"], match.lastgroup
    if name in section.values or name in section.sections:
        raise section.corrupt(f"{name} stands there twice")
    if kind == "open":
        if len(stack) > MAX_DEPTH:
            raise _too_much(section.source, match.start("name"), f"more than {MAX_DEPTH} sections inside one another")
        inner = section.sections[name] = Section(name, match.start("name"), section.source)
        stack.append(inner)
    elif kind == "integer":
        section.values[name] = int(match["integer"])
    elif kind == "string":
        section.values[name] = _plain(match["string"])
    elif kind == "list":
        items = section.values[name] = tuple(_items(section, name, match["list"], budget))
        budget -= len(items)
    else:
        section.values[name] = match["other"]  # a fraction, which nothing here needs
    return budget


def _items(section: Section, key: str, text: str, budget: int) -> Iterator[int | str]:
    position = 0
    while budget >= 0:
        match = _ITEM.match(text, position)
        if match is None:
            raise section.corrupt(f"the list {key} cannot be understood", found=_short(text[position : position + 40]))
        if match.lastgroup == "last":
            return
        yield int(match["integer"]) if match.lastgroup == "integer" else _plain(match["string"])
        position = match.end()
        budget -= 1


def _plain(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _error(source: Source, position: int, what: str, found: str) -> Corrupt:
    return Corrupt(what, path=source.volume, offset=source.place(position), found=_short(found), reason="lvm-metadata")


def _too_much(source: Source, position: int, what: str) -> Unsupported:
    return Unsupported(what, path=source.volume, offset=source.place(position), reason="lvm-too-large")
