"""The serving loop over a socket that plays the kernel: one message is one request, and the end of file is an unmount."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.errors import Failed
from mntapi.types import Blocks
from mntapi_fuse import protocol, server
from mntapi_fuse.connection import Connection
from mntapi_fuse.operations import ROOT
from mntapi_fuse.protocol import Opcode
from mntapi_fuse.server import serve
from mntapi_fuse.treefs import TreeFs

LIMIT_S = 30
"""A hang is a failure; nothing here measures time."""


class Kernel:
    """The other end of the descriptor."""

    def __init__(self, operations: TreeFs, **options: object) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(LIMIT_S)
        self.ready = threading.Event()
        self.fd = theirs.detach()
        self._thread = threading.Thread(
            target=serve, args=(self.fd, operations), kwargs={"on_ready": self.ready.set, **options}, daemon=True
        )
        self._thread.start()

    def send(self, opcode: int, unique: int, node: int = ROOT, body: bytes = b"") -> None:
        self._ours.send(protocol.HEADER.pack(protocol.HEADER.size + len(body), opcode, unique, node, 0, 0, 0, 0, 0) + body)

    def receive(self) -> tuple[int, int, bytes]:
        """(unique, error, body) of the next reply."""
        message = self._ours.recv(2 << 20)
        length, error, unique = protocol.REPLY.unpack_from(message)
        assert length == len(message)
        return unique, error, message[protocol.REPLY.size :]

    def ask(self, opcode: int, unique: int, node: int = ROOT, body: bytes = b"") -> tuple[int, bytes]:
        self.send(opcode, unique, node, body)
        answered, error, reply = self.receive()
        assert answered == unique
        return error, reply

    def unmount(self) -> None:
        self._ours.shutdown(socket.SHUT_WR)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        self._ours.close()
        os.close(self.fd)


class Gated(TreeFs):
    """Reads of the file ``slow`` wait for ``gate``; ``entered`` counts them."""

    def __init__(self) -> None:
        super().__init__(MemoryFileSystem({"slow": b"slow", "fast": b"fast"}))
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def open(self, node: int) -> Blocks:
        blocks = super().open(node)
        return Waiting(self) if blocks.size and self._node(node).inode == self.lookup(ROOT, b"slow").node.inode else blocks


class Waiting(Memory):
    def __init__(self, tree: Gated) -> None:
        super().__init__(b"slow")
        self._tree = tree

    def readinto(self, offset: int, buffer: memoryview) -> None:
        self._tree.entered.release()
        assert self._tree.gate.wait(LIMIT_S)
        super().readinto(offset, buffer)


@pytest.fixture
def tree() -> Iterator[Gated]:
    tree = Gated()
    yield tree
    tree.gate.set()


INIT = struct.pack("=IIIII44x", 7, 45, 131072, 0, 0)
READ = struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0)


def test_ready_comes_with_init(tree: Gated) -> None:
    kernel = Kernel(tree)
    assert not kernel.ready.is_set()
    assert kernel.ask(Opcode.INIT, 2, 0, INIT)[0] == 0
    assert kernel.ready.wait(LIMIT_S)
    kernel.unmount()


def test_what_waits_for_no_answer_gets_none(tree: Gated) -> None:
    kernel = Kernel(tree)
    kernel.send(Opcode.FORGET, 3, 7, bytes(8))
    kernel.send(Opcode.BATCH_FORGET, 4, 0, struct.pack("=IIQQ", 1, 0, 7, 1))
    kernel.send(Opcode.INTERRUPT, 5, 0, struct.pack("=Q", 999))  # whose request was answered long ago
    kernel.send(Opcode.NOTIFY_REPLY, 6, 0, bytes(40))
    assert kernel.ask(9999, 7) == (-errno.ENOSYS, b"")
    kernel.unmount()


def test_slow_requests_do_not_hold_up_others(tree: Gated) -> None:
    kernel = Kernel(tree, threads=4)
    slow, fast = (tree.lookup(ROOT, name).number for name in (b"slow", b"fast"))
    for unique in (10, 12, 14):
        kernel.send(Opcode.READ, unique, slow, READ)
        assert tree.entered.acquire(timeout=LIMIT_S)
    for unique in range(100, 100 + 4 * server.CALM, 2):
        assert kernel.ask(Opcode.READ, unique, fast, READ) == (0, b"fast")
    kernel.send(Opcode.INTERRUPT, 11, 0, struct.pack("=Q", 10))
    tree.gate.set()
    assert sorted(kernel.receive() for _ in range(3)) == [(unique, 0, b"slow") for unique in (10, 12, 14)]
    for unique in range(1000, 1000 + 20 * server.CALM, 2):  # helpers leave while this goes on
        assert kernel.ask(Opcode.READ, unique, fast, READ) == (0, b"fast")
    kernel.unmount()


def test_a_system_without_threads_is_served_by_one(tree: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tree)
    slow, fast = (tree.lookup(ROOT, name).number for name in (b"slow", b"fast"))
    refused = threading.Semaphore(0)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "fuse-helper":
            refused.release()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    kernel.send(Opcode.READ, 10, slow, READ)
    kernel.send(Opcode.READ, 12, fast, READ)
    assert refused.acquire(timeout=LIMIT_S)
    tree.gate.set()
    assert [kernel.receive() for _ in range(2)] == [(10, 0, b"slow"), (12, 0, b"fast")]
    kernel.unmount()


def test_a_message_that_is_no_request_is_dropped(tree: Gated) -> None:
    kernel = Kernel(tree)
    kernel._ours.send(b"short")
    assert kernel.ask(9999, 7) == (-errno.ENOSYS, b"")
    kernel.unmount()


def test_an_answer_that_nobody_takes_is_no_error() -> None:
    one, other = os.pipe()
    try:
        Connection(one).send(memoryview(b"x"))  # EBADF: the reading end
    finally:
        os.close(one)
        os.close(other)


def test_a_descriptor_that_does_not_block(tree: Gated) -> None:
    kernel = Kernel(tree)
    os.set_blocking(kernel.fd, False)
    assert kernel.ask(9999, 3)[0] == -errno.ENOSYS
    assert kernel.ask(9999, 7)[0] == -errno.ENOSYS
    kernel.unmount()


def test_what_is_no_fuse_descriptor_is_refused(tree: Gated) -> None:
    one, other = os.pipe()
    with pytest.raises(Failed, match="cannot read a FUSE request"):
        serve(other, tree)  # the writing end
    os.close(other)
    with pytest.raises(Failed, match="cannot take over"):
        serve(one, tree, resume=True)
    os.close(one)


def test_a_fuse_descriptor_that_is_not_mounted_says_so(tree: Gated) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(Failed) as raised:
            Connection(fd)._wait(OSError(errno.EPERM, "not mounted"))
        assert raised.value.hint == "mount(2) comes first"
    finally:
        os.close(fd)


def test_taking_over_asks_again_and_is_ready_at_once(tree: Gated) -> None:
    kernel = Kernel(tree, resume=True)
    assert kernel.receive() == (0, protocol.NOTIFY_RESEND, b"")
    assert kernel.ready.wait(LIMIT_S)
    kernel.unmount()


def test_a_request_that_was_withdrawn_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [errno.ENOENT, errno.EINTR, errno.ENODEV]

    def readv(fd: int, buffers: object) -> int:
        raise OSError(errors.pop(0), "")

    monkeypatch.setattr(os, "readv", readv)
    assert Connection(-1).receive(memoryview(bytearray(9))) == 0 and errors == []
