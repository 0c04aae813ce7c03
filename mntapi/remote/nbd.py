"""A disk that an NBD server exports: qemu-nbd, nbdkit, a storage system. Read only: no request that writes exists here."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mntapi.blocks import check_range, merged, whole
from mntapi.errors import Corrupt, Invalid, MntapiError, ReadFailed
from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.nbd_connection import NbdConnection
from mntapi.remote.nbd_handshake import negotiate
from mntapi.remote.pool import Pool
from mntapi.remote.urls import Endpoint, Url
from mntapi.remote.wire import CONNECT_TIMEOUT_S, ConnectionLost, Connector, Wire, dial, lost_again, placed, tls_context
from mntapi.types import Extent, ExtentKind
from mntapi.units import KIB, align_down, align_up

TIMEOUT_S = 60.0
"""For one request of at most ``nbd_protocol.MAX_READ`` bytes."""
CONNECTIONS = 4
_MAX_HANDSHAKE = 4096 * KIB
"""Bytes of a handshake; the limits of its parts are tighter."""

_R = TypeVar("_R")


class NbdBlocks:
    """An export. Thread-safe: each request takes one of a few connections, which is as many as run at the same time.

    A connection that breaks is replaced once per request, after ``backoff_s``; a request that fails then is ReadFailed, and the
    next read tries again. In a process that may not connect, ``connect`` raises, and what remains of the connections is used.
    """

    sector_size = 512

    def __init__(self, url: Url, export: nbd.Export, pool: Pool[NbdConnection], *, backoff_s: float) -> None:
        self._export = export
        self._pool = pool
        self._backoff_s = backoff_s
        self.path = url.display
        self.size = export.size

    @classmethod
    def open(
        cls,
        url: str,
        *,
        connect: Connector = dial,
        connections: int = CONNECTIONS,
        eager: bool = False,
        timeout_s: float = TIMEOUT_S,
        backoff_s: float = 0.5,
    ) -> NbdBlocks:
        """Open the export that an ``nbd``, ``nbds``, ``nbd+unix`` or ``nbds+unix`` URL names.

        Args:
            connect: gives connected sockets. The handshake is done here, so it may be another process that connects.
            connections: at most so many, and one only where the server does not allow for several.
            eager: make them all now, for a process that soon cannot.
            timeout_s: for a request; what takes longer is ReadFailed.

        Raises:
            NotFound: no such host, socket file or export.
            Denied: the system, the server, or its certificate.
            ReadFailed: nobody answers. Corrupt: somebody does, but it is not NBD.
            Invalid, Unsupported: the URL, or the server is too old.

        Source: proto.md and uri.md of the nbd project.
        """
        parsed = Url.parse(url)
        if not parsed.is_nbd:
            raise Invalid("is no NBD URL", path=parsed.display)
        if parsed.is_encrypted:
            tls_context()
        open_one = functools.partial(_connect, parsed, connect, timeout_s)
        try:
            first = open_one()
        except MntapiError as error:
            raise placed(error, parsed.display) from error.__cause__
        export = first.export
        pool = Pool(lambda: _reconnect(open_one, export), connections if export.can_multi_conn else 1)
        pool.add(first)
        if eager:
            pool.fill()
        return cls(parsed, export, pool, backoff_s=backoff_s)

    @classmethod
    def from_sockets(cls, url: str, sockets: Sequence[socket.socket], *, timeout_s: float = TIMEOUT_S) -> NbdBlocks:
        """Open over connected sockets that somebody else made (to ``Url.parse(url).endpoint``), and make no other.

        All of them belong to the result, also if this raises. None has said anything yet: the handshake is done here, with
        encryption if the URL wants it. What a process may not do that receives sockets like this is to replace them: each that
        the server drops is gone, the reads go on over the others, and with the last one every read is ReadFailed.

        Raises: as ``open``.
        """
        supply = list(sockets)
        try:
            return cls.open(
                url,
                connect=functools.partial(_next_of, supply),
                connections=len(sockets),
                eager=True,
                timeout_s=timeout_s,
                backoff_s=0.0,
            )
        finally:
            for sock in supply:  # not wanted: the server allows for one connection only, or opening failed
                sock.close()
            supply.clear()

    def readinto(self, offset: int, buffer: memoryview) -> None:
        check_range(self.size, offset, len(buffer))
        step = self._export.sizes.maximum
        at, end = offset, offset + len(buffer)
        while at < end:
            stop = min(end, align_down(at, self._export.sizes.minimum) + step)
            self._read(at, buffer[at - offset : stop - offset])
            at = stop

    def _read(self, offset: int, view: memoryview) -> None:
        """One request: ``view`` itself where it is aligned, and else the blocks it lies in."""
        start, end = self._aligned(offset, offset + len(view))
        if end > self.size:
            raise ReadFailed(
                f"the server gives whole blocks of {self._export.sizes.minimum} bytes only, and the last one is cut off",
                path=self.path,
                offset=align_down(self.size, self._export.sizes.minimum),
                reason="nbd-block-size",
            )
        if end - start == len(view):
            self._ask(offset, lambda connection: connection.read(offset, view))
            return
        blocks = memoryview(bytearray(end - start))
        self._ask(offset, lambda connection: connection.read(start, blocks))
        view[:] = blocks[offset - start : offset - start + len(view)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """DATA and ZERO as the server tells: ZERO is what it says reads as zeros. One that does not tell has DATA only."""
        check_range(self.size, offset, length)
        if self._export.context_id is None:
            return whole(offset, length, ExtentKind.DATA)
        return merged(self._extents(offset, offset + length))

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        limit = 1024 + (end - offset) // 4096
        for _ in range(limit):
            if offset >= end:
                return
            start, stop = self._aligned(offset, min(end, offset + nbd.MAX_STATUS_REQUEST))
            stop = min(stop, align_down(self.size, self._export.sizes.minimum))
            if start >= stop:  # the last, cut off block, which cannot be asked about, nor read
                yield Extent(offset, end - offset, ExtentKind.DATA)
                return
            for extent in self._status(start, stop):
                if offset < min(extent.end, end):
                    yield Extent(offset, min(extent.end, end) - offset, extent.kind)
                    offset = min(extent.end, end)
        if offset < end:
            raise Corrupt(
                "the block status comes in too small pieces", path=self.path, offset=offset, expected="4096 bytes each"
            )

    def _status(self, start: int, stop: int) -> Iterator[Extent]:
        """What one answer tells, from ``start`` on. A server that fails to tell makes it DATA, and a read shows the truth."""
        try:
            descriptors = self._ask(start, lambda connection: connection.block_status(start, stop - start))
        except nbd.ServerError:
            yield Extent(start, stop - start, ExtentKind.DATA)
            return
        try:
            for length, is_zero in descriptors:
                yield Extent(start, length, ExtentKind.ZERO if is_zero else ExtentKind.DATA)
                start += length
        except MntapiError as error:
            raise placed(error, self.path, start) from error.__cause__

    def _aligned(self, start: int, end: int) -> tuple[int, int]:
        minimum = self._export.sizes.minimum
        return align_down(start, minimum), align_up(end, minimum)

    def _ask(self, offset: int, question: Callable[[NbdConnection], _R]) -> _R:
        """Put the question to a free connection, and a second time to a new one if the first is lost."""
        try:
            try:
                with self._pool.borrow() as connection:
                    return question(connection)
            except ConnectionLost:
                time.sleep(self._backoff_s)
            with self._pool.borrow(fresh=True) as connection:
                return question(connection)
        except MntapiError as error:
            raise placed(error, self.path, offset) from error.__cause__

    def close(self) -> None:
        self._pool.close()


def _connect(url: Url, connect: Connector, timeout_s: float) -> NbdConnection:
    """A negotiated connection. Raises what ``connect`` and ``negotiate`` raise."""
    wire = Wire(connect(url.endpoint))
    try:
        wire.begin(min(timeout_s, CONNECT_TIMEOUT_S), limit=_MAX_HANDSHAKE)
        start_tls = functools.partial(wire.start_tls, tls_context(), url.tls_hostname) if url.is_encrypted else None
        export = negotiate(wire, url.export, start_tls)
    except BaseException:
        wire.close()
        raise
    return NbdConnection(wire, export, timeout_s=timeout_s)


def _reconnect(open_one: Callable[[], NbdConnection], export: nbd.Export) -> NbdConnection:
    """One more connection to what must still be the same export."""
    try:
        connection = open_one()
    except MntapiError as error:
        raise lost_again(error) from error
    if not _is_same(connection.export, export):
        connection.close()
        raise ReadFailed("the export changed while it was open", expected=export, found=connection.export, reason="changed")
    return connection


def _is_same(one: nbd.Export, other: nbd.Export) -> bool:
    """Whether requests made for one export can be put to the other; the number of a context is each connection's own."""
    return (one.size, one.sizes, one.context_id is None) == (other.size, other.sizes, other.context_id is None)


def _next_of(supply: list[socket.socket], endpoint: Endpoint) -> socket.socket:
    if not supply:
        raise ConnectionLost(
            "all connections are lost, and this process may not make new ones",
            hint="mount it again; a server that hangs up on idle clients may have a setting for that",
            reason="unreachable",
        )
    return supply.pop(0)
