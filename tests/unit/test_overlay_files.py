"""Both sides of how a worker gets the files of overlays, without a worker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from contract.make_disk import need, run
from mntapi.blocks import HostFile
from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, NotFound, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2.create import create_overlay
from mntapi.kernel.storage import punch_hole
from mntapi.session.channel import Channel
from mntapi.session.diskset import open_disks
from mntapi.session.launch import Worker
from mntapi.session.originals import STATE_DIR_VARIABLE, opener_of
from mntapi.session.overlay import (
    MAX_DISKS,
    OriginalsOpener,
    OverlayFiles,
    overlays_from,
    overlays_in_memory,
    volume_blocks,
    why_read_only,
    with_overlays,
)
from mntapi.session.overlay_file import closed_overlay, overlay_info
from mntapi.session.witness import Witness
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


def ask(
    ends: tuple[Channel, Channel],
    files: OverlayFiles,
    disk: Path,
    *,
    index: int = 0,
    count: int = 1,
    options: OpenOptions | None = None,
) -> WritableBlocks:
    """An overlay as a worker gets it, the other side answering in a thread."""
    originals = OriginalsOpener(options)
    witness = Witness(originals)
    image = open_image(DiskSpec(str(disk)), witness)

    def answer() -> None:
        message, _ = ends[0].receive()
        files.answer(ends[0], message, originals)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        return overlays_from(ends[1], count, witness)(index, image)
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


def test_an_original_that_changed(ends: tuple[Channel, Channel], disk: Path) -> None:
    """Refused; taken when told to, once said, and then known in its new state."""
    path = disk.with_name("o")
    ask(ends, OverlayFiles(str(path)), disk).close()
    for _ in range(2):
        os.utime(disk, ns=(0, disk.stat().st_mtime_ns + 10**9))
        before = path.read_bytes()
        files = OverlayFiles(str(path))
        with pytest.raises(Corrupt, match="time is another") as caught:
            ask(ends, files, disk)
        assert (caught.value.path, caught.value.reason) == (str(disk), "original-changed")
        assert path.read_bytes() == before and files.paths == []
        files = OverlayFiles(str(path))
        ask(ends, files, disk, options=OpenOptions(ignore_cid=True)).close()
        assert len(files.notes) == 1 and str(disk) in files.notes[0]
        files = OverlayFiles(str(path))
        ask(ends, files, disk, options=OpenOptions(ignore_cid=True)).close()
        ask(ends, files, disk).close()
        assert files.notes == []


def test_who_reads_an_overlay_looks_as_well(ends: tuple[Channel, Channel], disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``overlay commit`` does, which has no worker."""
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(disk.with_name("state")))
    path, options = str(disk.with_name("o")), OpenOptions()
    ask(ends, OverlayFiles(path), disk).close()
    copy = disk.with_name("copy")
    shutil.copy2(disk, copy)
    for parent, is_fine in ((None, True), (str(copy), True), (None, False), (str(copy), False)):
        if not is_fine:
            os.utime(disk if parent is None else copy, ns=(0, disk.stat().st_mtime_ns + 10**10))
        opener = opener_of(path, replace(options, parent=parent))
        if is_fine:
            open_disks(DiskSpec(path, format="qcow2"), options=options, opener=opener).close()
            continue
        with pytest.raises(Corrupt, match="time is another"):
            open_disks(DiskSpec(path, format="qcow2"), options=options, opener=opener)


