"""A disk on a web server, read with range requests.

A read that is smaller than a block goes through a cache of blocks; a larger one goes into the caller's buffer directly. There
is no read-ahead: a block is one for small reads, and whoever reads much asks for much.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urldefrag, urljoin

from mntapi.blocks import check_range, whole
from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, ReadFailed
from mntapi.remote.dial import CONNECT_TIMEOUT_S, Connector, dial
from mntapi.remote.http_cache import BlockCache
from mntapi.remote.http_connection import HttpConnection
from mntapi.remote.http_protocol import (
    REDIRECTS,
    Version,
    changed,
    first_version,
    part_length,
    request_headers,
)
from mntapi.remote.patience import attempt_s, patience_s
from mntapi.remote.pool import Pool
from mntapi.remote.retry import Deadline, Retries, opened
from mntapi.remote.urls import Url, redacted
from mntapi.remote.wire import lost_again, placed
from mntapi.types import Extent, ExtentKind
from mntapi.units import MIB

BLOCK = MIB
CACHE_BLOCKS = 8
"""A mounted disk has these in memory all the time."""
MAX_REQUEST = 4 * MIB
"""Bytes of one range request."""
MAX_PARTS = 64
"""Answers that one range may be cut into by a server that gives less than asked (RFC 9110 section 15.3.7)."""
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
"""For one attempt."""
BACKOFF_S = 0.25
CONNECTIONS = 4


class HttpBlocks:
    """A file on a web server. Thread-safe; each request takes one of a few keep-alive connections.

    Always true: all bytes are of one state of the file, as far as the server tells states apart (ETag, date, size). Once it
    was seen to have changed, every read is ReadFailed with the reason ``changed``. A server that overwrites a file in place
    while it sends it can mix the two in one answer; only the next request shows that.
    """

    sector_size = 512

    def __init__(
        self, url: Url, place: Url, version: Version, pool: Pool[HttpConnection], retries: Retries, *, timeout_s: float
    ) -> None:
        self._url = url
        self._place = place
        self._version = version
        self._pool = pool
        self._timeout_s = timeout_s
        self._retries = retries
        self._is_changed = False
        self._cache = BlockCache(self._load, CACHE_BLOCKS)
        self.path = url.display
        self.size = version.size

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
    ) -> HttpBlocks:
        """Open the file at an ``http`` or ``https`` URL; ``USER:PASSWORD@`` in it is sent as Basic authentication.

        The first request asks for one byte (some servers answer HEAD wrongly, and signed URLs permit only GET) and learns size
        and validators. Up to five redirects are followed, never from https to http.

        Args:
            connect: gives connected sockets; encryption is done here, so it may be another process that connects.
            connections: at most so many.
            timeout_s: for one attempt of a request.
            backoff_s: before the third attempt; doubled before each one after.
            patience: seconds that opening may take, and for which a read is tried again; ``patience.patience_s()`` if None.

        Raises:
            NotFound: no such file. Denied: as the server or the system says, or a redirect to clear text.
            Unsupported: the server cannot give ranges (reason ``no-range``). Invalid: the URL.
            ReadFailed: nobody answers, or not in HTTP, or refuses. Corrupt: it contradicts itself.

        Source: RFC 9110, RFC 9112.
        """
        parsed = Url.parse(url)
        if parsed.is_nbd:
            raise Invalid("is no URL of a web server", path=parsed.display)
        patience = patience_s() if patience is None else patience
        timeout_s = attempt_s(timeout_s, patience)

        def attempt(deadline: Deadline) -> tuple[Url, Version, HttpConnection]:
            return _open_first(parsed, connect, timeout_s, deadline)

        try:
            place, version, first = opened(parsed.display, attempt, patience_s=patience, backoff_s=backoff_s)
        except MntapiError as error:
            raise placed(error, parsed.display) from error.__cause__
        pool = Pool(lambda: _reconnect(place, connect), connections)
        pool.add(first)
        retries = Retries(patience_s=patience, backoff_s=backoff_s, name=parsed.display)
        return cls(parsed, place, version, pool, retries, timeout_s=timeout_s)

    @property
    def version(self) -> str | None:
        """The validators of the file's state: ETag and date, as the server says them; None if it says neither."""
        return "\n".join(filter(None, (self._version.etag, self._version.last_modified))) or None

    def readinto(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        check_range(self.size, offset, length)
        self._check_unchanged()
        if length >= BLOCK:
            for done in range(0, length, MAX_REQUEST):
                self._fetch(offset + done, buffer[done : done + MAX_REQUEST])
            return
        done = 0
        while done < length:
            index, start = divmod(offset + done, BLOCK)
            content = self._cache.block(index)[start : start + length - done]
            buffer[done : done + len(content)] = content
            done += len(content)

    def _load(self, index: int) -> bytes:
        start = index * BLOCK
        content = bytearray(min(BLOCK, self.size - start))
        self._fetch(start, memoryview(content))
        return bytes(content)

    def _fetch(self, offset: int, view: memoryview) -> None:
        """Fill ``view``, in as many answers as the server makes of it."""
        done = 0
        for _ in range(MAX_PARTS):
            done += self._fetch_part(offset + done, view[done:])
            if done == len(view):
                return
        raise Corrupt("the web server gives too little at a time", path=self.path, offset=offset + done)

    def _fetch_part(self, offset: int, view: memoryview) -> int:
        try:
            return self._retries.run(lambda fresh: self._ask(offset, view, fresh=fresh))
        except MntapiError as error:
            error = placed(error, self.path, offset)
            if error.reason == "changed":
                self._is_changed = True
                self._cache.clear()
            raise error from error.__cause__

    def _ask(self, offset: int, view: memoryview, *, fresh: bool) -> int:
        """One attempt: bytes received, from the start of ``view`` on."""
        self._check_unchanged()
        headers = request_headers(self._place, self._url, self._version, offset, len(view))
        with self._pool.borrow(fresh=fresh) as connection:
            response = connection.get(self._place.target, headers, length=len(view), timeout_s=self._timeout_s)
            length = part_length(response.status, response.headers, self._version, offset, len(view))
            connection.receive_body(response, view[:length])
        return length

    def _check_unchanged(self) -> None:
        if self._is_changed:
            raise changed("seen at an earlier read").located(path=self.path)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """All DATA: HTTP knows no holes."""
        check_range(self.size, offset, length)
        return whole(offset, length, ExtentKind.DATA)

    def close(self) -> None:
        self._pool.close()
        self._cache.clear()


def _open_first(url: Url, connect: Connector, timeout_s: float, deadline: Deadline) -> tuple[Url, Version, HttpConnection]:
    """Ask for the first byte, where redirects lead: the place, the state of the file, and the connection."""
    place = url
    for _ in range(MAX_REDIRECTS + 1):
        connection = HttpConnection.open(place, connect, timeout_s=deadline.left(CONNECT_TIMEOUT_S))
        with closed_on_error(connection):
            headers = request_headers(place, url, None, 0, 1)
            response = connection.get(place.target, headers, length=1, timeout_s=deadline.left(timeout_s))
            if response.status not in REDIRECTS:
                version = first_version(response.status, response.headers)
                if version.size:
                    connection.receive_body(response, memoryview(bytearray(1)))
                return place, version, connection
        connection.close()
        place = _redirected(place, response.headers.get("Location"))
    raise _misdirected("the web server redirects on and on", expected=f"at most {MAX_REDIRECTS} redirects")


def _redirected(place: Url, location: str | None) -> Url:
    if location is None:
        raise _misdirected("the web server redirects without saying where to")
    try:
        target = Url.parse(urldefrag(urljoin(place.text, location)).url)
    except (Invalid, ValueError) as error:
        raise _misdirected("the web server redirects to what is no URL of a file", found=redacted(location[:100])) from error
    if target.is_nbd or (place.is_encrypted and not target.is_encrypted):
        raise Denied(
            f"the web server redirects from {place.scheme} to {target.scheme}",
            found=target.display,
            hint="if you trust that place, name it instead",
            reason="redirect",
        )
    return target


def _misdirected(what: str, *, expected: str | None = None, found: str | None = None) -> ReadFailed:
    hint = "the server's configuration is wrong; a browser, or curl -L, shows where it leads"
    return ReadFailed(what, expected=expected, found=found, hint=hint, reason="server-refused")


def _reconnect(place: Url, connect: Connector) -> HttpConnection:
    try:
        return HttpConnection.open(place, connect)
    except MntapiError as error:
        raise lost_again(error) from error
