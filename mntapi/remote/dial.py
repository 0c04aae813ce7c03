"""Making connections: names looked up, sockets connected. The only place that does either; cheap to import, without TLS.

A process that may not connect has another one do this for it (``mntapi.session.dialer``).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from mntapi.closing import closed_on_error
from mntapi.errors import Denied, ReadFailed
from mntapi.remote.patience import attempt_s, patience_s
from mntapi.remote.urls import Endpoint

CONNECT_TIMEOUT_S = 15.0
"""For connecting, and for the handshake of a protocol after it; less for who has less patience."""
MAX_ADDRESSES = 8
"""Addresses of one name that are tried."""


class ConnectionLost(ReadFailed):
    """The server is away, hung up, or said nothing in time. Reads change nothing, so asking again is safe."""


Connector = Callable[[Endpoint], socket.socket]
"""Gives a connected stream socket, which then belongs to the receiver. ``dial`` is one; a process that may not connect
gets one that asks another process. Raises MntapiError."""

Addresses = list[tuple[int, tuple[str | int | bytes, ...]]]
"""Family and address, as ``socket.connect`` takes them, in the order to try."""
LookUp = Callable[[Endpoint], Addresses]
"""Gives the addresses of a TCP endpoint, at least one."""


def look_up(endpoint: Endpoint) -> Addresses:
    """Ask the system's resolver.

    Raises:
        ReadFailed: there is no such host (reason ``unreachable``): asking again would not help.
        ConnectionLost: nobody could say (reason ``unreachable``).
    """
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            raise ReadFailed(
                f"there is no host {endpoint.host!r}",
                hint="is the URL right, and does this host's resolver know the name?",
                reason="unreachable",
            ) from error
        raise ConnectionLost(
            f"the host {endpoint.host!r} cannot be looked up: {error.strerror}",
            hint="no name server answers; an address instead of the name does without",
            reason="unreachable",
        ) from error
    return [(int(family), address) for family, _, _, _, address in found]


class RememberedNames:
    """A ``LookUp`` that falls back on what it heard before: a server in use is not lost because the name server is."""

    def __init__(self, ask: LookUp = look_up) -> None:
        self._ask = ask
        self._known: dict[Endpoint, Addresses] = {}

    def __call__(self, endpoint: Endpoint) -> Addresses:
        """Raises what ``look_up`` does; for a name known from before only that there is no such host any more."""
        try:
            found = self._ask(endpoint)
        except ConnectionLost:
            if endpoint not in self._known:
                raise
            return self._known[endpoint]
        self._known[endpoint] = found
        return found


def dial(endpoint: Endpoint, *, look_up: LookUp = look_up) -> socket.socket:
    """Connect, within ``CONNECT_TIMEOUT_S`` seconds, or what patience the environment says if that is less, and what looking
    up the name takes.

    Raises:
        ReadFailed: there is no such host or socket file (reason ``unreachable``).
        Denied: the system does not permit it.
        ConnectionLost: nobody answers there (reason ``unreachable``).
        Invalid: as ``patience_s``.
    """
    timeout_s = attempt_s(CONNECT_TIMEOUT_S, patience_s())
    try:
        if endpoint.socket is not None:
            return _connected(socket.AF_UNIX, endpoint.socket, timeout_s)
        return _dial_tcp(look_up(endpoint), timeout_s)
    except FileNotFoundError as error:
        what = f"there is no socket {endpoint.socket!r}"
        raise ReadFailed(what, hint="is the server running?", reason="unreachable") from error
    except PermissionError as error:
        raise Denied("connecting is not permitted here", hint="neither by a firewall, nor once a worker is confined") from error
    except OSError as error:
        hint = "is the server running, and may this host speak to it?"
        raise ConnectionLost(f"cannot be reached: {described(error)}", hint=hint, reason="unreachable") from error


def _dial_tcp(addresses: Addresses, timeout_s: float) -> socket.socket:
    """To the first address that answers; each has an equal share of what is left of the time."""
    end = time.monotonic() + timeout_s
    for count, (family, address) in zip(range(min(len(addresses), MAX_ADDRESSES), 0, -1), addresses, strict=False):
        try:
            sock = _connected(family, address, max(0.1, (end - time.monotonic()) / count))
        except OSError as error:
            failure = error
            continue
        with closed_on_error(sock):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    raise failure


def _connected(family: int, address: str | tuple[str | int | bytes, ...], timeout_s: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    with closed_on_error(sock):
        sock.settimeout(timeout_s)
        sock.connect(address)
    return sock


def described(error: OSError) -> str:
    """What happened to a connection, in the system's words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return os.strerror(error.errno) if error.errno else str(error)
