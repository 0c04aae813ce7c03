"""Registry hives and their logs made by hand, for what no sample has: regipy says whether they are right.

A tree is a dict: a name is a key (dict) or a value (str, int, bytes, list of str, or a pair of type and bytes); ``@`` is the
default value. All cells are in one hive bin, keys and values in the order given.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import xor
from typing import TypeAlias

from mntapi.guests.windows.regf.marvin32 import marvin32

Data: TypeAlias = "str | int | bytes | list[str] | tuple[int, bytes]"
Tree: TypeAlias = "Mapping[str, Tree | Data]"
BINS = 4096
PAGE = 4096
NONE = 0xFFFFFFFF
_SEGMENT = 16344


def build_hive(
    tree: Tree,
    *,
    lists: bytes = b"lh",
    per_leaf: int = 0,
    minor: int = 5,
    sequences: tuple[int, int] = (7, 7),
    pages: int = 0,
    written: int = 130_000_000_000_000_000,
) -> bytes:
    """A hive of that tree.

    Args:
        tree: what is in its root key.
        lists: how keys are listed: ``lf``, ``lh``, ``li``.
        per_leaf: keys in one list, the lists then in an ``ri``; 0: all in one, without it.
        minor: the version of the format.
        sequences: the numbers of the last write that was begun, and of the last that was completed.
        pages: pages that the bins have at least.
        written: time of the last write, 100 ns since 1601.
    """
    return Builder(lists, per_leaf, minor).hive(tree, sequences, pages, written)


class Builder:
    """Cells one after the other; ``offsets`` of keys are by path, for tests that damage them."""

    def __init__(self, lists: bytes = b"lh", per_leaf: int = 0, minor: int = 5) -> None:
        self._bins = bytearray(32)
        self._lists, self._per_leaf, self._minor = lists, per_leaf, minor
        self.keys: dict[str, int] = {}
        self.subkey_lists: dict[str, int] = {}
        self.values: dict[str, int] = {}

    def hive(self, tree: Tree, sequences: tuple[int, int] = (7, 7), pages: int = 0, written: int = 1) -> bytes:
        root = self._key("ROOT", tree, NONE, "")
        bins = bytearray(self._bins)
        size = max(-(-(len(bins) + 8) // PAGE), pages) * PAGE
        bins += struct.pack("<i", size - len(bins)).ljust(size - len(bins), b"\0")
        bins[:32] = struct.pack("<4sII8xQ4x", b"hbin", 0, size, written)
        return base_block(root, size, sequences, written=written, minor=self._minor).ljust(BINS, b"\0") + bins

    def cell(self, content: bytes) -> int:
        """A cell in use with that content; its offset."""
        offset = len(self._bins)
        size = -(-(len(content) + 4) // 8) * 8
        self._bins += (struct.pack("<i", -size) + content).ljust(size, b"\0")
        return offset

    def _key(self, name: str, tree: Tree, parent: int, path: str) -> int:
        keys = {child: inner for child, inner in tree.items() if isinstance(inner, Mapping)}
        values = {child: inner for child, inner in tree.items() if not isinstance(inner, Mapping)}
        raw, flags = _name(name, 0x20)
        flags |= 0x4 if parent == NONE else 0
        offset = self.cell(bytes(76) + raw)
        self.keys[path] = offset
        made = {child: self._key(child, inner, offset, f"{path}\\{child}".lstrip("\\")) for child, inner in keys.items()}
        value_list = self._value_list(values, path)
        subkeys = self._subkey_list(made)
        self.subkey_lists[path] = subkeys
        node = struct.pack(
            "<2sHQIIIIIIIIII16xI",
            b"nk",
            flags,
            1,
            0,
            parent,
            len(made),
            0,
            subkeys,
            NONE,
            len(values),
            value_list,
            NONE,
            NONE,
            0,
        )
        self._bins[offset + 4 : offset + 4 + 76] = node.ljust(72, b"\0")[:72] + struct.pack("<HH", len(raw), 0)
        return offset

    def _subkey_list(self, keys: Mapping[str, int]) -> int:
        if not keys:
            return NONE
        items = sorted(keys.items(), key=lambda item: item[0].upper())
        if not self._per_leaf:
            return self._leaf(items)
        leaves = [self._leaf(items[at : at + self._per_leaf]) for at in range(0, len(items), self._per_leaf)]
        return self.cell(b"ri" + struct.pack(f"<H{len(leaves)}I", len(leaves), *leaves))

    def _leaf(self, items: Sequence[tuple[str, int]]) -> int:
        words: list[int] = []
        for name, offset in items:
            words.append(offset)
            if self._lists == b"lh":
                words.append(reduce(lambda found, char: (found * 37 + ord(char)) & 0xFFFFFFFF, name.upper(), 0))
            elif self._lists == b"lf":
                words.append(int.from_bytes(_name(name, 1)[0][:4].ljust(4, b"\0"), "little"))
        return self.cell(self._lists + struct.pack(f"<H{len(words)}I", len(items), *words))

    def _value_list(self, values: Mapping[str, Data], path: str) -> int:
        offsets = []
        for name, value in values.items():
            kind, data = encoded(value)
            raw, flags = _name("" if name == "@" else name, 1)
            head = struct.pack("<2sHIIIHH", b"vk", len(raw), *self._data(data), kind, flags, 0)
            offsets.append(self.cell(head + raw))
            self.values[f"{path}\\{name}".lstrip("\\")] = offsets[-1]
        return self.cell(struct.pack(f"<{len(offsets)}I", *offsets)) if offsets else NONE

    def _data(self, data: bytes) -> tuple[int, int]:
        """The size and offset of a value's data."""
        if len(data) <= 4:
            return len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
        if len(data) <= _SEGMENT or self._minor < 4:
            return len(data), self.cell(data)
        pieces = [self.cell(data[at : at + _SEGMENT]) for at in range(0, len(data), _SEGMENT)]
        places = self.cell(struct.pack(f"<{len(pieces)}I", *pieces))
        return len(data), self.cell(struct.pack("<2sHI", b"db", len(pieces), places))


