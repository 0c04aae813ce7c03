"""The messages of the NBD protocol as values: bytes in, numbers checked, dataclasses out. No I/O.

Everything is big-endian. Only what a reader needs is here: nothing that writes can be built with this module.

Source: "The NBD protocol" (doc/proto.md of the nbd project): "Fixed newstyle negotiation", "Transmission", "Block size
constraints", "Values"; the section is named at each structure.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.remote.dial import ConnectionLost
from mntapi.units import KIB, MIB, align_down

GREETING = struct.Struct(">8s8sH")
"""Init password, option magic, handshake flags ("Newstyle negotiation")."""
_PASSWORD, _OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
_OLDSTYLE_MAGIC = bytes.fromhex("0000420281861253")
FIXED_NEWSTYLE, NO_ZEROES = 1 << 0, 1 << 1

OPT_EXPORT_NAME, OPT_ABORT, OPT_STARTTLS, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 1, 2, 5, 7, 8, 10
_OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
"""Magic, the option it answers, reply type, bytes of data ("Fixed newstyle negotiation")."""
_OPTION_REPLY_MAGIC = 0x3E889045565A9
REP_ACK, REP_INFO, REP_META_CONTEXT = 1, 3, 4
REP_ERROR = 1 << 31
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN = REP_ERROR + 1, REP_ERROR + 2, REP_ERROR + 5, REP_ERROR + 6
MAX_OPTION_REPLY = 16 * KIB
"""Bytes of data in a reply to an option; strings are at most 4096 ("Conventions")."""

INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
_INFO_EXPORT = struct.Struct(">HQH")
_INFO_BLOCK_SIZE = struct.Struct(">HIII")
EXPORT_NAME_REPLY = struct.Struct(">QH")
EXPORT_NAME_ZEROES = 124
_HAS_FLAGS, _CAN_MULTI_CONN = 1 << 0, 1 << 8
_MAX_SIZE = (1 << 63) - 1
"""Bytes of an export: file offsets are signed."""

BASE_ALLOCATION = "base:allocation"
_STATE_ZERO = 1 << 1

_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
CMD_READ, CMD_DISC, CMD_BLOCK_STATUS = 0, 2, 7

REPLY = struct.Struct(">IIQ")
"""Magic, error, cookie: a simple reply; and the part of a structured chunk that is as long."""
CHUNK = struct.Struct(">IHHQI")
"""Magic, flags, type, cookie, bytes of payload."""
_SIMPLE_MAGIC, _STRUCTURED_MAGIC = 0x67446698, 0x668E33EF
_FLAG_DONE = 1 << 0
TYPE_NONE, TYPE_OFFSET_DATA, TYPE_OFFSET_HOLE, TYPE_BLOCK_STATUS = 0, 1, 2, 5
_TYPE_ERROR = 1 << 15
_TYPE_ERROR_OFFSET = _TYPE_ERROR + 2
CHUNK_OFFSET = struct.Struct(">Q")
HOLE = struct.Struct(">QI")
_FAILURE = struct.Struct(">IH")
MAX_FAILURE = 8 * KIB
"""Bytes of an error chunk: a message is at most 4096."""
_CONTEXT = struct.Struct(">I")
_DESCRIPTOR = struct.Struct(">II")
MAX_DESCRIPTORS = 1 << 20
"""Descriptors in one reply to a block status request; nbdkit stops at as many."""
MAX_BLOCK_STATUS = _CONTEXT.size + MAX_DESCRIPTORS * _DESCRIPTOR.size
MAX_STATUS_REQUEST = (1 << 32) - 128 * KIB
"""Bytes one block status request asks about: 32 bits, also when both ends are widened to whole blocks."""

_MAX_MINIMUM = 64 * KIB
MAX_READ = 4 * MIB
"""Bytes one read request asks for at most, below the 32 MiB every server takes: it bounds our memory and the server's time."""


class ServerError(ReadFailed):
    """The server answered, and the answer was an error; the connection is still good."""


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """What requests are multiples of, and how long a read may be, in bytes ("Block size constraints")."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Export:
    """What the handshake agreed on. ``context_id`` is that of ``base:allocation``, None where there is no block status."""

    size: int
    can_multi_conn: bool
    sizes: BlockSizes
    structured: bool = False
    context_id: int | None = None


@dataclass(frozen=True, slots=True)
class OptionReply:
    """The head of a reply to an option; ``length`` bytes of data follow."""

    kind: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The head of a piece of a structured reply; ``length`` bytes of payload follow."""

    kind: int
    is_done: bool
    length: int

    @property
    def is_error(self) -> bool:
        """Whether it tells of an error, of whatever type."""
        return bool(self.kind & _TYPE_ERROR)


