"""What disks say, made fit to be shown: a message holds no sign that moves, hides or reorders the text around it."""

from __future__ import annotations

import unicodedata

_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that move, hide or reorder what a terminal shows."""


def escape(text: str) -> str:
    """``text`` with all that is not plainly visible escaped: ``\\n``, ``\\x1b``, ``\\u202e``; bytes that are no UTF-8 too.

    A backslash is doubled only beside such: a path of Windows stays as it is.
    """
    if (text.isascii() and text.isprintable()) or all(map(_is_visible, text)):
        return text
    return "".join(map(_escape_one, text))


def quoted(name: str) -> str:
    """A name in a message: escaped, between quotation marks. Not ``!a``, which shows Python's own form of names."""
    return f"'{escape(name)}'"


def _is_visible(char: str) -> bool:
    return char not in "\n\t\r" and unicodedata.category(char) not in _UNSAFE


def _escape_one(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if unicodedata.category(char) not in _UNSAFE:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
