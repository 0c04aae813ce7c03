"""A hive: keys by path, their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from mntapi.blocks import Cache, read
from mntapi.errors import Corrupt, MntapiError, NotFound, Unsupported
from mntapi.guests.windows.regf import records
from mntapi.guests.windows.regf.base import BINS_START, Base
from mntapi.guests.windows.regf.records import Leaf, Node, ValueKind, ValueRecord
from mntapi.guests.windows.regf.recovery import recover
from mntapi.types import Blocks
from mntapi.units import KIB, MIB

MAX_READ = 16 * MIB
"""Bytes of cells one hive gives, where the opener says nothing else, and a charge for each of them; read in half a second.
What is known of a system takes a tenth of that."""
CELL_COST = 400
"""What each cell costs of that besides its bytes."""
MAX_DATA = 1 * MIB
"""Bytes of a value, where the caller says nothing else: what Windows itself recommends as a limit."""
TOO_LARGE = "too-large"

_BIN_HEADER = 32
_USUAL_CELL = 256
_MIN_NODE = 80
_MIN_VALUE = 24
_FIRST_BIG_MINOR = 4
_BLOCK = 16 * KIB
_CACHE = 2 * MIB
_TEXTS = (ValueKind.SZ, ValueKind.EXPAND_SZ, ValueKind.LINK)
_NUMBERS = {int(ValueKind.DWORD): 4, int(ValueKind.DWORD_BIG_ENDIAN): 4, int(ValueKind.QWORD): 8}

T = TypeVar("T")


class Hive:
    """A registry hive, read when asked. Borrows the files. Not thread-safe.

    Attributes:
        base: its base block.
        applied: log entries that were replayed.
        doubt: why the newest changes may be missing, or None.
    """

    def __init__(self, content: Blocks, base: Base, *, path: str | None = None, limit: int = MAX_READ) -> None:
        self.base = base
        self.applied = 0
        self.doubt: str | None = None
        self._content = Cache(content, block_size=_BLOCK, capacity=_CACHE)
        self._path = path
        self._limit = self._left = limit

    @classmethod
    def open(cls, primary: Blocks, logs: Sequence[Blocks] = (), *, path: str | None = None, limit: int = MAX_READ) -> Hive:
        """The hive in ``primary`` with what applies of its transaction logs.

        Args:
            primary: the file.
            logs: ``.LOG1`` and ``.LOG2``, or ``.LOG``, in this order; they count only where the hive says that it is dirty.
            path: for errors.
            limit: bytes of cells to give at most, and ``CELL_COST`` for each.

        Raises:
            Corrupt, Unsupported: it is no hive that is read.
            MntapiError: it cannot be read.
        """
        try:
            recovered = recover(primary, logs)
        except MntapiError as error:
            raise error.located(path=path) from error.__cause__
        hive = cls(recovered.content, recovered.base, path=path, limit=limit)
        hive.applied, hive.doubt = recovered.applied, recovered.doubt
        return hive

    @property
    def root(self) -> Key:
        """The key without a name of its own. Raises Corrupt where it is damaged."""
        return self.key_at(self.base.root)

    def key(self, path: str) -> Key:
        """The key at a path: names separated by ``\\``, in any case. Raises NotFound; Corrupt where it is damaged."""
        key = self.root
        for name in path.split("\\"):
            key = key.subkey(name)
        return key

    def key_at(self, offset: int) -> Key:
        """The key in the cell at ``offset``."""
        raw = self.cell(offset, _USUAL_CELL)
        node = self.parsed(records.parse_node, raw, offset)
        raw = self._long_enough(raw, offset, records.NODE_SIZE + node.name_length)
        name = records.name_text(raw[records.NODE_SIZE :][: node.name_length], is_latin=node.is_latin)
        return Key(self, offset, node, name)

    def value_at(self, offset: int) -> Value:
        """The value in the cell at ``offset``."""
        raw = self.cell(offset, _USUAL_CELL)
        record = self.parsed(records.parse_value, raw, offset)
        raw = self._long_enough(raw, offset, records.VALUE_SIZE + record.name_length)
        name = records.name_text(raw[records.VALUE_SIZE :][: record.name_length], is_latin=record.is_latin)
        return Value(self, offset, record, name)

    def cell(self, offset: int, limit: int) -> bytes:
        """What is in the cell at ``offset``, at most ``limit`` bytes.

        Raises:
            Corrupt: there is no cell, or a free one.
            Unsupported: the hive has given all it may (reason ``TOO_LARGE``).
            MntapiError: it cannot be read.
        """
        if offset % 8 or not _BIN_HEADER <= offset <= self.base.bins_size - 8:
            self.fail("a cell lies outside the hive", offset, expected=f"in {self.base.bins_size} bytes", found=offset)
        there = self.base.bins_size - offset
        raw = self._read(offset, min(limit + 4, there, _USUAL_CELL))
        size = -int.from_bytes(raw[:4], "little", signed=True)
        if not 8 <= size <= there:
            what = "a cell is not in use" if size < 0 else "the size of a cell is impossible"
            self.fail(what, offset, expected=f"-8 to -{there}", found=-size)
        wanted = min(size, limit + 4)
        if wanted > len(raw):
            raw += self._read(offset + len(raw), wanted - len(raw))
        return raw[4:wanted]

    def fail(self, what: str, offset: int, *, expected: object = None, found: object = None) -> NoReturn:
        """Raise Corrupt about the cell at ``offset``."""
        raise Corrupt(what, path=self._path, offset=BINS_START + offset, expected=expected, found=found)

    def too_large(self, what: str, *, expected: object, found: object = None) -> Unsupported:
        """The error about what is beyond a limit of ours."""
        return Unsupported(what, path=self._path, expected=expected, found=found, reason=TOO_LARGE)

    def parsed(self, parse: Callable[[bytes], T], raw: bytes, offset: int) -> T:
        """What ``parse`` makes of the content of the cell at ``offset``; its errors say where in the file."""
        try:
            return parse(raw)
        except Corrupt as error:
            raise error.located(path=self._path, base=BINS_START + offset + 4) from error.__cause__

    def _long_enough(self, raw: bytes, offset: int, length: int) -> bytes:
        """The first ``length`` bytes in the cell, of which ``raw`` was read before."""
        if len(raw) < length:
            raw = self.cell(offset, length)
        if len(raw) < length:
            self.fail("a name is longer than its cell", offset, expected=f"at most {len(raw)} bytes", found=length)
        return raw

    def _read(self, offset: int, length: int) -> bytes:
        self._left -= length + CELL_COST
        if self._left < 0:
            raise self.too_large("the hive has too much to read", expected=f"at most {self._limit} bytes")
        try:
            return read(self._content, BINS_START + offset, length)
        except MntapiError as error:
            raise error.located(path=self._path) from error.__cause__


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A key of a hive. ``offset`` is that of its cell."""

    hive: Hive
    offset: int
    node: Node
    name: str

    def subkeys(self) -> Iterator[Key]:
        """The keys in it, in their order. Raises Corrupt where a list or key is damaged, after those before it."""
        for leaf in self._leaves():
            for offset in leaf.offsets:
                yield self.hive.key_at(offset)

    def subkey(self, name: str) -> Key:
        """The key of that name, in any case. Raises NotFound; Corrupt where a list, or a key that may be it, is damaged."""
        wanted, hashed = records.upper(name), records.name_hash(name)
        for leaf in self._leaves():
            for place, offset in enumerate(leaf.offsets):
                if leaf.kind == b"lh" and leaf.hints[place] != hashed:
                    continue
                key = self.hive.key_at(offset)
                if records.upper(key.name) == wanted:
                    return key
        raise NotFound(f"no registry key {name!a}")

    def _leaves(self) -> Iterator[Leaf]:
        """The lists of its keys: one, or those of an index root. Together they have as many as the key says, or fewer."""
        node, left = self.node, self.node.subkey_count
        if not left:
            return
        self._check_count("keys", left, _MIN_NODE)
        raw = self.hive.cell(node.subkeys, records.MAX_LIST)
        lists = self.hive.parsed(records.parse_index_root, raw, node.subkeys)
        for offset in (node.subkeys,) if lists is None else lists:
            raw = raw if lists is None else self.hive.cell(offset, records.MAX_LIST)
            leaf = self.hive.parsed(records.parse_leaf, raw, offset)
            left -= len(leaf.offsets)
            if left < 0:
                self.hive.fail("a key has more keys than it says", self.offset, expected=node.subkey_count)
            yield leaf

    def values(self) -> Iterator[Value]:
        """Its values, in their order. Raises Corrupt where the list or a value is damaged, after those before it."""
        count = self.node.value_count
        if not count:
            return
        self._check_count("values", count, _MIN_VALUE)
        raw = self.hive.cell(self.node.values, 4 * count)
        for offset in records.parse_offsets(raw, min(count, len(raw) // 4)):
            yield self.hive.value_at(offset)
        self.hive.parsed(lambda cell: records.parse_offsets(cell, count), raw, self.node.values)

    def value(self, name: str) -> Value:
        """The value of that name, in any case; the default value has none. Raises NotFound; Corrupt as ``values``."""
        wanted = records.upper(name)
        for value in self.values():
            if records.upper(value.name) == wanted:
                return value
        raise NotFound(f"no registry value {name!a}")

    def _check_count(self, what: str, count: int, smallest: int) -> None:
        """Raise Corrupt unless that many cells can be in the hive."""
        most = self.hive.base.bins_size // smallest
        if count > most:
            self.hive.fail(
                f"a key says it has more {what} than the hive can hold", self.offset, expected=f"at most {most}", found=count
            )


@dataclass(frozen=True, slots=True, repr=False)
class Value:
    """A value of a key. ``offset`` is that of its cell."""

    hive: Hive
    offset: int
    record: ValueRecord
    name: str

    @property
    def kind(self) -> int:
        """A ``ValueKind``, or another number."""
        return self.record.kind

    def data(self, limit: int = MAX_DATA) -> bytes:
        """Its bytes.

        Raises:
            Unsupported: they are more than ``limit`` (reason ``TOO_LARGE``).
            Corrupt: they are not where the value says.
        """
        record, hive = self.record, self.hive
        if record.is_inline:
            return record.data.to_bytes(4, "little")[: record.size]
        most = min(limit, hive.base.bins_size)
        if record.size > most:
            raise hive.too_large(f"value {self.name!a} is too long", expected=f"at most {most} bytes", found=record.size)
        if not record.size:
            return b""
        raw = hive.cell(record.data, record.size)
        if record.size > records.MAX_SEGMENT and hive.base.minor >= _FIRST_BIG_MINOR:
            big = records.parse_big_data(hive.cell(record.data, _USUAL_CELL))
            raw = raw if big is None else self._pieces(*big)
        if len(raw) < record.size:
            hive.fail("the data of a value are cut off", self.offset, expected=f"{record.size} bytes", found=len(raw))
        return raw

    def _pieces(self, count: int, offsets: int) -> bytes:
        """Big data put together, as much as the pieces have."""
        needed = -(-self.record.size // records.MAX_SEGMENT)
        if count < needed:
            self.hive.fail("the pieces of a value are too few", self.offset, expected=needed, found=count)
        raw = self.hive.cell(offsets, 4 * needed)
        places = self.hive.parsed(lambda cell: records.parse_offsets(cell, needed), raw, offsets)
        left, pieces = self.record.size, []
        for place in places:
            pieces.append(self.hive.cell(place, min(left, records.MAX_SEGMENT)))
            left -= records.MAX_SEGMENT
        return b"".join(pieces)

    def text(self) -> str:
        """Its text up to the first NUL. Raises Corrupt where it is of another type."""
        if self.kind not in _TEXTS:
            raise self._wrong_type("text")
        return records.utf16(self.data()).partition("\0")[0]

    def texts(self) -> list[str]:
        """Its texts (``REG_MULTI_SZ``), empty ones left out. Raises Corrupt where it is of another type."""
        if self.kind not in (*_TEXTS, ValueKind.MULTI_SZ):
            raise self._wrong_type("texts")
        return [text for text in records.utf16(self.data()).split("\0") if text]

    def number(self) -> int:
        """Its number. Raises Corrupt where it is of another type or length."""
        length = _NUMBERS.get(self.kind)
        if length is None or self.record.size != length:
            raise self._wrong_type("a number")
        return int.from_bytes(self.data(), "big" if self.kind == ValueKind.DWORD_BIG_ENDIAN else "little")

    def _wrong_type(self, expected: str) -> Corrupt:
        found = f"type {self.kind}, {self.record.size} bytes"
        return Corrupt(f"value {self.name!a} is not what it should be", expected=expected, found=found)