def parse_greeting(raw: bytes) -> int:
    """The handshake flags.

    Raises:
        ReadFailed: this is no NBD server (reason ``unreachable``: the one that is wanted is not there).
        Unsupported: it negotiates the way that ended with nbd 2.9.17 ("Oldstyle negotiation").
    """
    password, magic, flags = GREETING.unpack(raw)
    if password != _PASSWORD:
        raise _no_nbd(_PASSWORD, password)
    if magic == _OLDSTYLE_MAGIC:
        what = "the server negotiates in the old style, which newer ones have given up"
        raise Unsupported(what, hint="serve the disk with qemu-nbd or nbdkit", reason="nbd-oldstyle")
    if magic != _OPTION_MAGIC:
        raise _no_nbd(_OPTION_MAGIC, magic)
    return int(flags)


def _no_nbd(expected: object, found: object) -> ReadFailed:
    hint = "is the URL right? Something else answers there"
    return ReadFailed("is no NBD server", expected=repr(expected), found=repr(found), hint=hint, reason="unreachable")


def client_flags(server_flags: int) -> bytes:
    """The answer to the greeting: those of the server's flags that are known here."""
    return struct.pack(">I", server_flags & (FIXED_NEWSTYLE | NO_ZEROES))


def option(number: int, data: bytes = b"") -> bytes:
    """An option with its data."""
    return _OPTION.pack(_OPTION_MAGIC, number, len(data)) + data


def go_data(name: bytes) -> bytes:
    """Data of ``NBD_OPT_GO``: the export, and a request for the block sizes, which then must be kept."""
    return struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, INFO_BLOCK_SIZE)


def meta_context_data(name: bytes) -> bytes:
    """Data of ``NBD_OPT_SET_META_CONTEXT`` asking for ``base:allocation``."""
    query = BASE_ALLOCATION.encode()
    return struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(query)) + query


def parse_option_reply(raw: bytes, number: int) -> OptionReply:
    """The head of a reply to option ``number``. Raises Corrupt."""
    magic, answered, kind, length = OPTION_REPLY.unpack(raw)
    if magic != _OPTION_REPLY_MAGIC:
        raise Corrupt("a reply to an option has the wrong magic", expected=hex(_OPTION_REPLY_MAGIC), found=hex(magic))
    if answered != number:
        raise Corrupt("a reply is to an option that was not asked", expected=number, found=answered)
    if length > MAX_OPTION_REPLY:
        raise Corrupt("a reply to an option is too long", expected=f"at most {MAX_OPTION_REPLY} bytes", found=length)
    return OptionReply(kind, length)


def parse_export_info(data: bytes) -> tuple[int, int]:
    """Size in bytes and transmission flags, of ``NBD_INFO_EXPORT``. Raises Corrupt."""
    if len(data) != _INFO_EXPORT.size:
        raise Corrupt("the description of the export has a wrong length", expected=_INFO_EXPORT.size, found=len(data))
    _, size, flags = _INFO_EXPORT.unpack(data)
    return size, flags


def parse_block_sizes(data: bytes) -> BlockSizes:
    """The sizes in ``NBD_INFO_BLOCK_SIZE``, the maximum not above ``MAX_READ``. Raises Corrupt."""
    if len(data) != _INFO_BLOCK_SIZE.size:
        raise Corrupt("the block sizes have a wrong length", expected=_INFO_BLOCK_SIZE.size, found=len(data))
    _, minimum, _, maximum = _INFO_BLOCK_SIZE.unpack(data)
    if not 1 <= minimum <= _MAX_MINIMUM or minimum & (minimum - 1):
        raise Corrupt("the minimum block size is impossible", expected=f"a power of 2 up to {_MAX_MINIMUM}", found=minimum)
    if maximum < minimum:
        raise Corrupt("the maximum block size is below the minimum", expected=f"at least {minimum}", found=maximum)
    return BlockSizes(minimum, align_down(min(maximum, MAX_READ), minimum))


def default_block_sizes(size: int) -> BlockSizes:
    """For a server that does not tell: sectors, as the protocol advises, unless the size is no whole number of them."""
    return BlockSizes(1 if size % 512 else 512, MAX_READ)


def describe_export(
    size: int, flags: int, sizes: BlockSizes | None, *, structured: bool = False, context_id: int | None = None
) -> Export:
    """The export with this size and transmission flags. Raises Corrupt where the size is none a file can have."""
    if size > _MAX_SIZE:
        raise Corrupt("the size of the export is impossible", expected=f"at most {_MAX_SIZE} bytes", found=size)
    can_multi_conn = bool(flags & _HAS_FLAGS and flags & _CAN_MULTI_CONN)
    return Export(size, can_multi_conn, sizes or default_block_sizes(size), structured, context_id)


def parse_meta_context(data: bytes) -> tuple[int, str]:
    """Number and name of a metadata context. Raises Corrupt."""
    if len(data) < _CONTEXT.size:
        raise Corrupt("a metadata context is too short", expected=f"at least {_CONTEXT.size} bytes", found=len(data))
    return _CONTEXT.unpack_from(data)[0], data[_CONTEXT.size :].decode(errors="replace")


