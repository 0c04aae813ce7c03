"""Requests in, replies out, without a kernel."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Iterator, Sequence

import pytest

from contract.memory_filesystem import Memory, MemoryFileSystem
from mntapi.blocks import Concat, Zero
from mntapi.errors import Busy, Corrupt, MntapiError
from mntapi.types import Blocks
from mntapi_fuse import handles, protocol
from mntapi_fuse.dispatch import NO_REPLY, Dispatcher
from mntapi_fuse.handles import Files
from mntapi_fuse.operations import ROOT, DirEntry, errno_of
from mntapi_fuse.protocol import Feature, Opcode
from mntapi_fuse.treefs import TreeFs

CONTENT = {"file": b"0123456789" * 1000, "folder": {"inner": b"i"}, "link": "target", **{f"n{i}": b"" for i in range(500)}}


class Answer:
    """A dispatcher and the buffer of its replies."""

    def __init__(self, operations: object = None) -> None:
        self.dispatcher = Dispatcher(operations or TreeFs(MemoryFileSystem(CONTENT)))  # type: ignore[arg-type]
        self.buffer = memoryview(bytearray(protocol.MAX_READ))

    def __call__(self, opcode: int, node: int = ROOT, body: bytes = b"") -> bytes | int:
        header = protocol.HEADER.pack(protocol.HEADER.size + len(body), opcode, 1, node, 0, 0, 0, 0, 0)
        size = self.dispatcher.answer(opcode, node, memoryview(header + body), self.buffer)
        return bytes(self.buffer[:size]) if size >= 0 else size

    def bytes(self, opcode: int, node: int = ROOT, body: bytes = b"") -> bytes:
        answer = self(opcode, node, body)
        assert isinstance(answer, bytes), os.strerror(-answer)
        return answer

    def number(self, name: bytes, parent: int = ROOT) -> int:
        return int(protocol.ENTRY_OUT.unpack(self.bytes(Opcode.LOOKUP, parent, name + b"\0"))[0])

    def open(self, node: int) -> int:
        return int(protocol.OPEN_OUT.unpack(self.bytes(Opcode.OPEN, node, struct.pack("=II", os.O_RDONLY, 0)))[0])


def read_in(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


def names(answer: bytes, layout: struct.Struct = protocol.DIRENTPLUS) -> list[tuple[bytes, int]]:
    """Name and position of each entry of a reply."""
    found, at = [], 0
    while at < len(answer):
        *_, position, length, _kind = layout.unpack_from(answer, at)
        at += layout.size
        found.append((answer[at : at + length], position))
        at += (length + 7) // 8 * 8
    return found


WRITING = (
    Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2,
    Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.TMPFILE, Opcode.FALLOCATE,
    Opcode.COPY_FILE_RANGE,
)  # fmt: skip


@pytest.mark.parametrize("opcode", WRITING)
def test_nothing_writes(opcode: Opcode) -> None:
    assert Answer()(opcode, body=bytes(100)) == -errno.EROFS


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
def test_opening_for_writing_is_refused(flags: int) -> None:
    answer = Answer()
    assert answer(Opcode.OPEN, answer.number(b"file"), struct.pack("=II", flags, 0)) == -errno.EROFS


@pytest.mark.parametrize("opcode", [Opcode.FLUSH, Opcode.FSYNC, Opcode.ACCESS, Opcode.POLL, Opcode.BMAP, 999, 4096, 0])
def test_what_is_not_spoken_is_enosys(opcode: int) -> None:
    assert Answer()(opcode, body=bytes(100)) == -errno.ENOSYS


def test_ioctl_is_not_for_us() -> None:
    assert Answer()(Opcode.IOCTL, body=bytes(100)) == -errno.ENOTTY


def test_no_answer_is_given_to_those_who_wait_for_none() -> None:
    assert {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY} == NO_REPLY


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.READ, Opcode.READDIRPLUS, Opcode.LSEEK, Opcode.RELEASE])
def test_a_request_cut_short_is_an_input_error(opcode: Opcode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert Answer()(opcode, body=b"\1\2\3") == -errno.EIO
    assert "unexpected error" in caplog.text


def test_errors_of_ours_keep_their_errno_and_others_become_eio() -> None:
    class Odd(MntapiError):
        errno = 600  # the kernel would not take it, and its reader wait for ever

    assert errno_of(Corrupt("x"), "") == errno.EIO
    assert errno_of(Busy("x"), "") == errno.EBUSY
    assert errno_of(Odd("x"), "") == errno.EIO
    assert errno_of(FileNotFoundError(errno.ENOENT, "x"), "") == errno.EIO


def test_lookup_knows_names_and_remembers_absent_ones() -> None:
    answer = Answer()
    assert answer.number(b"file") > ROOT
    assert answer.number(b"absent") == 0
    assert answer(Opcode.LOOKUP, answer.number(b"file"), b"below\0") == -errno.ENOTDIR
    assert answer.number(b".", answer.number(b"folder")) == answer.number(b"folder")


def test_init_and_opendir() -> None:
    answer = Answer()
    before = protocol.OPEN_OUT.unpack(answer.bytes(Opcode.OPENDIR, body=bytes(8)))  # a connection taken over
    assert before == (0, protocol.OPEN_KEEP_CACHE | protocol.OPEN_CACHE_DIR)
    init = struct.pack("=IIIII44x", 7, 45, 131072, Feature.NO_OPENDIR_SUPPORT, 0)
    assert len(answer.bytes(Opcode.INIT, 0, init)) == protocol.INIT_OUT.size
    assert answer(Opcode.OPENDIR, body=bytes(8)) == -errno.ENOSYS
    assert answer.bytes(Opcode.RELEASEDIR, body=bytes(24)) == answer.bytes(Opcode.DESTROY) == b""
    assert answer(Opcode.INIT, 0, struct.pack("=IIII", 7, 12, 0, 0)) == -errno.EOPNOTSUPP


def test_reading_ends_where_the_file_does() -> None:
    answer = Answer()
    node = answer.number(b"file")
    handle = answer.open(node)
    for offset, size, expected in (
        (0, 10, b"0123456789"),
        (9_995, 4096, b"56789"),
        (10_000, 1, b""),
        (1 << 62, 9, b""),
        (3, 0, b""),
    ):
        assert answer.bytes(Opcode.READ, node, read_in(handle, offset, size)) == expected
    assert answer.bytes(Opcode.READ, node, read_in(handle, 0, 1 << 31)) == CONTENT["file"]
    answer.bytes(Opcode.RELEASE, node, struct.pack("=QIIQ", handle, 0, 0, 0))


def test_a_handle_of_a_worker_before_this_one_is_opened_again() -> None:
    answer = Answer()
    node = answer.number(b"file")
    assert answer.bytes(Opcode.READ, node, read_in(42, 0, 4)) == b"0123"
    assert answer.bytes(Opcode.LSEEK, node, struct.pack("=QQII", 43, 0, os.SEEK_DATA, 0)) == struct.pack("=Q", 0)
    answer.bytes(Opcode.RELEASE, node, struct.pack("=QIIQ", 42, 0, 0, 0))
    answer.bytes(Opcode.RELEASE, node, struct.pack("=QIIQ", 4444, 0, 0, 0))


def test_holes() -> None:
    file = Concat([Memory(b"x" * 100), Zero(50), Memory(b"y" * 10), Zero(20)])

    class Holes(TreeFs):
        def open(self, node: int) -> Blocks:
            return file

    answer = Answer(Holes(MemoryFileSystem(CONTENT)))
    node = answer.number(b"file")

    def seek(offset: int, whence: int) -> int:
        result = answer(Opcode.LSEEK, node, struct.pack("=QQII", 1, offset, whence, 0))
        return int(struct.unpack("=Q", result)[0]) if isinstance(result, bytes) else result

    assert [seek(at, os.SEEK_DATA) for at in (0, 99, 100, 149, 155)] == [0, 99, 150, 150, 155]
    assert [seek(at, os.SEEK_HOLE) for at in (0, 99, 100, 149, 155, 179)] == [100, 100, 100, 149, 160, 179]
    assert [seek(at, os.SEEK_DATA) for at in (160, 180, 1 << 60)] == [-errno.ENXIO] * 3
    assert seek(180, os.SEEK_HOLE) == -errno.ENXIO and seek(0, os.SEEK_CUR) == -errno.EINVAL


def test_without_holes_the_end_is_one() -> None:
    answer = Answer()
    node = answer.number(b"file")
    assert answer.bytes(Opcode.LSEEK, node, struct.pack("=QQII", 1, 5, os.SEEK_HOLE, 0)) == struct.pack("=Q", 10_000)


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
@pytest.mark.parametrize("room", [200, 400, 4096, 1 << 20])
def test_a_folder_comes_in_pieces(opcode: Opcode, room: int) -> None:
    answer = Answer()
    layout = protocol.DIRENT if opcode == Opcode.READDIR else protocol.DIRENTPLUS
    found: list[tuple[bytes, int]] = []
    while piece := names(answer.bytes(opcode, ROOT, read_in(0, found[-1][1] if found else 0, room)), layout):
        found += piece
    assert [name for name, _ in found] == [b".", b"..", *map(os.fsencode, CONTENT)]
    assert [position for _, position in found] == list(range(1, len(CONTENT) + 3))


def test_a_folder_goes_on_from_any_place() -> None:
    answer = Answer()
    everything = names(answer.bytes(Opcode.READDIRPLUS, ROOT, read_in(0, 0, 1 << 20)))
    for position in (400, 1, 2, 3, 399, 0, 501, 17):
        assert (
            names(answer.bytes(Opcode.READDIRPLUS, ROOT, read_in(0, position, 4096)))[:3] == everything[position : position + 3]
        )
    assert answer.bytes(Opcode.READDIRPLUS, ROOT, read_in(0, 1 << 40, 4096)) == b""
    assert answer.bytes(Opcode.READDIRPLUS, ROOT, read_in(0, 5, 10)) == b""


def test_a_folder_that_ends_in_an_error_says_so_each_time() -> None:
    content = {"a": b"", "b": b"", "<unreadable>": b"", "c": b""}
    answer = Answer(TreeFs(MemoryFileSystem(content)))
    for _ in range(2):
        first = names(answer.bytes(Opcode.READDIRPLUS, ROOT, read_in(0, 0, 4096)))
        assert [name for name, _ in first] == [b".", b"..", b"a", b"b"]
        assert answer(Opcode.READDIRPLUS, ROOT, read_in(0, first[-1][1], 4096)) == -errno.EIO
    assert answer(Opcode.READDIRPLUS, answer.number(b"a"), read_in(0, 2, 4096)) == -errno.ENOTDIR


def test_an_unexpected_error_in_a_folder_does_not_end_it() -> None:
    class Broken(TreeFs):
        def readdir(self, node: int) -> Iterator[DirEntry]:
            yield from list(super().readdir(node))[:3]
            raise ZeroDivisionError

    answer = Answer(Broken(MemoryFileSystem(CONTENT)))
    for _ in range(2):
        assert answer(Opcode.READDIR, ROOT, read_in(0, 0, 4096)) == -errno.EIO


class Attributed(TreeFs):
    def __init__(self, *, has_xattrs: bool = True) -> None:
        super().__init__(MemoryFileSystem(CONTENT))
        self.has_xattrs = has_xattrs

    def getxattr(self, node: int, name: bytes) -> bytes:
        return {b"user.a": b"value", b"user.huge": bytes(70_000)}.get(name) or super().getxattr(node, name)

    def listxattr(self, node: int) -> Sequence[bytes]:
        return [b"user.a", b"user.huge"]


def test_extended_attributes() -> None:
    answer = Answer(Attributed())

    def get(name: bytes, room: int) -> bytes | int:
        return answer(Opcode.GETXATTR, ROOT, struct.pack("=II", room, 0) + name + b"\0")

    assert get(b"user.a", 0) == struct.pack("=II", 5, 0)
    assert get(b"user.a", 5) == b"value" and get(b"user.a", 4) == -errno.ERANGE
    assert get(b"user.huge", 1 << 20) == get(b"user.huge", 0) == -errno.E2BIG
    assert get(b"user.none", 0) == -errno.ENODATA
    assert answer(Opcode.LISTXATTR, ROOT, struct.pack("=II", 0, 0)) == struct.pack("=II", 17, 0)
    assert answer(Opcode.LISTXATTR, ROOT, struct.pack("=II", 17, 0)) == b"user.a\0user.huge\0"
    assert answer(Opcode.LISTXATTR, ROOT, struct.pack("=II", 16, 0)) == -errno.ERANGE


def test_a_tree_without_attributes_is_never_asked_again() -> None:
    answer = Answer(Attributed(has_xattrs=False))
    assert answer(Opcode.GETXATTR, ROOT, struct.pack("=II", 9, 0) + b"user.a\0") == -errno.ENOSYS
    assert answer(Opcode.LISTXATTR, ROOT, struct.pack("=II", 9, 0)) == -errno.ENOSYS


def test_links_and_file_system() -> None:
    answer = Answer()
    assert answer.bytes(Opcode.READLINK, answer.number(b"link")) == b"target"
    assert answer.bytes(Opcode.STATFS)[:8] == struct.pack("=Q", (1 << 20) // 4096)
    assert len(answer.bytes(Opcode.GETATTR, body=bytes(16))) == protocol.ATTR_OUT.size
    assert len(answer.bytes(Opcode.STATX, body=bytes(24))) == protocol.STATX_OUT.size


def test_a_target_that_the_kernel_would_refuse() -> None:
    class Long(TreeFs):
        def readlink(self, node: int) -> bytes:
            return b"x" * 4096

    assert Answer(Long(MemoryFileSystem(CONTENT)))(Opcode.READLINK) == -errno.ENAMETOOLONG


def test_open_files_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MAX_FILES", 3)
    opened: list[Memory] = []

    def open_node(node: int) -> Blocks:
        opened.append(Memory(b"x"))
        return opened[-1]

    files = Files(open_node)
    numbers = {files.open(1) for _ in range(3)}
    assert len(numbers) == 3
    with pytest.raises(Busy):
        files.open(1)
    kept = files.adopt(1, 77)
    assert files.adopt(1, 77) is kept and opened[-1]._content == b""  # the loser of a race is closed
    files.close()
    assert all(one._content == b"" for one in opened)


def test_passes_over_folders_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def read(node: int) -> Iterator[DirEntry]:
        started.append(node)
        filesystem = TreeFs(MemoryFileSystem({"a": b"", "b": b"", "c": b""}))
        return filesystem.readdir(ROOT)

    listings = handles.Listings(read)
    one = [0]

    def put(entry: DirEntry, following: int) -> bool:
        one[0] -= 1
        return one[0] >= 0

    for node in range(handles.MAX_LISTINGS + 1):
        one[0] = 1
        listings.fill(node, 0, put)
    assert len(listings._idle) == handles.MAX_LISTINGS
    started.clear()
    for node in (handles.MAX_LISTINGS, 0):
        one[0] = 1
        listings.fill(node, 1, put)
    assert started == [0]  # the oldest had been forgotten
