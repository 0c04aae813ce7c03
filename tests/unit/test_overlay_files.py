"""Both sides of how a worker gets the files of overlays, without a worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mntapi.blocks import HostFile
from mntapi.errors import Corrupt, Denied, Failed, Invalid, NotFound, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.kernel.storage import punch_hole
from mntapi.session.channel import Channel
from mntapi.session.diskset import open_disks
from mntapi.session.launch import Worker
from mntapi.session.overlay import (
    MAX_DISKS,
    OriginalsOpener,
    OverlayFiles,
    closed_overlay,
    overlay_info,
    overlays_from,
    overlays_in_memory,
    volume_blocks,
    why_read_only,
    with_overlays,
)
from mntapi.types import DiskSpec, OpenOptions, Volume, WritableBlocks


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = map(Channel, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(200_000))
    return path


def ask(ends: tuple[Channel, Channel], files: OverlayFiles, disk: Path, *, index: int = 0, count: int = 1) -> WritableBlocks:
    """An overlay as a worker gets it, the other side answering in a thread."""
    originals = OriginalsOpener()
    image = open_image(DiskSpec(str(disk)), originals)

    def answer() -> None:
        message, _ = ends[0].receive()
        files.answer(ends[0], message, originals)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        return overlays_from(ends[1], count)(index, image)
    except BaseException:
        image.blocks.close()
        raise
    finally:
        thread.join()


def test_made_then_gone_on_with(ends: tuple[Channel, Channel], disk: Path) -> None:
    path = disk.with_name("o")
    for content in (b"first", b"then"):
        overlay = ask(ends, OverlayFiles(str(path)), disk)
        overlay.write(len(content), memoryview(content))
        overlay.close()
    assert overlay_info(str(path)).original == "disk.raw"
    with closed_overlay(str(path)) as info:
        assert not info.in_use and info.size == 200_192


def test_names_of_several(ends: tuple[Channel, Channel], disk: Path) -> None:
    files = OverlayFiles(str(disk.with_name("o")))
    ask(ends, files, disk, index=1, count=2).close()
    assert files.paths == [str(disk.with_name("o.disk1"))]
    files.take_back()
    assert not disk.with_name("o.disk1").exists()
    files.take_back()


def test_what_was_put_in_the_place_of_our_file_is_left_alone(ends: tuple[Channel, Channel], disk: Path) -> None:
    files, path = OverlayFiles(str(disk.with_name("o"))), disk.with_name("o")
    ask(ends, files, disk).close()
    path.rename(path.with_name("moved"))
    path.write_text("somebody else's")
    files.take_back()
    assert path.exists()
    path.unlink()
    files.take_back()


@pytest.mark.parametrize(("index", "count"), [(-1, 1), (1, 1), (0, MAX_DISKS + 1), ("0", 1), (None, None)])
def test_disks_there_cannot_be(ends: tuple[Channel, Channel], disk: Path, index: int, count: int) -> None:
    with pytest.raises(Corrupt, match="there cannot be"):
        ask(ends, OverlayFiles(str(disk.with_name("o"))), disk, index=index, count=count)
    assert not disk.with_name("o").exists()


def test_files_that_are_not_ours(ends: tuple[Channel, Channel], disk: Path, tmp_path: Path) -> None:
    os.link(disk, tmp_path / "hard")
    (tmp_path / "text").write_text("x")
    (tmp_path / "link").symlink_to(disk)
    for name in ("hard", "text", "link", "disk.raw"):
        with pytest.raises(Denied, match="never written"):
            ask(ends, OverlayFiles(str(tmp_path / name)), disk)
    with pytest.raises(NotFound):
        ask(ends, OverlayFiles(str(tmp_path / "absent/o")), disk)
    with pytest.raises(Unsupported):
        ask(ends, OverlayFiles(str(tmp_path)), disk)
    for call in (lambda: overlay_info(str(disk)), lambda: closed_overlay(str(disk)).__enter__()):
        with pytest.raises(Invalid, match="no overlay"):
            call()


def test_an_overlay_that_may_not_be_written(ends: tuple[Channel, Channel], disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = disk.with_name("o"), os.open
    path.touch()

    def refuse(name: str, flags: int, *more: int) -> int:
        if str(name).startswith("/proc/self/fd/"):
            raise PermissionError(13, "no")
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Denied):
        ask(ends, OverlayFiles(str(path)), disk)


def test_a_promise_that_is_not_kept(ends: tuple[Channel, Channel], disk: Path) -> None:
    image = open_image(DiskSpec(str(disk)), DirectOpener())
    ends[0].send({"op": "overlay", "path": "x", "is_new": True})
    with pytest.raises(Corrupt, match="did not come"):
        overlays_from(ends[1], 1)(0, image)
    image.blocks.close()


def test_a_failed_overlay_closes_the_set(disk: Path) -> None:
    disk_set = open_disks(str(disk))

    def fails(_index: int, _image: object) -> WritableBlocks:
        raise Failed("no place to write")

    with pytest.raises(Failed):
        with_overlays(disk_set, fails)
    with pytest.raises(Invalid, match="closed"):
        disk_set.disks[0].blocks.readinto(0, memoryview(bytearray(1)))


def test_volumes_that_lie_on_no_overlay_are_not_written(disk: Path) -> None:
    with with_overlays(open_disks(str(disk)), overlays_in_memory()) as disk_set, closing(HostFile.open(str(disk))) as inner:
        [whole] = disk_set.volumes
        assert isinstance(volume_blocks(whole), WritableBlocks) and why_read_only(whole) is None
        for volume in (
            Volume("id", "lv", "logical", inner),
            Volume("id", "odd", "partition", inner, disk=0, offset=0),
        ):
            assert volume_blocks(volume) is inner
            assert "no writer" in str(why_read_only(volume))


def worker_that_asks(tmp_path: Path) -> Worker:
    program = (
        "import socket, sys; from mntapi.session.channel import Channel;"
        "channel = Channel(socket.socket(fileno=int(sys.argv[1]))); channel.receive();"
        "channel.send({'op': 'overlay', 'disk': 0, 'of': 1}); channel.receive()"
    )
    return Worker.start([sys.executable, "-c", program], tmp_path / "log")


def test_a_worker_of_a_read_only_set_gets_nothing_to_write(disk: Path, tmp_path: Path) -> None:
    worker = worker_that_asks(tmp_path)
    try:
        with pytest.raises(Corrupt, match="nothing is to be written"):
            worker.open([DiskSpec(str(disk))], OpenOptions(), "kernel")
    finally:
        worker.close()
        worker.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "log"]


def test_holes_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        used = path.stat().st_blocks
        punch_hole(file.fileno(), 65536, 1 << 19)
        assert path.stat().st_blocks < used and path.stat().st_size == 1 << 20
    assert path.read_bytes() == b"x" * 65536 + bytes(1 << 19) + b"x" * ((1 << 20) - 65536 - (1 << 19))
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        punch_hole(file.fileno(), 0, 1)


@pytest.mark.parametrize("as_root", [True, False])
def test_io_flusher(as_root: bool) -> None:
    """In a process of its own: the flag cannot be seen from here, and stays."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    program = (
        "import ctypes, os, sys; from mntapi.kernel.storage import become_io_flusher;"
        f"{'' if as_root else 'os.setresuid(65534, 65534, 65534);'}"
        "took = become_io_flusher(); print(took, ctypes.CDLL(None).prctl(58, 0, 0, 0, 0))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert said == (["True", "1"] if as_root and _may_ask() else ["False", "-1"])


def _may_ask() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, which a container takes from root."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) & 1 << 24)
