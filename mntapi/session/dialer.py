"""Connections for a worker that may make none: a small process makes them and passes the sockets on.

Web servers hang up on idle clients and NBD servers are restarted, so a mounted set on servers needs new connections for as long
as it is mounted, when the command that mounted it is long gone. The command starts this program with ``LINES`` sockets, says
on the first where it may connect to, and sends the other ends to the worker:

    command  permit   the endpoints that the user named
    worker   connect  host and port, or the path of a Unix socket
    dialer   connected, with the socket, or error
    ... it ends when the worker does.

Not here: any protocol that is spoken over the connections, TLS included; that is the worker's. Always true: the worker may be
in the hands of an image, so what it asks for is compared with what the command said first, which is never added to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mntapi.errors import Corrupt, Denied, MntapiError
from mntapi.health import Health
from mntapi.kernel.process import start_time
from mntapi.kernel.sandbox import Connecting, confine
from mntapi.kernel.spawn import spawn_detached
from mntapi.remote import Endpoint, Url, is_url
from mntapi.remote.dial import RememberedNames, dial
from mntapi.remote.urls import DEFAULT_PORTS
from mntapi.session.channel import Channel, ChannelClosed, Message, pack_error
from mntapi.session.journal import ProcessId
from mntapi.units import MIB

LINES = 4
"""Connections that can be made at a time; as many descriptors as a message takes."""
PROGRAM = (sys.executable, "-m", "mntapi.session.dialer")
_MEMORY_LIMIT = 256 * MIB
_THREAD_STACK = MIB
_NAME_SERVER_PORT = 53
_RESOLVER_FILES = ("/etc", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
"""What the resolver reads again when it changes: hosts, nsswitch.conf, resolv.conf and where that may be a link to."""


@dataclass(frozen=True, slots=True)
class Permitted:
    """Where a dialer may connect to: ``endpoints``, and with ``any_host`` to every TCP port of every host as well."""

    endpoints: frozenset[Endpoint]
    any_host: bool = False

    def check(self, endpoint: Endpoint) -> None:
        """Raises Denied."""
        if endpoint in self.endpoints or (self.any_host and endpoint.socket is None):
            return
        raise Denied(
            "a mount connects to the servers that were named, and this is another one",
            found=endpoint.socket or f"{endpoint.host}:{endpoint.port}",
            hint="name the disk by its URL there, or repeat with --allow-outside",
            reason="outside",
        )


def servers(named: Iterable[str], *, allow_outside: bool) -> Permitted | None:
    """Where a worker may connect to, of whose disks and parents the user ``named`` these; None: there is no URL among them.

    A server named with http may send us on to itself with https. Any other redirect, and a disk that names one on another
    server, needs ``allow_outside``.

    Raises: as ``Url.parse``.
    """
    urls = [Url.parse(name) for name in named if is_url(name)]
    if not urls:
        return None
    secure = (Endpoint(url.host, DEFAULT_PORTS["https"]) for url in urls if url.scheme == "http")
    return Permitted(frozenset([*(url.endpoint for url in urls), *secure]), any_host=allow_outside)


class Dialer:
    """The command's side of a dialer that runs. ``lines`` are the descriptors for the worker."""

    def __init__(self, process_id: ProcessId, lines: Sequence[socket.socket]) -> None:
        self.id = process_id
        self._lines = lines

    @classmethod
    def start(cls, log: Path) -> Dialer:
        """Start one; it can do nothing until ``permit``, and ends if this object is closed before. Raises Failed."""
        pairs = [socket.socketpair() for _ in range(LINES)]
        try:
            theirs = [pair[1].fileno() for pair in pairs]
            process = spawn_detached([*PROGRAM, *map(str, theirs)], pass_fds=theirs, log=log)
            return cls(ProcessId(process.pid, start_time(process.pid)), [pair[0] for pair in pairs])
        except BaseException:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, theirs_too in pairs:
                theirs_too.close()

    def permit(self, permitted: Permitted) -> None:
        """Say where it may connect to, once. Raises ChannelClosed."""
        Channel(self._lines[0]).send(
            {"op": "permit", "endpoints": sorted(permitted.endpoints, key=repr), "any_host": permitted.any_host}
        )

    @property
    def lines(self) -> list[int]:
        """Descriptors to send to the worker. Borrowed."""
        return [line.fileno() for line in self._lines]

    def close(self) -> None:
        """Give up our ends: from now on it lives as long as the worker's are open."""
        for line in self._lines:
            line.close()


