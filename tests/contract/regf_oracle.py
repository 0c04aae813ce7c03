"""Hives as regipy reads them, beside ours: the same keys in the same order, with the same values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mntapi.guests.windows.regf import Hive, Key, Value, ValueKind

_PROPERTY = 0xFFFF0000
"""Types from here on are device properties, which regipy decodes by another table."""


def check_hive(hive: Hive, path: Path, start: str = "") -> tuple[int, int]:
    """Compare all below a key with regipy's reading of the file at ``path``; the numbers of keys and values."""
    from regipy.registry import RegistryHive

    theirs = RegistryHive(str(path))
    hive._left = 1 << 62
    ours = hive.key(start) if start else hive.root
    keys = values = 0
    for key, node in _pairs(ours, theirs.get_key("\\" + start) if start else theirs.root):
        keys += 1
        values += _check_values(key, node)
    return keys, values


def _pairs(ours: Key, theirs: Any) -> Iterator[tuple[Key, Any]]:
    assert _as_regipy(ours.name, ours.node.is_latin) == theirs.name
    assert ours.node.written == theirs.header.last_modified
    yield ours, theirs
    for key, node in zip(list(ours.subkeys()), list(theirs.iter_subkeys() or ()), strict=True):
        yield from _pairs(key, node)


def _check_values(key: Key, node: Any) -> int:
    ours = [value for value in key.values() if value.kind != 0x200000]
    for value, other in zip(ours, list(node.iter_values(trim_values=False)), strict=True):
        name = _as_regipy(value.name, value.record.is_latin) if value.record.name_length else "(default)"
        assert name == other.name
        if value.kind <= _PROPERTY:
            assert _decoded(value) in (other.value, None), (key.name, value.name)
    return len(ours)


def _as_regipy(name: str, is_latin: bool) -> str:
    """It takes letters of Latin-1 that are not ASCII for damage."""
    return name.encode("latin-1").decode("ascii", "replace") if is_latin else name


def _decoded(value: Value) -> object:
    """What regipy makes of our bytes; None where it does not read those of short values."""
    from regipy.utils import try_decode_binary

    if value.kind in (ValueKind.DWORD, ValueKind.QWORD):
        return value.number()
    if value.kind == ValueKind.MULTI_SZ:
        return value.texts()
    if value.kind in (0, ValueKind.BINARY):
        return value.data()
    if value.record.is_inline and value.kind not in (ValueKind.SZ, ValueKind.EXPAND_SZ):
        return None
    return value.data() if value.kind in (8, 10) else try_decode_binary(value.data(), trim_values=False)
