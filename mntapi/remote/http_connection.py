"""One keep-alive connection to a web server: a GET, and the head of its answer. ``http.client`` speaks, our wire carries.

Source: RFC 9112 (HTTP/1.1); the limits of ``http.client`` (100 headers, 64 KiB a line) and, tighter, those of the wire.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Mapping

from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, ReadFailed
from mntapi.remote.dial import CONNECT_TIMEOUT_S, ConnectionLost, Connector
from mntapi.remote.urls import DEFAULT_PORTS, Url
from mntapi.remote.wire import Wire, tls_context
from mntapi.units import KIB

MAX_HEAD = 64 * KIB
"""Bytes of an answer beside the content that was asked for: status, headers, chunk sizes."""


class HttpConnection:
    """A connection to the server of ``url``. One request at a time; owns the wire."""

    def __init__(self, wire: Wire, url: Url) -> None:
        self._wire = wire
        self._client = http.client.HTTPConnection(url.host, url.port)
        self._client.default_port = DEFAULT_PORTS[url.scheme]  # or Host would name the port of https
        self._client.auto_open = 0
        self._client.sock = _Carrier(wire)
        self.usable = True

    @classmethod
    def open(cls, url: Url, connect: Connector, *, timeout_s: float = CONNECT_TIMEOUT_S) -> HttpConnection:
        """Connect, with encryption if the URL wants it, which may take ``timeout_s``.

        Raises what ``connect`` and ``Wire.start_tls`` raise.
        """
        wire = Wire(connect(url.endpoint))
        with closed_on_error(wire):
            if url.is_encrypted:
                wire.begin(timeout_s, limit=MAX_HEAD)
                wire.start_tls(tls_context(), url.tls_hostname)
            return cls(wire, url)

    def get(self, target: str, headers: Mapping[str, str], *, length: int, timeout_s: float) -> http.client.HTTPResponse:
        """Ask, and receive the head of the answer. The connection is not usable until ``receive_body`` has had the rest.

        Args:
            length: bytes of content that the answer may have.

        Raises:
            ConnectionLost: no answer.
            ReadFailed: it is not HTTP, or its head is too long (reason ``unreachable``).
        """
        self.usable = False
        self._wire.begin(timeout_s, limit=length + MAX_HEAD)
        try:
            self._client.request("GET", target, headers=dict(headers))
            response = self._client.getresponse()
        except http.client.RemoteDisconnected as error:
            raise ConnectionLost("the web server closed the connection", reason="dropped") from error
        except (http.client.HTTPException, ValueError) as error:
            hint = "is the URL right? Something else answers there, which may be HTTP with encryption (https) or without"
            raise ReadFailed("the answer is not HTTP", found=_said(error), hint=hint, reason="unreachable") from error
        if self._wire.is_ended:  # http.client takes what it has for all there is, and half a number for a number
            raise ConnectionLost("the head of the answer was cut off", reason="dropped")
        return response

    def receive_body(self, response: http.client.HTTPResponse, view: memoryview) -> None:
        """Fill ``view`` with the whole body.

        Raises:
            ConnectionLost: it was cut off.
            Corrupt: it is longer, or framed wrongly.
        """
        if response.length is not None and response.length != len(view):
            raise Corrupt("the answer has a wrong length", expected=f"Content-Length: {len(view)}", found=response.length)
        done = 0
        try:
            while done < len(view):
                count = response.readinto(view[done:])
                if not count:
                    raise ConnectionLost("the answer was cut off", reason="dropped", expected=len(view), found=done)
                done += count
            if response.read(1):
                raise Corrupt("the answer is longer than it says", expected=f"{len(view)} bytes")
        except http.client.IncompleteRead as error:
            raise ConnectionLost("the answer was cut off", reason="dropped", expected=len(view)) from error
        except (http.client.HTTPException, ValueError) as error:
            raise Corrupt("the answer is not HTTP", found=_said(error)) from error
        self.usable = not response.will_close

    def close(self) -> None:
        """Hang up."""
        self._wire.close()


class _Carrier:
    """The wire, with what ``http.client`` wants of a socket. It closes one early, before the answer is read: not the wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def sendall(self, data: bytes) -> None:
        self._wire.send(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self._wire))

    def close(self) -> None:
        """Nothing: the wire is its owner's."""


class _Received(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed has a private type
        return self._wire.receive_any(memoryview(buffer))


def _said(error: Exception) -> str:
    return ascii(str(error)[:100])
