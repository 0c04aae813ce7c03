"""What The Sleuth Kit could answer and must not be believed, from a stand-in for it; and its errors turned into ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mntapi.blocks import Zero, read
from mntapi.errors import Corrupt, ReadFailed, Unsupported
from mntapi.filesystems.runs import Memory
from mntapi.filesystems.tsk.exfat import valid_length
from mntapi.filesystems.tsk.rockridge import has_rock_ridge
from mntapi.types import FileKind, Node

pytsk3 = pytest.importorskip("pytsk3")

from mntapi.filesystems.tsk.filesystem import TskFileSystem  # noqa: E402 (only where pytsk3 is)
from mntapi.filesystems.tsk.image import Session  # noqa: E402

NONRESIDENT = int(pytsk3.TSK_FS_ATTR_NONRES)


class Meta(SimpleNamespace):
    """An inode as pytsk3 shows it."""

    def __init__(self, **changed: Any) -> None:
        times = {f"{name}{part}": 0 for name in ("mtime", "atime", "ctime", "crtime") for part in ("", "_nano")}
        values = {
            "type": pytsk3.TSK_FS_META_TYPE_DIR,
            "flags": 1,
            "size": 0,
            "mode": 0,
            "uid": 0,
            "gid": 0,
            "nlink": 1,
            "link": None,
            "addr": 2,
        }
        super().__init__(**{**times, **values, **changed})


class Sleuth:
    """Stands in for ``Session``."""

    def __init__(self, metas: dict[int, Meta], attributes: list[Any] | None = None, entries: list[Any] | None = None) -> None:
        self.metas = metas
        self._attributes = attributes or []
        info = SimpleNamespace(block_size=512, root_inum=2, first_inum=0, last_inum=99, block_count=8)
        self.fs = SimpleNamespace(info=info, open_dir=lambda inode: entries or [])

    def call(self, function: Any, *args: Any, **named: Any) -> Any:
        return function(*args, **named)

    def file(self, inode: int) -> Any:
        return SimpleNamespace(
            info=SimpleNamespace(meta=self.metas.get(inode)), read_random=lambda at, length, *_: b"x" * min(length, 5)
        )

    def attributes(self, file: Any) -> list[Any]:
        return self._attributes


class Attribute(list[Any]):
    def __init__(self, flags: int, *runs: Any, size: int = 600) -> None:
        super().__init__(runs)
        self.info = SimpleNamespace(type=pytsk3.TSK_FS_ATTR_TYPE_DEFAULT, id=0, flags=flags, size=size)


def opened(sleuth: Sleuth, kind: str = "hfsplus") -> TskFileSystem:
    return TskFileSystem(Zero(4096), sleuth, kind)  # type: ignore[arg-type]


def a_file(**changed: Any) -> Meta:
    return Meta(type=pytsk3.TSK_FS_META_TYPE_REG, size=600, **changed)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (Meta(flags=2), "not in use"),
        (None, "not in use"),
        (Meta(type=pytsk3.TSK_FS_META_TYPE_WHT), "unknown type"),
        (Meta(size=-1), "impossible"),
    ],
)
def test_inodes_that_are_refused(meta: Meta, message: str) -> None:
    fs = opened(Sleuth({2: Meta(), 7: meta}))
    with pytest.raises(Corrupt, match=message):
        fs.node(7)


def test_roots_and_folders_that_are_refused() -> None:
    with pytest.raises(Corrupt, match="no folder"):
        opened(Sleuth({2: a_file()}))
    fs = opened(Sleuth({2: Meta(size=8192)}))
    with pytest.raises(Corrupt, match="larger than its volume"):
        list(fs.scan(fs.root))


def test_names_it_made_the_same_are_told_apart() -> None:
    def entry(name: bytes, inode: int, kind: Any = pytsk3.TSK_FS_NAME_TYPE_REG, flags: int = 1) -> Any:
        return SimpleNamespace(info=SimpleNamespace(name=SimpleNamespace(name=name, meta_addr=inode, type=kind, flags=flags)))

    entries = [entry(b"^", 5), entry(b"^", 6), entry(b".", 2), entry(b"..", 2), entry(b"gone", 7, flags=2)]
    entries.append(entry(b"$MBR", 8, pytsk3.TSK_FS_NAME_TYPE_VIRT))
    fs = opened(Sleuth({2: Meta(), 5: a_file(), 6: a_file()}, entries=entries), "iso9660")
    assert [(name, node.inode) for name, node in fs.scan(fs.root)] == [("^", 5), ("^~6", 6)]


def run(offset: int, length: int, flags: int = 0) -> Any:
    return SimpleNamespace(offset=offset, len=length, addr=1, flags=flags)


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ([], Corrupt, "no data"),
        ([Attribute(NONRESIDENT | int(pytsk3.TSK_FS_ATTR_ENC))], Unsupported, "encrypted"),
        ([Attribute(NONRESIDENT, run(0, 1), run(2, 1))], Corrupt, "run of the file is missing"),
        ([Attribute(NONRESIDENT, run(0, 2, int(pytsk3.TSK_FS_ATTR_RUN_FLAG_FILLER)))], Corrupt, "run of the file is missing"),
        ([Attribute(NONRESIDENT, run(0, 1))], Corrupt, "end before"),
        ([Attribute(int(pytsk3.TSK_FS_ATTR_COMP), size=599)], Corrupt, "shorter than its file"),
    ],
)
def test_contents_that_are_refused(attributes: list[Any], error: type[Exception], message: str) -> None:
    fs = opened(Sleuth({2: Meta(), 7: a_file()}, attributes))
    with pytest.raises(error, match=message):
        fs.open(fs.node(7))


def test_short_answers_are_errors() -> None:
    fs = opened(Sleuth({2: Meta(), 7: a_file()}, [Attribute(int(pytsk3.TSK_FS_ATTR_COMP))]))
    content = fs.open(fs.node(7))
    assert read(content, 0, 5) == b"xxxxx"
    assert [extent.length for extent in content.extents(10, 20)] == [20]
    with pytest.raises(Corrupt, match="ends too early"):
        read(content, 0, 600)
    content.close()


def test_links_without_a_target() -> None:
    fs = opened(Sleuth({2: Meta(), 7: Meta(type=pytsk3.TSK_FS_META_TYPE_LNK)}))
    with pytest.raises(Corrupt, match="target"):
        fs.readlink(fs.node(7))


def test_empty_files_have_no_attributes() -> None:
    fs = opened(Sleuth({2: Meta(), 7: Meta(type=pytsk3.TSK_FS_META_TYPE_REG)}))
    assert fs.open(Node(7, FileKind.FILE, 0)).size == 0


class _Session(Session):
    """The real one without a file system."""

    def __init__(self, volume: Any) -> None:
        from threading import RLock

        from mntapi.filesystems.tsk.image import _Image

        self._lock = RLock()
        self._image = _Image(volume)


class Broken(Zero):
    """Every read fails."""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        raise ReadFailed("bad sector", offset=offset)


@pytest.mark.parametrize("outcome", ["value", "stop", "error"])
def test_no_answer_is_believed_during_which_a_read_failed(outcome: str) -> None:
    session = _Session(Broken(1 << 20))

    def answer() -> str:
        assert session._image.read(4096, 512) == b""
        if outcome == "stop":
            raise StopIteration
        if outcome == "error":
            raise OSError("General file system error")
        return "as if nothing had happened"

    with pytest.raises(ReadFailed) as raised:
        session.call(answer)
    assert raised.value.offset == 4096


def test_a_read_that_succeeds_again_is_forgiven() -> None:
    session = _Session(Zero(1 << 20))

    def answer() -> int:
        session._image.error, session._image._failed = ReadFailed("bad sector"), (0, 65536)
        return len(session._image.read(512, 512))

    assert session.call(answer) == 512


def test_what_it_does_not_support_is_said() -> None:
    def answer() -> None:
        raise OSError("FS_Info_Con: (tsk3.cpp:207) Unsupported feature: BDE")

    with pytest.raises(Unsupported, match=r"^Unsupported feature: BDE$"):
        _Session(Zero(512)).call(answer)


def test_exfat_entries_outside_the_volume() -> None:
    with pytest.raises(Corrupt, match="outside the volume"):
        valid_length(Memory(bytes(88) + b"\xff" * 4 + bytes(16) + b"\x09\x03" + bytes(400)), 10, 5)


def test_no_iso_no_rock_ridge() -> None:
    assert not has_rock_ridge(Zero(1 << 20))
    assert not has_rock_ridge(Zero(100))
