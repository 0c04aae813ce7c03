"""An NBD server in a thread, over socket pairs, that can be made to misbehave. For faults no real server has."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.urls import Endpoint

URL = "nbd://fake.example/disk"
HAS_FLAGS, MULTI_CONN = 1, 1 << 8


class FakeNbd:
    """Serves ``content``. Set attributes before it is connected to; replace ``on_read`` and ``on_status`` to lie."""

    def __init__(self, content: bytes = bytes(range(256)) * 256) -> None:
        self.content = content
        self.size = len(content)
        self.handshake_flags = nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES
        self.flags = HAS_FLAGS | MULTI_CONN
        self.structured = True
        self.go = True
        self.context = 7
        self.block_sizes: tuple[int, int, int] | None = None
        self.replies: dict[int, list[tuple[int, bytes]]] = {}
        """Replies to options, instead of those a good server gives: (type, data)."""
        self.on_read: Callable[[socket.socket, int, int, int], None] = self.read
        self.on_status: Callable[[socket.socket, int, int, int], None] = self.status
        self.requests: list[tuple[int, int, int]] = []
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._ends: list[socket.socket] = []

    def connect(self, endpoint: Endpoint) -> socket.socket:
        """What ``open`` wants as ``connect``."""
        ours, theirs = socket.socketpair()
        self.connections += 1
        self._ends.append(ours)
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return theirs

    def hang_up(self) -> None:
        """Break all connections there are, as a server does that is restarted."""
        for end in self._ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # broken already

    def stop(self) -> None:
        """Break all connections and wait for the threads."""
        self.hang_up()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                if self._handshake(sock):
                    self._transmit(sock)
            except (ConnectionError, EOFError):
                return

    def _handshake(self, sock: socket.socket) -> bool:
        sock.sendall(nbd.GREETING.pack(b"NBDMAGIC", b"IHAVEOPT", self.handshake_flags))
        receive(sock, 4)
        while True:
            magic, number, length = struct.unpack(">8sII", receive(sock, 16))
            assert magic == b"IHAVEOPT"
            receive(sock, length)
            if number == nbd.OPT_EXPORT_NAME:
                zeroes = b"" if self.handshake_flags & nbd.NO_ZEROES else bytes(124)
                sock.sendall(struct.pack(">QH", self.size, self.flags) + zeroes)
                return True
            answers = self.replies.get(number) or self._answers(number)
            sock.sendall(b"".join(option_reply(number, kind, data) for kind, data in answers))
            if number == nbd.OPT_ABORT:
                return False
            if number == nbd.OPT_GO and answers[-1][0] == nbd.REP_ACK:
                return True

    def _answers(self, number: int) -> list[tuple[int, bytes]]:
        ack = (nbd.REP_ACK, b"")
        if number == nbd.OPT_ABORT:
            return [ack]
        if number == nbd.OPT_STRUCTURED_REPLY and self.structured:
            return [ack]
        if number == nbd.OPT_SET_META_CONTEXT:
            return [(nbd.REP_META_CONTEXT, struct.pack(">I", self.context) + b"base:allocation"), ack]
        if number == nbd.OPT_GO and self.go:
            infos = [(nbd.REP_INFO, struct.pack(">HQH", 0, self.size, self.flags))]
            if self.block_sizes:
                infos.append((nbd.REP_INFO, struct.pack(">HIII", 3, *self.block_sizes)))
            return [*infos, ack]
        return [(nbd.REP_ERR_UNSUP, b"what?")]

    def _transmit(self, sock: socket.socket) -> None:
        while True:
            magic, _, command, cookie, offset, length = struct.unpack(">IHHQQI", receive(sock, 28))
            assert magic == 0x25609513
            self.requests.append((command, offset, length))
            if command == nbd.CMD_DISC:
                return
            {nbd.CMD_READ: self.on_read, nbd.CMD_BLOCK_STATUS: self.on_status}[command](sock, cookie, offset, length)

    def read(self, sock: socket.socket, cookie: int, offset: int, length: int) -> None:
        """A good answer to a read."""
        data = self.content[offset : offset + length]
        sock.sendall(data_chunk(cookie, offset, data) if self.structured else simple(cookie) + data)

    def status(self, sock: socket.socket, cookie: int, offset: int, length: int) -> None:
        """A good answer to a block status request: all data."""
        sock.sendall(status_chunk(cookie, self.context, [(length, 0)]))


def receive(sock: socket.socket, length: int) -> bytes:
    """Exactly so many bytes, or EOFError."""
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def option_reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, number, kind, len(data)) + data


def simple(cookie: int, error: int = 0) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def chunk(cookie: int, kind: int, payload: bytes = b"", *, done: bool = True, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, size) + payload


def data_chunk(cookie: int, offset: int, data: bytes, *, done: bool = True) -> bytes:
    return chunk(cookie, 1, struct.pack(">Q", offset) + data, done=done)


def hole_chunk(cookie: int, offset: int, length: int, *, done: bool = True) -> bytes:
    return chunk(cookie, 2, struct.pack(">QI", offset, length), done=done)


def error_chunk(cookie: int, number: int, message: bytes = b"", offset: int | None = None, *, done: bool = True) -> bytes:
    payload = struct.pack(">IH", number, len(message)) + message
    if offset is None:
        return chunk(cookie, 0x8001, payload, done=done)
    return chunk(cookie, 0x8002, payload + struct.pack(">Q", offset), done=done)


def status_chunk(cookie: int, context: int, descriptors: list[tuple[int, int]], *, done: bool = True) -> bytes:
    return chunk(cookie, 5, struct.pack(">I", context) + b"".join(struct.pack(">II", *one) for one in descriptors), done=done)