def test_every_file_of_an_original_counts(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    """For whoever opens the overlay, or a file on top of it that qemu-img made."""
    need("qemu-img")
    pieces = ["d.vmdk", "d-flat.vmdk"]
    run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", tmp_path / pieces[0], "1M")
    path, top = tmp_path / "o", tmp_path / "top.qcow2"
    ask(ends, OverlayFiles(str(path)), tmp_path / pieces[0]).close()
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", path, top, "1M")
    for child in path, top:
        open_disks(str(child)).close()
    for name in pieces:
        before = (tmp_path / name).stat().st_mtime_ns
        os.utime(tmp_path / name, ns=(0, before + 10**10))
        for child in path, top:
            with pytest.raises(Corrupt, match="time is another") as caught:
                open_disks(str(child))
            assert (caught.value.path, caught.value.reason) == (str(tmp_path / name), "original-changed")
            with open_disks(str(child), options=OpenOptions(ignore_cid=True)) as disk_set:
                assert f"taken as it is now: {tmp_path / name}" in disk_set.disks[0].details["parent"]
        os.utime(tmp_path / name, ns=(0, before))


def test_an_overlay_of_another_disk_says_so_and_not_that_it_changed(ends: tuple[Channel, Channel], disk: Path) -> None:
    ask(ends, OverlayFiles(str(disk.with_name("o"))), disk).close()
    other = disk.with_name("other.raw")
    other.write_bytes(b"x" * 4096)
    with pytest.raises(Invalid, match="another disk"):
        ask(ends, OverlayFiles(str(disk.with_name("o"))), other)


def test_an_overlay_that_does_not_say_what_its_original_was(ends: tuple[Channel, Channel], disk: Path) -> None:
    path = disk.with_name("o")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    create_overlay(fd, str(path), open_image(DiskSpec(str(disk)), DirectOpener())).close()
    with pytest.raises(Corrupt, match="does not say"):
        ask(ends, OverlayFiles(str(path)), disk)
    files = OverlayFiles(str(path))
    ask(ends, files, disk, options=OpenOptions(ignore_cid=True)).close()
    assert len(files.notes) == 1


def test_an_overlay_is_no_original_while_it_is_written(ends: tuple[Channel, Channel], disk: Path) -> None:
    """Nor written while it is an original: by another process, here by another descriptor."""
    path = disk.with_name("o")
    overlay = ask(ends, OverlayFiles(str(path)), disk)
    with pytest.raises(Busy, match="a mount writes"):
        OriginalsOpener().open(str(path))
    overlay.close()
    read = closing(OriginalsOpener().open(str(path)))
    with read, closing(OriginalsOpener().open(str(path))), pytest.raises(Busy, match="in use"):
        ask(ends, OverlayFiles(str(path)), disk)
    ask(ends, OverlayFiles(str(path)), disk).close()


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
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("absent/o")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("", "fifo", "loop"):
        with pytest.raises(Invalid, match="no file that can hold"):
            ask(ends, OverlayFiles(str(tmp_path / name)), disk)
    with pytest.raises(NotFound, match="no such folder"):
        ask(ends, OverlayFiles(str(tmp_path / "dangling")), disk)
    with pytest.raises(Failed, match="too long") as caught:
        ask(ends, OverlayFiles(str(tmp_path / ("n" * 300))), disk)
    assert caught.value.hint
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
    ends[0].send({"op": "overlay", "path": "x", "is_new": True, "note": ""})
    with pytest.raises(Corrupt, match="did not come"):
        overlays_from(ends[1], 1, Witness(DirectOpener()))(0, image)
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


def test_a_set_of_which_one_overlay_is_lost(ends: tuple[Channel, Channel], disk: Path) -> None:
    """It is neither made anew without a word, nor are the others touched; and no files of another set are taken."""
    path = disk.with_name("o")
    ask(ends, OverlayFiles(str(path)), disk, index=0, count=2).close()
    files = OverlayFiles(str(path))
    with pytest.raises(NotFound, match="others are there") as caught:
        ask(ends, files, disk, index=0, count=2)
    assert caught.value.path == f"{path}.disk1" and f"{path}.disk0" in str(caught.value.hint)
    assert files.paths == [] and not disk.with_name("o.disk1").exists()
    disk.with_name("o.disk1").touch()
    with pytest.raises(NotFound, match="empty"):
        ask(ends, OverlayFiles(str(path)), disk, index=0, count=2)
    with pytest.raises(Invalid, match="another number of disks than 1"):
        ask(ends, OverlayFiles(str(path)), disk)
    assert not path.exists()


def test_a_set_that_lost_or_gained_a_disk(ends: tuple[Channel, Channel], disk: Path) -> None:
    path = disk.with_name("o")
    ask(ends, OverlayFiles(str(path)), disk).close()
    with pytest.raises(Invalid, match="another number of disks than 2"):
        ask(ends, OverlayFiles(str(path)), disk, count=2)
    files = OverlayFiles(str(disk.with_name("p")))
    for index in range(3):
        ask(ends, files, disk, index=index, count=3).close()
    with pytest.raises(Invalid, match="another number of disks than 2") as caught:
        ask(ends, OverlayFiles(str(disk.with_name("p"))), disk, count=2)
    assert caught.value.path == str(disk.with_name("p.disk2"))
    assert len(files.paths) == 3 and files.notes == []


def test_files_too_small_for_an_overlay(ends: tuple[Channel, Channel], disk: Path) -> None:
    """An empty one is as good as none, which is said; all others are somebody's, and left alone."""
    path = disk.with_name("o")
    for content, error, words in (
        (b"x", Invalid, "no overlay"),
        (b"QFI\xfb", Corrupt, "too short"),
        (b"QFI\xfb" + bytes(100), Unsupported, "version 0"),
    ):
        path.write_bytes(content)
        with pytest.raises(Denied, match="not an overlay"):
            ask(ends, OverlayFiles(str(path)), disk)
        assert path.read_bytes() == content
        with pytest.raises(error, match=words) as caught:
            overlay_info(str(path))
        assert caught.value.path == str(path)
    path.write_bytes(b"")
    with pytest.raises(Invalid, match="is empty"):
        overlay_info(str(path))
    files = OverlayFiles(str(path))
    ask(ends, files, disk).close()
    assert [note for note in files.notes if "was empty" in note and str(path) in note]
