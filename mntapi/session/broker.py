"""How a worker without any right to open files gets the files of a chain: it asks the process that started it.

The policy about which file may name which other (``images.opener``) is applied by the asked side, before a byte is read.
"""

from __future__ import annotations

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, MntapiError
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


def answer(channel: Channel, message: Message, opener: DirectOpener) -> None:
    """The other side: open the file that ``message`` asks for and send its descriptor, or the error."""
    relative_to = message.get("relative_to")
    try:
        file = opener.open(str(message.get("name")), relative_to=None if relative_to is None else str(relative_to))
    except MntapiError as error:
        channel.send(pack_error(error))
        return
    try:
        channel.send({"op": "file", "path": file.path}, [file.fileno()])
    finally:
        file.close()
