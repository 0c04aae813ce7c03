"""Names of volumes out of bytes from disk: folders will be called so."""

from __future__ import annotations

MAX_NAME = 200
"""Bytes in a volume's name."""


def component_name(text: str) -> str:
    """One path component without control characters, of at most ``MAX_NAME`` bytes."""
    clean = "".join("_" if char in "/\\" or not char.isprintable() else char for char in text)
    return clean.encode()[:MAX_NAME].decode("utf-8", "ignore")
