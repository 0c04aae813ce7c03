"""A disk that an NBD server exports: qemu-nbd, nbdkit, a storage system. Read only: no request that writes exists here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

from mntapi.blocks import check_range, merged, whole
from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, Invalid, MntapiError, ReadFailed
from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.dial import CONNECT_TIMEOUT_S, Connector, dial
from mntapi.remote.nbd_connection import NbdConnection
from mntapi.remote.nbd_handshake import negotiate
from mntapi.remote.patience import attempt_s, patience_s, told, waiting
from mntapi.remote.pool import Pool
from mntapi.remote.retry import Deadline, Retries
from mntapi.remote.urls import Url
from mntapi.remote.wire import Wire, lost_again, placed, tls_context
from mntapi.types import Extent, ExtentKind
from mntapi.units import KIB, align_down, align_up

TIMEOUT_S = 30.0
"""For one request of at most ``nbd_protocol.MAX_READ`` bytes."""
CONNECTIONS = 4
BACKOFF_S = 0.25
_MAX_HANDSHAKE = 4096 * KIB
"""Bytes of a handshake; the limits of its parts are tighter."""

_R = TypeVar("_R")


class NbdBlocks:
    """An export. Thread-safe: each request takes one of a few connections, which is as many as run at the same time.

    A connection that breaks is replaced. While the server is away a read waits for it as ``retry.Retries`` says, and is
    ReadFailed then; the next read tries again.
    """

    sector_size = 512

    def __init__(self, url: Url, export: nbd.Export, pool: Pool[NbdConnection], retries: Retries) -> None:
        self._export = export
        self._pool = pool
        self._retries = retries
        self.path = url.display
        self.size = export.size

    @classmethod
    def open(
        cls,
        url: str,
        *,
        connect: Connector = dial,
        connections: int = CONNECTIONS,
        timeout_s: float = TIMEOUT_S,
        backoff_s: float = BACKOFF_S,
        patience: float | None = None,
    ) -> NbdBlocks:
        """Open the export that an ``nbd``, ``nbds``, ``nbd+unix`` or ``nbds+unix`` URL names.

        Args:
            connect: gives connected sockets. The handshake is done here, so it may be another process that connects.
            connections: at most so many, and one only where the server does not allow for several.
            timeout_s: for a request; what takes longer is asked again.
            backoff_s: before the third attempt; doubled before each one after.
            patience: seconds that opening may take, and for which a read is tried again; ``patience.patience_s()`` if None.

        Raises:
            NotFound: no such export.
            Denied: the system, the server, or its certificate.
            ReadFailed: nobody answers, or it is no NBD server that does. Corrupt: it breaks the protocol.
            Invalid, Unsupported: the URL, or the server is too old.

        Source: proto.md and uri.md of the nbd project.
        """
        parsed = Url.parse(url)
        if not parsed.is_nbd:
            raise Invalid("is no NBD URL", path=parsed.display)
        if parsed.is_encrypted:
            tls_context()
        patience = patience_s() if patience is None else patience
        retries = Retries(patience_s=patience, backoff_s=backoff_s, name=parsed.display)
        timeout_s = attempt_s(timeout_s, patience)
        open_one = functools.partial(_connect, parsed, connect, timeout_s)
        try:
            with told(waiting(parsed.display, min(timeout_s, CONNECT_TIMEOUT_S))):
                first = open_one()
        except MntapiError as error:
            raise placed(error, parsed.display) from error.__cause__
        export = first.export
        pool = Pool(lambda: _reconnect(open_one, export), connections if export.can_multi_conn else 1)
        pool.add(first)
        return cls(parsed, export, pool, retries)

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
        """Put the question to a free connection, and to new ones if that is lost."""

        def ask(fresh: bool) -> _R:
            with self._pool.borrow(fresh=fresh) as connection:
                return question(connection)

        try:
            return self._retries.run(ask)
        except MntapiError as error:
            raise placed(error, self.path, offset) from error.__cause__

    def close(self) -> None:
        self._pool.close()


def _connect(url: Url, connect: Connector, timeout_s: float) -> NbdConnection:
    """A negotiated connection; the time is for both, connecting and negotiating. Raises what these raise."""
    deadline = Deadline(min(timeout_s, CONNECT_TIMEOUT_S))
    wire = Wire(connect(url.endpoint))
    with closed_on_error(wire):
        wire.begin(deadline.left(CONNECT_TIMEOUT_S), limit=_MAX_HANDSHAKE)
        start_tls = functools.partial(wire.start_tls, tls_context(), url.tls_hostname) if url.is_encrypted else None
        export = negotiate(wire, url.export, start_tls)
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
