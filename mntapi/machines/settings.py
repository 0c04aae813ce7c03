"""VMware's text files of ``key = "value"`` lines (``.vmx``, ``.vmsd``): bytes in, a mapping out.

Source: observed on files of Workstation and ESXi; VMware knowledge base 1016398 and 2057902 for single keys.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping

from mntapi.blocks import read
from mntapi.errors import Corrupt, Unsupported
from mntapi.types import Blocks
from mntapi.units import MIB

MAX_TEXT = 4 * MIB
"""Bytes of a machine file; real ones have a few thousand."""
MAX_SETTINGS = 65536

_ENCODING = re.compile(rb'^[ \t]*\.encoding[ \t]*=[ \t]*"?([^"\r\n]*)', re.IGNORECASE | re.MULTILINE)
_CODECS = re.compile(
    r"utf-?8|us-ascii|ascii|windows-\d+|cp-?\d+|gbk|gb2312|gb18030|big5|shift[_-]jis|euc-(jp|kr)|iso-?8859-\d+|koi8-[ru]", re.I
)
"""Encodings we decode; the list is closed because Python's also has ones that are not character sets."""
_SETTING = re.compile(r'([^\s=#"]+)\s*=\s*(?:"([^"]*)"?|(.*))')
_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")


def read_text(blocks: Blocks, path: str) -> bytes:
    """All of a machine file. Raises Corrupt if it is longer than any, or empty."""
    if not 0 < blocks.size <= MAX_TEXT:
        raise Corrupt(
            "is no machine file", path=path, offset=0, expected=f"1 to {MAX_TEXT} bytes", found=blocks.size, reason="machine"
        )
    return read(blocks, 0, blocks.size)


def parse_settings(raw: bytes, path: str) -> Mapping[str, str]:
    """The settings, keys in lower case. A key that is there twice has its last value, as in VMware.

    Raises:
        Unsupported: it is in an encoding we do not know.
        Corrupt: there are too many lines.
    """
    settings: dict[str, str] = {}
    lines = _decoded(raw, path).removeprefix("\ufeff").splitlines()
    if len(lines) > MAX_SETTINGS:
        raise Corrupt("has too many lines", path=path, expected=f"at most {MAX_SETTINGS}", found=len(lines), reason="machine")
    for line in lines:
        match = _SETTING.match(line.strip())
        if match:
            value = match[2] if match[2] is not None else match[3]
            settings[match[1].lower()] = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), value.strip())
    return settings


def _decoded(raw: bytes, path: str) -> str:
    """The text; bytes that the encoding does not have are kept as surrogates, as ``os.fsdecode`` does with file names."""
    if raw.isascii():
        return raw.decode("ascii")
    match = _ENCODING.search(raw)
    name = match[1].decode("ascii", "replace").strip() if match else "UTF-8"
    try:
        if not _CODECS.fullmatch(name):
            raise LookupError
        codec = codecs.lookup(re.sub(r"windows-", "cp", name, flags=re.IGNORECASE)).name
    except LookupError as error:
        raise Unsupported(f"the encoding {name!a} is not known", path=path, reason="encoding") from error
    return raw.decode(codec, "surrogateescape")


def is_false(settings: Mapping[str, str], key: str) -> bool:
    """Whether a setting says no. One that is absent does not."""
    return settings.get(key, "").lower() in ("false", "no", "0")


def number(settings: Mapping[str, str], key: str, path: str, most: int) -> int | None:
    """A setting that is a number from 0 to ``most``; None if it is absent. Raises Corrupt if it is something else."""
    text = settings.get(key)
    if text is None or text == "":
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > most:
        raise Corrupt(f"the setting {key} is no such number", path=path, expected=f"0 to {most}", found=ascii(text[:40]),
                      reason="machine")  # fmt: skip
    return int(text)
