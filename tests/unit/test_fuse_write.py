"""Requests that write, without a kernel: what is answered, and what is in the blocks afterwards."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.blocks import read
from mntapi.blocks.memory_overlay import MemoryOverlay, Room
from mntapi.blocks.writable import WritableSlice
from mntapi.errors import Failed, IsADirectory
from mntapi.types import Blocks
from mntapi_fuse import protocol
from mntapi_fuse.blockfs import BlockFs
from mntapi_fuse.dispatch import Dispatcher
from mntapi_fuse.operations import ROOT, ReadOnly
from mntapi_fuse.protocol import Opcode
from mntapi_fuse.treefs import TreeFs
from mntapi_fuse.writing import Writer

SIZE = 300_000
START, LENGTH = 65536 + 512, 200_000


class Answer:
    """A writable disk with a writable volume, one that cannot be written, and the dispatcher over them."""

    def __init__(self) -> None:
        self.disk = MemoryOverlay(Memory(bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)), Room(1 << 20))
        volumes: dict[str, Blocks] = {"disk0p1": WritableSlice(self.disk, START, LENGTH), "lv": Memory(b"many ranges" * 100)}
        self.tree = BlockFs({"disks": {"disk0": self.disk}, "volumes": volumes})
        self.dispatcher = Dispatcher(self.tree)
        self.reply = memoryview(bytearray(protocol.MAX_READ))
        self.disk0, self.part, self.fixed = (
            self.number(b"disks", b"disk0"),
            self.number(b"volumes", b"disk0p1"),
            self.number(b"volumes", b"lv"),
        )

    def __call__(self, opcode: int, node: int = ROOT, body: bytes = b"") -> bytes | int:
        header = protocol.HEADER.pack(protocol.HEADER.size + len(body), opcode, 1, node, 0, 0, 0, 0, 0)
        size = self.dispatcher.answer(opcode, node, memoryview(header + body), self.reply)
        return bytes(self.reply[:size]) if size >= 0 else size

    def number(self, folder: bytes, name: bytes) -> int:
        return self.tree.lookup(self.tree.lookup(ROOT, folder).number, name).number

    def open(self, node: int, flags: int) -> int:
        answer = self(Opcode.OPEN, node, struct.pack("=II", flags, 0))
        return answer if isinstance(answer, int) else int(protocol.OPEN_OUT.unpack(answer)[1])

    def write(self, node: int, offset: int, content: bytes, *, length: int | None = None) -> int:
        """Bytes written, or a negative errno."""
        size = len(content) if length is None else length
        answer = self(Opcode.WRITE, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0) + content)
        return answer if isinstance(answer, int) else int(protocol.WRITE_OUT.unpack(answer)[0])

    def fallocate(self, node: int, offset: int, length: int, mode: int) -> bytes | int:
        return self(Opcode.FALLOCATE, node, struct.pack("=QQQII", 0, offset, length, mode, 0))

    def setattr(self, node: int, valid: int, size: int = 0) -> bytes | int:
        return self(Opcode.SETATTR, node, protocol.SETATTR_IN.pack(valid, 0, size))


@pytest.fixture
def answer() -> Answer:
    return Answer()


def test_what_is_told_of_the_files(answer: Answer) -> None:
    modes = [answer.tree.getattr(node).node.mode for node in (answer.disk0, answer.part, answer.fixed, ROOT)]
    assert modes == [0o600, 0o600, 0o400, 0o500]
    for opcode, body in ((Opcode.GETATTR, bytes(16)), (Opcode.STATX, bytes(24))):
        told = answer(opcode, answer.disk0, body)
        assert isinstance(told, bytes) and told[:8] == bytes(8)  # attr_valid: ask again each time
    entry = answer(Opcode.LOOKUP, answer.tree.lookup(ROOT, b"disks").number, b"disk0\0")
    assert isinstance(entry, bytes)
    assert struct.unpack_from("=QQQQ", entry)[2:] == (protocol.FOR_EVER_S, 0)  # the name lasts, the attributes do not


def test_a_tree_that_cannot_be_written_has_no_writer() -> None:
    for tree in (TreeFs(MemoryFileSystem({"file": b"x"})), BlockFs({"disks": {"disk0": Memory(b"x")}})):
        assert tree.changes is None
        with pytest.raises(ReadOnly):
            Writer(tree)
        assert Dispatcher(tree).max_request == protocol.REQUEST_SIZE


def test_init_agrees_to_writes_of_a_mebibyte(answer: Answer) -> None:
    told = answer(Opcode.INIT, 0, struct.pack("=IIIII44x", 7, 45, 131072, 0xFFFFFFFF, 0xFFFFFFFF))
    assert isinstance(told, bytes)
    fields = protocol.INIT_OUT.unpack(told)
    agreed = protocol.Feature(fields[3] | fields[10] << 32)
    assert fields[6] == 1 << 20 and protocol.Feature.BIG_WRITES in agreed
    assert not agreed & 1 << 16, "a write-back cache would keep what another file of the mount should show"
    assert answer.dispatcher.max_request >= protocol.HEADER.size + protocol.WRITE_IN.size + (1 << 20)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_opening(answer: Answer, flags: int) -> None:
    assert answer.open(answer.disk0, flags) == answer.open(answer.part, flags) == protocol.OPEN_DIRECT_IO
    assert answer.open(answer.fixed, flags) == -errno.EROFS
    assert answer.open(ROOT, flags) == -errno.EROFS
    for node in (answer.disk0, answer.part, answer.fixed):  # nothing is cached: the bytes may change through another file
        assert answer.open(node, os.O_RDONLY) == protocol.OPEN_DIRECT_IO | protocol.OPEN_NOFLUSH


def test_a_volume_and_its_disk_show_the_same(answer: Answer) -> None:
    assert answer.write(answer.part, 10, b"from the volume") == 15
    assert read(answer.disk, START + 10, 15) == b"from the volume"
    assert answer.write(answer.disk0, START + 10, b"FROM") == 4
    got = answer(Opcode.READ, answer.part, struct.pack("=QQIIQII", 0, 10, 15, 0, 0, 0, 0))
    assert got == b"FROM the volume"


def test_writing_ends_where_the_file_does(answer: Answer) -> None:
    assert answer.write(answer.part, LENGTH - 3, b"abcdef") == 3
    assert read(answer.disk, START + LENGTH - 3, 3) == b"abc"
    assert read(answer.disk, START + LENGTH, 1) == bytes([(START + LENGTH) % 256])  # the byte after the volume
    for offset in (LENGTH, LENGTH + 1, 1 << 62):
        assert answer.write(answer.part, offset, b"x") == -errno.ENOSPC
        assert answer.write(answer.part, offset, b"") == 0


def test_a_large_write(answer: Answer) -> None:
    content = os.urandom(SIZE)
    assert answer.write(answer.disk0, 0, content) == SIZE
    assert read(answer.disk, 0, SIZE) == content


def test_what_cannot_be_written(answer: Answer) -> None:
    assert answer.write(answer.fixed, 0, b"x") == -errno.EROFS
    assert answer.write(ROOT, 0, b"x") == -errno.EISDIR
    assert answer.write(9 << 32, 0, b"x") == -errno.ENOENT
    assert answer.write(answer.disk0, 0, b"cut short", length=100) == -errno.EINVAL
    assert read(answer.disk, 0, 4) == bytes(range(4))


def test_a_full_overlay_is_a_full_disk() -> None:
    answer = Answer()
    answer.disk._room.take((1 << 20) - 65536)
    assert answer.write(answer.disk0, 0, b"x" * 65536) == 65536
    assert answer.write(answer.disk0, 65536, b"x") == -errno.ENOSPC


@pytest.mark.parametrize("mode", [3, 16, 17])
def test_holes_and_zeros(answer: Answer, mode: int) -> None:
    for offset, length in ((100, 50), (65536 * 2 - START, 65536), (1, LENGTH - 2)):
        before = read(answer.disk, 0, SIZE)
        assert answer.fallocate(answer.part, offset, length, mode) == b""
        end = START + offset + length
        assert read(answer.disk, 0, SIZE) == before[: START + offset] + bytes(length) + before[end:]


def test_holes_past_the_end(answer: Answer) -> None:
    assert answer.fallocate(answer.part, LENGTH - 10, 1000, 3) == b""
    assert read(answer.disk, START + LENGTH - 10, 11) == bytes(10) + bytes([(START + LENGTH) % 256])
    assert answer.fallocate(answer.part, LENGTH + 10, 1000, 3) == b""
    assert answer.fallocate(answer.part, LENGTH - 10, 1000, 16) == -errno.ENOSPC  # would have to grow
    assert answer.fallocate(answer.part, 0, (1 << 63) - 1, 17) == b""
    assert read(answer.disk, START, LENGTH) == bytes(LENGTH)


@pytest.mark.parametrize("mode", [0, 1, 2, 8, 32])
def test_other_kinds_of_fallocate(answer: Answer, mode: int) -> None:
    assert answer.fallocate(answer.part, 0, 100, mode) == -errno.EOPNOTSUPP
    assert answer.fallocate(answer.fixed, 0, 100, 3) == -errno.EROFS


def test_truncating(answer: Answer) -> None:
    same = answer.setattr(answer.part, protocol.SETATTR_SIZE | 1 << 6, LENGTH)
    assert isinstance(same, bytes) and len(same) == protocol.ATTR_OUT.size
    for valid, size in ((8, 0), (8, LENGTH - 1), (8, LENGTH + 1), (1, 0), (2, 0), (4, 0), (8 | 1, LENGTH), (32, 0), (0, 0)):
        assert answer.setattr(answer.part, valid, size) == -errno.EPERM
    assert answer.setattr(answer.fixed, 8, 1100) == answer.setattr(ROOT, 1) == -errno.EROFS


def test_flushing() -> None:
    answer, flushed = Answer(), []
    answer.disk.flush = lambda: flushed.append(1)  # type: ignore[method-assign]
    for opcode, body in ((Opcode.FSYNC, bytes(16)), (Opcode.FLUSH, bytes(24))):
        for node in (answer.disk0, answer.part, answer.fixed):
            assert answer(opcode, node, body) == b""
    assert len(flushed) == 4  # the last one has nothing to flush

    def fails() -> None:
        raise Failed("cannot be synced")

    answer.disk.flush = fails  # type: ignore[method-assign]
    assert answer(Opcode.FSYNC, answer.part, bytes(16)) == -errno.EIO


@pytest.mark.parametrize(
    "opcode",
    [Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.CREATE, Opcode.SETXATTR],
)
def test_names_stay_as_they_are(answer: Answer, opcode: Opcode) -> None:
    assert answer(opcode, ROOT, bytes(100)) == -errno.EROFS


def test_the_kernel_copies_ranges_by_itself(answer: Answer) -> None:
    assert answer(Opcode.COPY_FILE_RANGE, answer.part, bytes(56)) == -errno.ENOSYS


def test_time_and_space_follow_what_is_written(answer: Answer) -> None:
    before = answer.tree.getattr(answer.disk0).node
    answer.fallocate(answer.disk0, 0, 65536 * 2, 3)
    after = answer.tree.getattr(answer.disk0).node
    assert after.mtime_ns > before.mtime_ns and after.allocated == before.allocated - 65536 * 2
    assert answer.tree.getattr(answer.part).node.mtime_ns == after.mtime_ns


def test_a_folder_has_no_contents(answer: Answer) -> None:
    assert not answer.tree.is_writable(ROOT)
    for call in (answer.tree.change, answer.tree.flush):
        with pytest.raises(IsADirectory):
            call(ROOT)
