"""How a worker without any right to open files gets the files of a chain: it asks the process that started it.

The policy about which file may name which other (``images.opener``) is applied by the asked side, before a byte is read.
Connections it gets from another process (``dialer.py``), which stays when that one has ended.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from queue import SimpleQueue

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, Denied, MntapiError, ReadFailed
from mntapi.images.opener import DirectOpener
from mntapi.remote import Endpoint
from mntapi.remote.dial import ConnectionLost
from mntapi.session.channel import Channel, ChannelClosed, Message, pack_error, unpack_error


class BrokeredOpener:
    """The worker's side: an ``Opener`` that opens nothing itself."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def open(self, name: str, *, relative_to: str | None = None) -> HostFile:
        """See ``mntapi.types.Opener``."""
        self._channel.send({"op": "file", "name": name, "relative_to": relative_to})
        message, fds = self._channel.receive()
        if message.get("op") == "error":
            raise unpack_error(message)
        if len(fds) != 1:
            raise Corrupt("a file was promised and did not come", path=name)
        return HostFile.adopt(fds[0], str(message["path"]))


class DialedConnector:
    """The worker's side: a ``Connector`` that connects nothing itself. Thread-safe."""

    def __init__(self, lines: Iterable[int]) -> None:
        self._free: SimpleQueue[Channel] = SimpleQueue()
        for fd in lines:
            self._free.put(Channel(socket.socket(fileno=fd)))

    def __call__(self, endpoint: Endpoint) -> socket.socket:
        """See ``mntapi.remote.dial.dial``."""
        line = self._free.get()
        try:
            line.send({"op": "connect", "endpoint": endpoint})
            message, fds = line.receive()
        except ChannelClosed as error:
            raise ConnectionLost(
                "the process that makes connections is gone", hint="unmount it, and mount it again", reason="unreachable"
            ) from error
        finally:
            self._free.put(line)
        if len(fds) == 1:
            return socket.socket(fileno=fds[0])
        refusal = unpack_error(message)
        if type(refusal) is ReadFailed:
            raise ConnectionLost(refusal.what, hint=refusal.hint, reason=refusal.reason)
        raise refusal


class Broker:
    """The other side: opens what the worker may have.

    The worker may be in the hands of an image by now, so what it says of itself counts for nothing: it gets the disks that the
    user named, and what a file it has got may name.
    """

    def __init__(self, channel: Channel, opener: DirectOpener, named: Iterable[str]) -> None:
        self._channel = channel
        self._opener = opener
        self._named = frozenset(named)
        self._given: set[str] = set()

    def answer(self, message: Message) -> None:
        """Open the file that ``message`` asks for and send its descriptor, or the error."""
        try:
            file = self._open(str(message.get("name")), message.get("relative_to"))
        except MntapiError as error:
            self._channel.send(pack_error(error))
            return
        try:
            self._given.add(file.path)
            self._channel.send({"op": "file", "path": file.path}, [file.fileno()])
        finally:
            file.close()

    def _open(self, name: str, relative_to: object) -> HostFile:
        if relative_to is None and name in self._named:
            return self._opener.open(name)
        if isinstance(relative_to, str) and relative_to in self._given:
            return self._opener.open(name, relative_to=relative_to)
        raise Denied("is neither a disk of the set nor named by one", path=name, reason="outside")