def main() -> int:
    """Serve the lines whose descriptors are in ``argv`` until the worker ends; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    lines = [Channel(socket.socket(fileno=int(fd))) for fd in sys.argv[1:]]
    try:
        permitted = _permitted(lines[0].receive()[0])
    except ChannelClosed:
        return 1  # the command went away before it had said anything
    names = RememberedNames()
    for endpoint in permitted.endpoints:
        if endpoint.socket is None:
            with contextlib.suppress(MntapiError):  # whoever wants to connect is told
                names(endpoint)  # loads what the C library would load later, and remembers the answer
    threading.stack_size(_THREAD_STACK)
    _confine(permitted)
    ended, seen = threading.Event(), _Servers(permitted)
    for line in lines:
        threading.Thread(target=_serve, args=(line, permitted, seen, names, ended), daemon=True).start()
    ended.wait()
    return 0


class _Servers:
    """Whether each of the servers can be reached, for who looks after the mount."""

    def __init__(self, permitted: Permitted) -> None:
        self._named = {
            endpoint: Health(f"server{number}") for number, endpoint in enumerate(sorted(permitted.endpoints, key=repr))
        }
        self._others = Health("others")

    def dial(self, endpoint: Endpoint, names: RememberedNames) -> socket.socket:
        """Connect, and tell how that went. Raises as ``mntapi.remote.dial.dial``."""
        health = self._named.get(endpoint, self._others)
        try:
            sock = dial(endpoint, look_up=names)
        except MntapiError as error:
            health.failed(f"{endpoint.socket or f'{endpoint.host}:{endpoint.port}'}: {error}")
            raise
        health.worked()
        return sock


def _permitted(message: Message) -> Permitted:
    return Permitted(frozenset(map(_endpoint, message["endpoints"])), bool(message["any_host"]))


def _confine(permitted: Permitted) -> None:
    """Give up all rights but to look up names and to connect."""
    ports = {endpoint.port for endpoint in permitted.endpoints if endpoint.socket is None}
    connecting = Connecting(
        ports=None if permitted.any_host else (*sorted(ports), *([_NAME_SERVER_PORT] if ports else [])),
        past_permissions=any(endpoint.socket is not None for endpoint in permitted.endpoints),
    )
    files = {os.path.realpath("/etc/resolv.conf"), *_RESOLVER_FILES}
    present = [path for path in sorted(files) if os.path.exists(path)]
    confinement = confine(memory_limit=_MEMORY_LIMIT, keep_read_paths=present, connecting=connecting)
    for missing in confinement.missing:
        logging.getLogger(__name__).info("not confined as it should be: %s", missing)


def _serve(line: Channel, permitted: Permitted, seen: _Servers, names: RememberedNames, ended: threading.Event) -> None:
    """Answer what comes on one line; when one ends, all do: the worker is gone."""
    try:
        while True:
            message, fds = line.receive()
            for fd in fds:
                os.close(fd)  # a worker has none to give
            _answer(line, message, permitted, seen, names)
    except (ChannelClosed, Corrupt):
        return
    finally:
        ended.set()


def _answer(line: Channel, message: Message, permitted: Permitted, seen: _Servers, names: RememberedNames) -> None:
    try:
        endpoint = _endpoint(message.get("endpoint"))
        permitted.check(endpoint)
        sock = seen.dial(endpoint, names)
    except MntapiError as error:
        line.send(pack_error(error))
        return
    with sock:
        line.send({"op": "connected"}, [sock.fileno()])


def _endpoint(fields: object) -> Endpoint:
    """What a worker may say of an endpoint is anything. Raises Corrupt."""
    match fields:
        case [str(host), int(port), None]:
            return Endpoint(host, port)
        case [str(host), int(port), str(path)]:
            return Endpoint(host, port, path)
    raise Corrupt("is no endpoint", expected="host, port, socket", found=ascii(fields)[:100])


if __name__ == "__main__":
    sys.exit(main())