def request(command: int, cookie: int, offset: int, length: int) -> bytes:
    """A request without payload ("Request message"); ``offset`` and ``length`` in bytes."""
    return _REQUEST.pack(_REQUEST_MAGIC, 0, command, cookie, offset, length)


def is_structured(raw: bytes) -> bool:
    """Whether a reply that begins with these 16 bytes is a chunk (4 bytes more) rather than simple. Raises Corrupt."""
    magic = REPLY.unpack(raw)[0]
    if magic not in (_SIMPLE_MAGIC, _STRUCTURED_MAGIC):
        raise Corrupt("a reply has the wrong magic", expected=f"{_SIMPLE_MAGIC:#x} or {_STRUCTURED_MAGIC:#x}", found=hex(magic))
    return bool(magic == _STRUCTURED_MAGIC)


def parse_simple(raw: bytes, cookie: int) -> int:
    """The error number of a simple reply ("Simple reply message"), 0 for success. Raises Corrupt if it is not to ``cookie``."""
    _, error, answered = REPLY.unpack(raw)
    _check_cookie(answered, cookie)
    return int(error)


def parse_chunk(raw: bytes, cookie: int) -> Chunk:
    """The head of a chunk ("Structured reply chunk message"). Raises Corrupt if it is not part of the reply to ``cookie``."""
    _, flags, kind, answered, length = CHUNK.unpack(raw)
    _check_cookie(answered, cookie)
    return Chunk(kind, bool(flags & _FLAG_DONE), length)


def _check_cookie(answered: int, cookie: int) -> None:
    if answered != cookie:
        raise Corrupt("a reply is to no request of ours", expected=f"cookie {cookie:#x}", found=f"{answered:#x}")


def parse_failure(kind: int, payload: bytes) -> ReadFailed:
    """What an error chunk says, as an error to raise. Raises Corrupt if it contradicts itself."""
    if len(payload) < _FAILURE.size:
        raise Corrupt("an error reply is too short", expected=f"at least {_FAILURE.size} bytes", found=len(payload))
    number, length = _FAILURE.unpack_from(payload)
    rest = payload[_FAILURE.size :]
    tail = CHUNK_OFFSET.size if kind == _TYPE_ERROR_OFFSET else 0
    if length + tail > len(rest):
        raise Corrupt("the message of an error reply goes past its end", expected=f"at most {len(rest) - tail}", found=length)
    offset = CHUNK_OFFSET.unpack_from(rest, length)[0] if tail else None
    return failure(number, rest[:length], offset)


def failure(number: int, message: bytes = b"", offset: int | None = None) -> ReadFailed:
    """ServerError ``number`` ("Error values": those of Linux) with what the server says about it; ConnectionLost if it ends."""
    if number == errno.ESHUTDOWN:
        return ConnectionLost("the server is shutting down", offset=offset, reason="dropped")
    said = printable(message)
    text = os.strerror(number) if 0 < number < 134 else f"error {number}"
    return ServerError(f"the server answered: {text}" + (f": {said}" if said else ""), offset=offset)


def printable(message: bytes) -> str:
    """A text of the server for our messages: one line, nothing a terminal would obey, not long."""
    text = message[:400].decode(errors="replace").strip()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def parse_hole(payload: bytes) -> tuple[int, int]:
    """Offset and length of a hole in a read reply, bytes. Raises Corrupt."""
    if len(payload) != HOLE.size:
        raise Corrupt("a hole in a reply has a wrong length", expected=HOLE.size, found=len(payload))
    offset, length = HOLE.unpack(payload)
    return offset, length


def parse_block_status(payload: bytes, context_id: int) -> Iterator[tuple[int, bool]]:
    """Length in bytes and whether it reads as zeros, of each descriptor. Raises Corrupt.

    A hole that is not said to read as zeros may hold anything, and counts as data ("The base:allocation metadata context").
    """
    if len(payload) < _CONTEXT.size + _DESCRIPTOR.size or (len(payload) - _CONTEXT.size) % _DESCRIPTOR.size:
        raise Corrupt("a block status has a wrong length", expected="4 bytes and some times 8", found=len(payload))
    found = _CONTEXT.unpack_from(payload)[0]
    if found != context_id:
        raise Corrupt("a block status is of a context that was not asked for", expected=context_id, found=found)
    return _descriptors(payload)


def _descriptors(payload: bytes) -> Iterator[tuple[int, bool]]:
    for length, flags in _DESCRIPTOR.iter_unpack(memoryview(payload)[_CONTEXT.size :]):
        if length == 0:
            raise Corrupt("a block status describes no bytes", expected="a length above 0")
        yield length, bool(flags & _STATE_ZERO)
