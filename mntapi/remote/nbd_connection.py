"""One connection in the transmission phase of NBD: a request, and the reply to it, simple or in chunks.

Source: proto.md, "Transmission", "Structured reply types", "Request types".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mntapi.blocks.zero import fill
from mntapi.errors import Corrupt, ReadFailed
from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.wire import Wire
from mntapi.units import KIB

_OVERHEAD = 64 * KIB
"""Bytes a reply may have beside its content: error messages."""


class NbdConnection:
    """A negotiated connection. One request at a time; owns the wire."""

    def __init__(self, wire: Wire, export: nbd.Export, *, timeout_s: float) -> None:
        self._wire = wire
        self._timeout_s = timeout_s
        self._cookie = 0
        self._failure: ReadFailed | None = None
        self.export = export
        self.usable = True

    def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view``; the range keeps to the export's block sizes.

        Raises:
            ServerError: the server says so; the connection is still good.
            Corrupt: the reply makes no sense. ConnectionLost: there was none, or the server is shutting down.
        """
        chunks = _max_chunks(len(view))
        self._begin(nbd.CMD_READ, offset, len(view), limit=len(view) + chunks * (nbd.CHUNK.size + nbd.HOLE.size))
        if self.export.structured:
            self._read_structured(offset, view, chunks)
        else:
            self._read_simple(view)
        self._end(offset, len(view))

    def block_status(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """Length in bytes and whether it reads as zeros, of what comes from ``offset`` on; at least one. Raises as ``read``.

        The sum of the lengths may be more or less than ``length`` ("NBD_CMD_BLOCK_STATUS").
        """
        self._begin(nbd.CMD_BLOCK_STATUS, offset, length, limit=nbd.MAX_BLOCK_STATUS)
        payload: bytes | None = None
        for chunk in self._chunks(limit=16):
            if chunk.kind != nbd.TYPE_BLOCK_STATUS or payload is not None:
                raise Corrupt("a reply to a block status request has a part that does not belong", found=f"type {chunk.kind}")
            if chunk.length > nbd.MAX_BLOCK_STATUS:
                raise Corrupt("a block status is too long", expected=f"at most {nbd.MAX_BLOCK_STATUS}", found=chunk.length)
            payload = self._wire.receive(chunk.length)
        if payload is None and self._failure is None:
            raise Corrupt("a block status request was answered without a block status")
        self._end(offset, length)
        return nbd.parse_block_status(payload or b"", self.export.context_id or 0)

    def close(self) -> None:
        """Say good-bye if the server listens, and hang up."""
        if self.usable:
            with contextlib.suppress(ConnectionLost):  # it went first
                self._begin(nbd.CMD_DISC, 0, 0, limit=0)
        self._wire.close()

    def _begin(self, command: int, offset: int, length: int, *, limit: int) -> None:
        self.usable = False
        self._failure = None
        self._cookie = (self._cookie + 1) & 0xFFFF_FFFF
        self._wire.begin(self._timeout_s, limit=limit + _OVERHEAD)
        self._wire.send(nbd.request(command, self._cookie, offset, length))

    def _end(self, offset: int, length: int) -> None:
        """The whole reply has been received; raise the error that it was."""
        failure = self._failure
        if failure is not None and failure.offset is not None and not offset <= failure.offset < offset + length:
            raise Corrupt("an error is told of bytes that were not asked for", offset=offset, found=failure.offset)
        self.usable = not isinstance(failure, ConnectionLost)
        if failure is not None:
            raise failure

    def _read_simple(self, view: memoryview) -> None:
        raw = self._wire.receive(nbd.REPLY.size)
        if nbd.is_structured(raw):
            raise Corrupt("a structured reply came, which was not agreed on")
        number = nbd.parse_simple(raw, self._cookie)
        if number:
            self._failure = nbd.failure(number)
        else:
            self._wire.receive_into(view)

    def _read_structured(self, offset: int, view: memoryview, limit: int) -> None:
        pieces: list[tuple[int, int]] = []
        for chunk in self._chunks(limit):
            if chunk.kind == nbd.TYPE_OFFSET_DATA:
                at, length = self._data(chunk, offset, view)
            elif chunk.kind == nbd.TYPE_OFFSET_HOLE:
                at, length = self._hole(chunk, offset, view)
            else:
                raise Corrupt("a reply to a read has a part of an unknown kind", found=f"type {chunk.kind}")
            pieces.append((at, length))
        if self._failure is None:
            _check_cover(pieces, len(view), offset)

    def _data(self, chunk: nbd.Chunk, offset: int, view: memoryview) -> tuple[int, int]:
        length = chunk.length - nbd.CHUNK_OFFSET.size
        if length < 1:
            raise Corrupt("a piece of data is empty", expected="at least 9 bytes", found=chunk.length)
        at = nbd.CHUNK_OFFSET.unpack(self._wire.receive(nbd.CHUNK_OFFSET.size))[0] - offset
        _check_inside(at, length, len(view), offset)
        self._wire.receive_into(view[at : at + length])
        return at, length

    def _hole(self, chunk: nbd.Chunk, offset: int, view: memoryview) -> tuple[int, int]:
        start, length = nbd.parse_hole(self._wire.receive(min(chunk.length, nbd.HOLE.size + 1)))
        at = start - offset
        _check_inside(at, length, len(view), offset)
        fill(view[at : at + length])
        return at, length

    def _chunks(self, limit: int) -> Iterator[nbd.Chunk]:
        """The chunks with content; whoever takes one receives its payload. An error goes to ``_failure``."""
        for _ in range(limit):
            raw = self._wire.receive(nbd.REPLY.size)
            if not nbd.is_structured(raw):
                self._simple_error(raw)
                return
            chunk = nbd.parse_chunk(raw + self._wire.receive(nbd.CHUNK.size - nbd.REPLY.size), self._cookie)
            if chunk.is_error:
                self._error(chunk)
            elif chunk.kind != nbd.TYPE_NONE:
                yield chunk
            elif chunk.length or not chunk.is_done:
                raise Corrupt("an empty part of a reply is not empty, or not the last")
            if chunk.is_done:
                return
        raise Corrupt("a reply comes in too many pieces", expected=f"at most {limit}")

    def _simple_error(self, raw: bytes) -> None:
        """Structured replies are agreed on, yet a request that fails early may be answered simply."""
        number = nbd.parse_simple(raw, self._cookie)
        if not number:
            raise Corrupt("a simple reply came where a structured one was agreed on")
        self._failure = nbd.failure(number)

    def _error(self, chunk: nbd.Chunk) -> None:
        if chunk.length > nbd.MAX_FAILURE:
            raise Corrupt("an error reply is too long", expected=f"at most {nbd.MAX_FAILURE} bytes", found=chunk.length)
        failure = nbd.parse_failure(chunk.kind, self._wire.receive(chunk.length))
        self._failure = self._failure or failure


def _max_chunks(length: int) -> int:
    """Pieces that a reply of ``length`` bytes may come in: one a sector, as the protocol advises, and a few more."""
    return length // 512 + 64


def _check_inside(at: int, length: int, asked: int, offset: int) -> None:
    """``at`` is relative to the ``offset`` of the request."""
    if at < 0 or length < 1 or at + length > asked:
        raise Corrupt(
            "a piece of a reply is not of what was asked for",
            offset=offset,
            expected=f"inside {asked} bytes",
            found=f"{length} bytes at {at}",
        )


def _check_cover(pieces: list[tuple[int, int]], asked: int, offset: int) -> None:
    """Every byte asked for came, and came once."""
    end = 0
    for at, length in sorted(pieces):
        if at != end:
            raise Corrupt("the pieces of a reply overlap or leave a gap", offset=offset + min(at, end))
        end = at + length
    if end != asked:
        raise Corrupt("a reply has less than was asked for", offset=offset + end, expected=asked, found=end)
