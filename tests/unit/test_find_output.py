"""``mntapi find``: how hits are printed."""

from __future__ import annotations

import io

import pytest

from mntapi.cli import find
from mntapi.cli.output import escape

PATHS = ["/a", "/b c", "/caf\udce9", "/two\nlines", "/e"]


class Terminal(io.TextIOWrapper):
    """A standard output that is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("lines", [1, 2, 5, 6])
def test_a_pipe_gets_every_path_as_it_is(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(find, "_LINES", lines)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    find._print(iter(PATHS))
    assert raw.getvalue() == b"/a\n/b c\n/caf\xe9\n/two\nlines\n/e\n"


def test_a_terminal_gets_each_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", Terminal(raw, encoding="utf-8"))
    seen = []

    def paths() -> object:
        for path in PATHS:
            yield path
            seen.append(raw.getvalue().count(b"\n"))

    find._print(paths())  # type: ignore[arg-type]
    assert seen == [1, 2, 3, 4, 5]
    assert raw.getvalue().decode() == "".join(escape(path) + "\n" for path in PATHS)


def test_nothing_found_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    find._print(iter(()))
    assert raw.getvalue() == b""
