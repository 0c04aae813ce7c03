"""What the examiner and the imaging program noted of an EWF image: case, evidence, dates. Bytes in, names and values out.

None of it says where data is, so what is damaged is left out, and the disk opens all the same.

Source: "Expert Witness Compression Format specification" of libewf's open documentation, "Header section" and "Header2
section"; observed on images of EnCase 6, FTK Imager and ewfacquire.
"""

from __future__ import annotations

import re
import zlib
from datetime import UTC, datetime

from mntapi.units import KIB, MIB

MAX_PACKED = 64 * KIB
MAX_UNPACKED = MIB
MAX_VALUE = 4 * KIB
"""Characters of a value that are kept; ewfacquire writes a few hundred at most."""

_NAMES = {
    "c": "case number",
    "a": "description",
    "e": "examiner",
    "n": "evidence number",
    "t": "notes",
    "m": "acquired",
    "u": "system date",
    "ov": "operating system",
    "av": "software",
    "md": "model",
    "sn": "serial number",
}
"""Keys of the table in the text, and what people call them."""
_DATES = ("acquired", "system date")
_CLOCK = re.compile(r"(\d{4}) (\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2}) (\d{1,2})")


def parse_case(kind: str, raw: bytes) -> dict[str, str]:
    """What a ``header`` or ``header2`` section tells, those first that come first in ``_NAMES``.

    The text is a table: a number, ``main``, a line of keys, a line of values, tabs between them.
    """
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(raw[:MAX_PACKED], MAX_UNPACKED)
    except zlib.error:
        return {}
    lines = _decoded(kind, text).replace("\r", "").split("\n")
    if len(lines) < 4 or lines[1] != "main":
        return {}
    told = dict(zip(lines[2].split("\t"), lines[3].split("\t"), strict=False))
    named = {name: told[key][:MAX_VALUE] for key, name in _NAMES.items() if told.get(key, "").strip()}
    return {name: _date(value) if name in _DATES else value for name, value in named.items()}


def _decoded(kind: str, text: bytes) -> str:
    """The characters of ``header2`` have two bytes; those of ``header`` are in the character set of the examiner's host."""
    if kind == "header":
        return text.decode("utf-8", "surrogateescape")
    codec = "utf_16_be" if text.startswith(b"\xfe\xff") else "utf_16_le"
    return text.decode(codec, "replace").removeprefix("\ufeff")


def _date(text: str) -> str:
    """Seconds since 1970 in ``header2``; in ``header`` the clock of the examiner's host. What is neither stays as it is."""
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        year, *rest = (int(part) for part in clock.groups())
        return "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(year, *rest)
    if not re.fullmatch(r"[0-9]{1,11}", text):
        return text
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
