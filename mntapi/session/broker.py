"""How a worker without any right to open files gets the files of a chain: it asks the process that started it.

The policy about which file may name which other (``images.opener``) is applied by the asked side, before a byte is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, Denied, MntapiError
from mntapi.images.opener import DirectOpener
from mntapi.session.channel import Channel, Message, pack_error, unpack_error


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
