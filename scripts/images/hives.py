#!/usr/bin/env python3
"""What hivex and dissect.regf read in registry hives: scripts/images/hives.py HIVE...

Prints a row for tests/unit/test_regf_samples.py for each hive, if both agree on every key, value, type, byte and time of it.
Needs: python3-hivex, run by the system's python3, with dissect.regf in its path (PYTHONPATH=.../site-packages of an environment
of its own: it is AGPL and no part of this project's).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import hivex
from dissect.regf import RegistryHive

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / part) for part in ("", "tests")]

from contract.hive_listing import Lines, Listing  # noqa: E402 (found by the line above)


def by_hivex(path: str) -> Listing:
    hive, lines = hivex.Hivex(path), Lines()
    todo: list[tuple[int, Any]] = [(0, hive.root())]
    while todo:
        depth, key = todo.pop()
        lines.key(depth, hive.node_name(key), hive.node_timestamp(key))
        for value in hive.node_values(key):
            lines.value(hive.value_key(value), *hive.value_value(value))
        todo += [(depth + 1, below) for below in reversed(hive.node_children(key))]
    return lines.listing()


def by_dissect(path: str) -> Listing:
    lines = Lines()
    with Path(path).open("rb") as file:
        todo: list[tuple[int, Any]] = [(0, RegistryHive(file).root())]
        while todo:
            depth, key = todo.pop()
            lines.key(depth, key.name, key.cell.LastWriteTime)
            for value in key.values():
                lines.value(value.name if value.cell.NameLength else "", value.type, value.data)
            todo += [(depth + 1, below) for below in reversed(list(key.subkeys()))]
    return lines.listing()


for name in sys.argv[1:]:
    found = by_hivex(name)
    if by_dissect(name) != found:
        sys.exit(f"{name}: hivex and dissect.regf do not agree")
    print(f'"{hashlib.sha256(Path(name).read_bytes()).hexdigest()}": {found},')
