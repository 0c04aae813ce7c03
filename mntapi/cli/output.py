"""Printing what a guest says without believing it.

On a terminal, control characters of names and labels are shown escaped, so that no file name can move the cursor, set a title
or hide a line. Into a pipe or a file, names go as the bytes they are, for programs to work with.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TextIO

from mntapi.escaping import escape as escape
from mntapi.filesystems.kinds import MODE_BITS
from mntapi.types import Node


def shown(text: str, stream: TextIO | None = None) -> str:
    """``text`` for ``stream`` (standard output): escaped on a terminal, as it is elsewhere."""
    return escape(text) if (stream or sys.stdout).isatty() else text


def emit(text: str = "") -> None:
    """One line to standard output; names go out as the bytes they came in. A terminal shows it at once."""
    out = sys.stdout
    if isinstance(out, TextIOWrapper) and not out.write_through:
        out.reconfigure(write_through=True)  # what others print keeps its place among these lines
    out.buffer.write(os.fsencode(text) + b"\n")
    if out.isatty():
        out.buffer.flush()


def emit_json(value: object) -> None:
    """A JSON document to standard output, pure ASCII; bytes that are no UTF-8 are lone surrogates (``\\udcff``)."""
    emit(json.dumps(value, indent=2))


def complain(text: str) -> None:
    """One line to standard error, always escaped. Where nobody can be told, as on a full disk, the work goes on."""
    with suppress(OSError):
        print(escape(text), file=sys.stderr, flush=True)  # noqa: T201


def mode_text(node: Node) -> str:
    """``drwxr-xr-x``."""
    return stat.filemode(MODE_BITS[node.kind] | node.mode)


def time_text(time_ns: int) -> str:
    """A time in UTC to the second: ``2026-11-22 11:00:25``; one that no calendar holds as a plain number."""
    seconds = time_ns // 1_000_000_000
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows as lines with aligned columns, the first row being the header; ``right``: the columns set flush right."""
    widths = [max(text_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_cell(text, widths[at], at in right) for at, text in enumerate(row)).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - text_width(text))
    return blanks + text if right else text + blanks


def text_width(text: str) -> int:
    """Columns that it takes on a terminal."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
