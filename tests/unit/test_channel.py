"""The socket between command and worker, and the files that travel over it."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mntapi.blocks import read
from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, Unsupported
from mntapi.images.opener import DirectOpener
from mntapi.session.broker import Broker, BrokeredOpener
from mntapi.session.channel import MAX_MESSAGE, Channel, ChannelClosed, pack_error, unpack_error


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Channel(ours), Channel(theirs), theirs
    ours.close()
    theirs.close()


def test_messages_with_descriptors(ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, other, _ = ends
    reader, writer = os.pipe()
    one.send({"op": "x", "text": "caf\udce9"}, [reader])
    one.send({"op": "y"})
    message, fds = other.receive(5)
    assert message == {"op": "x", "text": "caf\udce9"} and len(fds) == 1
    assert other.receive(5) == ({"op": "y"}, [])
    os.write(writer, b"through")
    assert os.read(fds[0], 10) == b"through"
    for fd in (*fds, reader, writer):
        os.close(fd)


def test_a_long_message(ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, other, _ = ends
    sender = threading.Thread(target=one.send, args=({"op": "x", "text": "a" * 3_000_000},))
    sender.start()
    assert len(other.receive(10)[0]["text"]) == 3_000_000
    sender.join()


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff\xfe", b"1"])
def test_what_is_no_message(ends: tuple[Channel, Channel, socket.socket], body: bytes) -> None:
    one, _, theirs = ends
    theirs.sendall(struct.pack("!I", len(body)) + body)
    with pytest.raises(Corrupt):
        one.receive(5)


def test_a_length_from_the_other_side_is_bounded(ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, _, theirs = ends
    theirs.sendall(struct.pack("!I", MAX_MESSAGE + 1))
    with pytest.raises(Corrupt):
        one.receive(5)


def test_the_other_side_is_gone_or_silent(ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, other, _ = ends
    with pytest.raises(ChannelClosed):
        one.receive(0.05)
    other.close()
    with pytest.raises(ChannelClosed):
        one.receive(5)
    with pytest.raises(ChannelClosed):
        one.send({"op": "x", "text": "a" * 1_000_000})


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such file", path="/a", hint="look elsewhere"),
        Corrupt("bad", path="/a", offset=512, expected=1, found=b"\xff", reason="slug"),
        Unsupported("no"),
    ],
)
def test_errors_travel(error: MntapiError) -> None:
    again = unpack_error(pack_error(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert (again.hint, again.reason, again.errno) == (error.hint, error.reason, error.errno)


def test_files_come_by_descriptor_and_policy_is_kept(ends: tuple[Channel, Channel, socket.socket], tmp_path: Path) -> None:
    one, other, _ = ends
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks/a.vmdk").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")

    def serve() -> None:
        broker = Broker(one, DirectOpener(), [str(tmp_path / "disks/a.vmdk")])
        for _ in range(5):
            broker.answer(one.receive(10)[0])

    server = threading.Thread(target=serve)
    server.start()
    opener = BrokeredOpener(other)
    file = opener.open(str(tmp_path / "disks/a.vmdk"))
    assert read(file, 0, 6) == b"inside" and file.path == str(tmp_path / "disks/a.vmdk")
    with pytest.raises(Denied):
        opener.open("../secret", relative_to=file.path)
    with pytest.raises(NotFound):
        opener.open("b.vmdk", relative_to=file.path)
    for name, relative_to in ((str(tmp_path / "secret"), None), ("secret", str(tmp_path / "anything"))):
        with pytest.raises(Denied):  # a worker in the hands of an image asks for more than it may have
            opener.open(name, relative_to=relative_to)
    server.join()
    file.close()


def test_a_promised_file_that_does_not_come(ends: tuple[Channel, Channel, socket.socket]) -> None:
    one, other, _ = ends
    one.send({"op": "file", "path": "/a"})
    with pytest.raises(Corrupt):
        BrokeredOpener(other).open("/a")