def encoded(value: Data) -> tuple[int, bytes]:
    """A value's type and bytes."""
    if isinstance(value, str):
        return 1, (value + "\0").encode("utf-16-le", "surrogatepass")
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if value < 1 << 32 else (11, struct.pack("<Q", value))
    if isinstance(value, list):
        return 7, ("".join(text + "\0" for text in value) + "\0").encode("utf-16-le")
    return value if isinstance(value, tuple) else (3, value)


def _name(name: str, latin_flag: int) -> tuple[bytes, int]:
    try:
        return name.encode("latin-1"), latin_flag
    except UnicodeEncodeError:
        return name.encode("utf-16-le", "surrogatepass"), 0


def base_block(
    root: int,
    bins_size: int,
    sequences: tuple[int, int],
    *,
    written: int = 1,
    minor: int = 5,
    kind: int = 0,
    clustering: int = 1,
) -> bytes:
    """512 bytes; ``kind`` is 0 for a hive, 1 for an old log, 6 for a new one."""
    name = "SYSTEM".encode("utf-16-le")
    raw = struct.pack("<4sIIQ7I64s", b"regf", *sequences, written, 1, minor, kind, 1, root, bins_size, clustering, name).ljust(
        508, b"\0"
    )
    return raw + struct.pack("<I", reduce(xor, struct.unpack("<127I", raw)))


def with_sequences(hive: bytes, first: int, second: int) -> bytes:
    """The hive with other sequence numbers, its checksum right."""
    raw = bytearray(hive[:508])
    struct.pack_into("<II", raw, 4, first, second)
    return bytes(raw) + struct.pack("<I", reduce(xor, struct.unpack("<127I", raw))) + hive[512:]


def changed_pages(before: bytes, after: bytes, size: int = PAGE) -> list[tuple[int, bytes]]:
    """The pages of the bins that differ, by their offset in the bins."""
    return [
        (at - BINS, after[at : at + size])
        for at in range(BINS, len(after), size)
        if before[at : at + size] != after[at : at + size]
    ]


def log_entry(sequence: int, bins_size: int, pages: Sequence[tuple[int, bytes]]) -> bytes:
    """An entry of a new log."""
    body = b"".join(struct.pack("<II", offset, len(page)) for offset, page in pages) + b"".join(page for _, page in pages)
    size = -(-(40 + len(body)) // 512) * 512
    body = body.ljust(size - 40, b"\0")
    head = struct.pack("<4s5IQ", b"HvLE", size, 0, sequence, bins_size, len(pages), marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def new_log(hive: bytes, entries: Sequence[bytes], sequence: int, *, clustering: int = 1) -> bytes:
    """A log since Windows 8.1, ``sequence`` in its base block."""
    root, bins_size = struct.unpack_from("<II", hive, 36)
    base = base_block(root, bins_size, (sequence, sequence), kind=6, clustering=clustering)
    return base.ljust(512 * clustering, b"\0") + b"".join(entries)


def old_log(before: bytes, after: bytes, *, written: int | None = None, sequences: tuple[int, int] = (8, 8)) -> bytes:
    """A log before Windows 8.1, of 512-byte sectors in which the hives differ."""
    root, bins_size = struct.unpack_from("<II", after, 36)
    stamp = struct.unpack_from("<Q", after, 12)[0] if written is None else written
    sectors = changed_pages(before, after, 512)
    bits = sum(1 << offset // 512 for offset, _ in sectors)
    vector = b"DIRT" + bits.to_bytes(bins_size // 4096, "little")
    vector = vector.ljust(-(-len(vector) // 512) * 512, b"\0")
    return base_block(root, bins_size, sequences, written=stamp, kind=1) + vector + b"".join(page for _, page in sectors)
