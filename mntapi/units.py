"""Sizes as people write them, and the arithmetic of alignment. Everything else in the project is plain bytes."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
SECTOR = 512
"""Bytes in the unit most on-disk formats count in, whatever the medium's own sector size."""

_SUFFIXES = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in a size such as ``4096``, ``10k``, ``1.5 GiB``; suffixes are powers of 1024.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    return (
        int(float(match[1]) * _SUFFIXES[match[2].lower()]) if "." in match[1] else int(match[1]) * _SUFFIXES[match[2].lower()]
    )


def format_size(size: int) -> str:
    """A size for people, three significant digits: ``0 B``, ``512 B``, ``1.50 GiB``, ``62.0 TiB``."""
    if size < KIB:
        return f"{size} B"
    value, suffix = float(size), ""
    for suffix in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007 (the last one tried is the one used)
        value /= 1024
        if value < 999.5:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {suffix}"


def align_down(value: int, unit: int) -> int:
    """The largest multiple of ``unit`` that is at most ``value``."""
    return value - value % unit


def align_up(value: int, unit: int) -> int:
    """The smallest multiple of ``unit`` that is at least ``value``."""
    return -(-value // unit) * unit
