"""What a guest says is shown, never executed by a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest

from mntapi.cli.output import escape, mode_text, shown, table, time_text
from mntapi.escaping import quoted
from mntapi.types import FileKind, Node
from mntapi.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain name.txt", "plain name.txt"),
        ("Übung 名前 🙂", "Übung 名前 🙂"),
        ("C:\\Windows\\Bücher", "C:\\Windows\\Bücher"),
        ("a\nb\tc\\d", "a\\nb\\tc\\\\d"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("evil\u202etxt.exe", "evil\\u202etxt.exe"),
        ("caf\udce9", "caf\\xe9"),
        ("\x9b2J", "\\x9b2J"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_escape(text: str, want: str) -> None:
    assert escape(text) == want


def test_nothing_that_moves_a_cursor_gets_through() -> None:
    everything = "".join(map(chr, range(0x3000)))
    assert not {unicodedata.category(char) for char in escape(everything)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_a_pipe_gets_names_as_they_are() -> None:
    assert shown("a\x1b", io.StringIO()) == "a\x1b"


def test_table() -> None:
    assert table([("A", "SIZE", "B"), ("x", "1", "ü"), ("名前", "100", "")], right=(1,)) == [
        "A     SIZE  B",
        "x        1  ü",
        "名前   100",
    ]


def test_modes_and_times() -> None:
    assert mode_text(Node(inode=1, kind=FileKind.DIRECTORY, size=0, mode=0o1777)) == "drwxrwxrwt"
    assert mode_text(Node(inode=1, kind=FileKind.SYMLINK, size=0, mode=0o777)) == "lrwxrwxrwx"
    assert time_text(1_700_000_000_123_456_789) == "2023-11-14 22:13:20"
    assert time_text(10**30) == f"@{10**21}"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10240, "10.0 KiB"),
        (1 << 20, "1.00 MiB"),
        (6 << 30, "6.00 GiB"),
        (62 << 40, "62.0 TiB"),
        (1023 << 10, "1.00 MiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("10k", 10240), ("1.5 GiB", 3 << 29), ("4KB", 4096), ("2T", 2 << 40)])
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "ten", "1x", "-1", "1.2.3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_a_name_in_a_message() -> None:
    assert (
        quoted("bad\udcffnone") == "'bad\\xffnone'" and quoted("C:\\a b") == "'C:\\a b'" and quoted("\x1b[2J") == "'\\x1b[2J'"
    )
