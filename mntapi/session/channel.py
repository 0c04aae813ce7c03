"""Messages between the command and its worker: JSON with file descriptors beside it, over a Unix stream socket."""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mntapi.errors import (
    Busy,
    Corrupt,
    Denied,
    Failed,
    Invalid,
    IsADirectory,
    MntapiError,
    NotADirectory,
    NotFound,
    ReadFailed,
    Unsupported,
    shown,
)
from mntapi.units import MIB

MAX_MESSAGE = 16 * MIB
"""Bytes of one message. The worker parses hostile images, so what it says is bounded as theirs is."""
_MAX_FDS = 4
_LENGTH = struct.Struct("!I")
_KINDS = (Busy, Corrupt, Denied, Failed, Invalid, IsADirectory, NotADirectory, NotFound, ReadFailed, Unsupported)
_ERRORS: Mapping[str, type[MntapiError]] = {kind.__name__: kind for kind in _KINDS}

Message = dict[str, Any]
"""One message: a JSON object whose ``op`` says what it is. Checked by whoever takes it apart."""


class ChannelClosed(Failed):
    """The other side is gone."""


class Channel:
    """One end of the socket. Not thread-safe: one conversation at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors are duplicated to the other side and stay open here. Raises ChannelClosed."""
        body = json.dumps(message).encode("ascii")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        packet = _LENGTH.pack(len(body)) + body
        try:
            sent = self._sock.sendmsg([packet], rights)
            if sent < len(packet):  # a call with nothing left would fail if the other side has read all and hung up
                self._sock.sendall(packet[sent:])
        except OSError as error:
            raise ChannelClosed(f"the other process is gone: {error.strerror}") from error

    def receive(self, timeout_s: float | None = None) -> tuple[Message, list[int]]:
        """The next message and the descriptors that came with it, which are the caller's to close.

        Raises:
            ChannelClosed: the other side is gone, or said nothing for ``timeout_s`` seconds.
            Corrupt: it sent something that is no message.
        """
        self._sock.settimeout(timeout_s)
        fds: list[int] = []
        try:
            length = _LENGTH.unpack(self._receive_exactly(_LENGTH.size, fds))[0]
            if length > MAX_MESSAGE:
                raise Corrupt("a message is too long", expected=f"at most {MAX_MESSAGE} bytes", found=length)
            message = json.loads(self._receive_exactly(length, fds))
        except ValueError as error:
            raise Corrupt("what the other process sent is no message") from error
        except OSError as error:
            raise ChannelClosed(f"the other process does not answer: {error}") from error
        if not isinstance(message, dict):
            raise Corrupt("what the other process sent is no message")
        return message, fds

    def _receive_exactly(self, length: int, fds: list[int]) -> bytes:
        received = bytearray()
        while len(received) < length:
            chunk, rights, _, _ = socket.recv_fds(self._sock, min(length - len(received), MIB), _MAX_FDS)
            fds.extend(rights)
            if not chunk:
                raise ChannelClosed("the other process ended")
            received += chunk
        return bytes(received)

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def pack_error(error: MntapiError) -> Message:
    """An error as a message."""
    known = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), "Failed")
    fields = {name: getattr(error, name) for name in ("path", "offset", "hint", "reason")}
    texts = {name: None if (value := getattr(error, name)) is None else shown(value) for name in ("expected", "found")}
    return {"op": "error", "kind": known, "what": error.what, **fields, **texts}


def unpack_error(message: Message) -> MntapiError:
    """The error that ``pack_error`` made a message of."""
    kind = _ERRORS.get(str(message.get("kind")), Failed)
    fields = {name: message.get(name) for name in ("path", "offset", "hint", "reason", "expected", "found")}
    return kind(str(message.get("what")), **fields)
