"""What an overlay's note says of its original, and which changes of a file it shows.

Oracles: the kernel's times and sizes, and the programs that copy files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.blocks.fault import Fault
from mntapi.errors import Corrupt, NotFound, ReadFailed
from mntapi.images.formats import open_image
from mntapi.images.qcow2.create import MAX_NOTE
from mntapi.session.fingerprints import (
    HEAD,
    MAX_LISTED,
    TAIL,
    FileState,
    OpenedFiles,
    check_unchanged,
    pack,
    parse,
    served_states,
    state_from,
)
from mntapi.session.overlay import OriginalsOpener
from mntapi.session.witness import Witness
from mntapi.types import Blocks, DiskSpec, FileBlocks

SIZE = HEAD + TAIL + 100_000
SECOND = 10**9
TIME = 1_700_000_000 * SECOND + 123_456_789


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    os.utime(path, ns=(TIME, TIME))
    return path


def states(path: Path) -> list[tuple[str, FileState]]:
    """As a command has them that opened the disk."""
    opener = OriginalsOpener()
    image = open_image(DiskSpec(str(path)), opener)
    image.blocks.close()
    return list(opener.opened.states(str(path)))


class Served:
    """A file on a server: bytes, and what the server says of their state."""

    sector_size = 512

    def __init__(self, path: str, blocks: Blocks, version: str | None = None) -> None:
        self.path, self.size, self.version = path, blocks.size, version
        self.readinto, self.extents, self.close = blocks.readinto, blocks.extents, blocks.close


def served(file: FileBlocks) -> list[tuple[str, FileState]]:
    class Opening:
        def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
            return file

    witness = Witness(Opening())
    witness.open(file.path)
    return served_states(witness, file.path)


def note(path: Path) -> bytes:
    return pack([state for _, state in states(path)])


def write(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def at_its_time(path: Path, time_ns: int = TIME) -> None:
    os.utime(path, ns=(time_ns, time_ns))


def nothing(path: Path) -> None:
    assert path.stat().st_mtime_ns == TIME


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.with_name("elsewhere").rename(path)


def copied(*command: str) -> Callable[[Path], None]:
    def copy(path: Path) -> None:
        if not shutil.which(command[0]):
            pytest.skip(f"needs {command[0]}")
        subprocess.run([*command, path, path.with_name("copy")], check=True)
        path.with_name("copy").replace(path)

    return copy


def to_a_file_system_with_times_in(tick_ns: int) -> Callable[[Path], None]:
    return lambda path: at_its_time(path, TIME - TIME % tick_ns)


@pytest.mark.parametrize(
    "happens",
    [
        nothing,
        moved,
        copied("cp", "-p"),
        copied("rsync", "-a"),
        to_a_file_system_with_times_in(100),
        to_a_file_system_with_times_in(1000),
        to_a_file_system_with_times_in(SECOND),
        to_a_file_system_with_times_in(2 * SECOND),
        lambda path: path.chmod(0o400),
        lambda path: os.utime(path, ns=(1, TIME)),
    ],
)
def test_what_leaves_a_disk_as_it_is(disk: Path, happens: Callable[[Path], None]) -> None:
    before = note(disk)
    happens(disk)
    check_unchanged("ov", before, states(disk))


def test_back_from_a_coarse_file_system(disk: Path) -> None:
    at_its_time(disk, TIME - TIME % SECOND)
    before = note(disk)
    at_its_time(disk)
    check_unchanged("ov", before, states(disk))


def written(offset: int) -> Callable[[Path], None]:
    def write_it(path: Path) -> None:
        write(path, offset, b"!")
        at_its_time(path)

    return write_it


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (lambda path: write(path, HEAD + 50_000, b"!"), "time is another"),
        (lambda path: at_its_time(path, TIME + 1), "time is another"),
        (lambda path: at_its_time(path, TIME - TIME % SECOND + 1), "time is another"),
        (lambda path: at_its_time(path, -1 << 60), "time is another"),
        (written(5), "start or end"),
        (written(HEAD - 1), "start or end"),
        (written(SIZE - SIZE % 256 - TAIL), "start or end"),
        (written(SIZE - SIZE % 256 - 1), "start or end"),
        (lambda path: os.truncate(path, SIZE // 2), "size"),
        (written(SIZE), "size"),
        (lambda path: path.write_bytes(bytes(512)), "size"),
    ],
)
def test_what_changes_a_disk(disk: Path, happens: Callable[[Path], None], told: str) -> None:
    before = note(disk)
    happens(disk)
    with pytest.raises(Corrupt, match=told) as caught:
        check_unchanged("/the/overlay", before, states(disk))
    error = caught.value
    assert (error.path, error.reason) == (str(disk), "original-changed")
    assert "/the/overlay" in str(error) and "--ignore-cid" in (error.hint or "")
    assert error.expected != error.found


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """The child; its parent is a VMDK whose data lies in another file."""
    if not shutil.which("qemu-img"):
        pytest.skip("needs qemu-img (qemu-utils)")
    for arguments in (
        ("-f", "vmdk", "-o", "subformat=monolithicFlat", "base.vmdk", "1M"),
        ("-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", "child.qcow2"),
    ):
        subprocess.run(["qemu-img", "create", "-q", *arguments], cwd=tmp_path, check=True)
    return tmp_path / "child.qcow2"


def test_every_file_of_a_chain_counts(chain: Path) -> None:
    before = note(chain)
    names = ["child.qcow2", "base.vmdk", "base-flat.vmdk"]
    assert [Path(path).name for path, _ in states(chain)] == names == [state.name for state in parse(before) or ()]
    for name in names:
        status = chain.with_name(name).stat()
        at_its_time(chain.with_name(name), status.st_mtime_ns + SECOND)
        with pytest.raises(Corrupt) as caught:
            check_unchanged("ov", before, states(chain))
        assert caught.value.path == str(chain.with_name(name))
        at_its_time(chain.with_name(name), status.st_mtime_ns)
    check_unchanged("ov", before, states(chain))


def test_another_number_of_files(chain: Path) -> None:
    before = note(chain)
    with pytest.raises(Corrupt, match="number of files") as caught:
        check_unchanged("ov", before, states(chain.with_name("base.vmdk")))
    assert (caught.value.path, caught.value.expected) == ("ov", "child.qcow2, base.vmdk, base-flat.vmdk")


def test_two_disks_on_one_base(chain: Path) -> None:
    """What is noted of one does not depend on which other was opened before it."""
    alone = states(chain)
    opener = OriginalsOpener()
    for name in ("base.vmdk", "child.qcow2"):
        open_image(DiskSpec(str(chain.with_name(name))), opener).blocks.close()
    assert list(opener.opened.states(str(chain))) == alone


def test_a_file_that_is_gone_or_replaced(disk: Path) -> None:
    opener = OriginalsOpener()
    open_image(DiskSpec(str(disk)), opener).blocks.close()
    disk.with_name("new").write_bytes(disk.read_bytes())
    disk.with_name("new").replace(disk)
    with pytest.raises(Corrupt, match="replaced"):
        list(opener.opened.states(str(disk)))
    disk.unlink()
    with pytest.raises(NotFound):
        list(opener.opened.states(str(disk)))
    assert list(opener.opened.states("never opened")) == []


def test_files_that_name_each_other(disk: Path) -> None:
    opened = OpenedFiles()
    with closing(HostFile.open(str(disk))) as file:
        opened.add(file, None)
        opened.add(file, str(disk))
    assert len(list(opened.states(str(disk)))) == 1


def test_a_bad_sector_keeps_nobody_from_the_rest(disk: Path) -> None:
    with closing(HostFile.open(str(disk))) as file:
        [(url, state)] = served(Served("nbd://server/disk", file))
        assert url == "nbd://server/disk"
        assert state == FileState("nbd://server/disk", file.size, None, states(disk)[0][1].ends)
        [(_, unread)] = served(Served("nbd://server/disk", Fault(file, bad=[(5, 1)])))
        assert unread == state._replace(ends=None)
    for before, now in ((state, unread), (unread, state)):
        check_unchanged("ov", pack([before]), [("x", now)])
    with pytest.raises(Corrupt):
        check_unchanged("ov", pack([unread._replace(size=1)]), [("x", state)])


def test_what_a_web_server_says_of_a_file(disk: Path) -> None:
    """A file that was written in the middle is as long as before, and has the same ends."""
    with closing(HostFile.open(str(disk))) as file:
        before, same, after, silent = (served(Served("http://h/d", file, one)) for one in ("v1", "v1", "v2", None))
    note = pack([state for _, state in before])
    check_unchanged("ov", note, same)
    check_unchanged("ov", note, silent)
    with pytest.raises(Corrupt, match="another ETag or date") as caught:
        check_unchanged("ov", note, after)
    assert caught.value.expected != caught.value.found


@pytest.mark.parametrize("count", [0, 1, MAX_LISTED, MAX_LISTED + 1, 8192])
def test_a_note_has_one_length(count: int) -> None:
    """So that it can be written again in its place, whatever the files are called."""
    found = [FileState("\U0001f4be" * 40, 1 << 62, 1 << 62, "f" * 32, "f" * 16) for _ in range(count)]
    assert len(pack(found)) == MAX_NOTE
    assert len(parse(pack(found)) or ()) == min(count, MAX_LISTED + 1)


def test_the_last_of_many_files_counts() -> None:
    found = [(f"/d/{number}", FileState(str(number), 5, TIME, None)) for number in range(500)]
    before = pack([state for _, state in found])
    check_unchanged("ov", before, found)
    found[-1] = found[-1][0], found[-1][1]._replace(mtime_ns=TIME + SECOND)
    with pytest.raises(Corrupt, match="other bytes") as caught:
        check_unchanged("ov", before, found)
    assert caught.value.path == "ov"


def test_a_long_name_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 100}-flat.vmdk"
    path.write_bytes(bytes(512))
    [(_, state)] = states(path)
    assert state.name.endswith("n-flat.vmdk") and len(state.name) == 40


def hostile() -> Iterator[bytes]:
    yield from (b"", b" " * MAX_NOTE, b"\0" * MAX_NOTE, b"{}", b"[" * MAX_NOTE, b"[1]", b'[["a", 1, 2]]', b"\xff", b"[[]]")
    for state in (["a", "b", None, None], ["a", 1.5, None, None], [1, 1, None, None], ["a", 1, "b", None], ["a", 1, 2, 3]):
        yield json.dumps([[*state, None]]).encode()
    yield json.dumps([["a", 1, 2, "3"]]).encode()
    yield json.dumps([["a", 1, 2, "3", 4]]).encode()
    yield b"[[" + b"9" * 5000 + b"]]"


@pytest.mark.parametrize("content", list(hostile()))
def test_a_note_that_says_nothing(disk: Path, content: bytes) -> None:
    assert parse(content) is None
    with pytest.raises(Corrupt, match="does not say") as caught:
        check_unchanged("ov", content, states(disk))
    assert caught.value.path == "ov" and "--ignore-cid" in (caught.value.hint or "")


def test_any_flipped_bit_is_another_note_or_none(disk: Path) -> None:
    before = note(disk)
    end = len(before.rstrip())
    for at in range(end):
        spoilt = parse(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        assert spoilt is None or spoilt != parse(before)


def test_what_is_no_state() -> None:
    with pytest.raises(Corrupt):
        state_from(["name", -0.5, None, None])


def test_a_time_that_no_calendar_has(disk: Path) -> None:
    before = pack([states(disk)[0][1]._replace(mtime_ns=1 << 90)])
    with pytest.raises(Corrupt, match="@1237940039285380274") as caught:
        check_unchanged("ov", before, states(disk))
    assert not isinstance(caught.value, ReadFailed)
