"""Giving back what was opened when the next step fails, and keeping it when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class _Closable(Protocol):
    def close(self) -> object: ...


@contextmanager
def closed_on_error(opened: _Closable) -> Iterator[None]:
    """Close ``opened`` if the block ends with any error, an interrupt included; else it stays open, and its new owner's."""
    try:
        yield
    except BaseException:
        opened.close()
        raise
