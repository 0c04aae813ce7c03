"""Overlays against a plain array of bytes: whatever happens to them, reads give what was written and qemu-img finds no fault.

A full file system is made of the real one and a count: blocks of the file that were never written, or given back, need room.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from mntapi.blocks import read
from mntapi.errors import Busy, Corrupt, Failed, MntapiError, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2.completeness import MAX_REFCOUNT_TABLE
from mntapi.images.qcow2.create import MAX_NOTE, create_overlay, note_in, open_overlay
from mntapi.images.qcow2.overlay import CLUSTER, SPAN, Overlay
from mntapi.images.qcow2.refcounts import Refcounts
from mntapi.images.qcow2.storage import Storage
from mntapi.types import DiskSpec, Image
from mntapi.units import GIB, TIB

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img (qemu-utils)")

BLOCK = 4096
SIZE = 20 * CLUSTER + 512
FAR = 3 * SPAN + 512
"""A disk with several L2 tables."""


class FullDisk:
    """A file system with ``room`` blocks left, for all that ``Storage`` writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 40
        self._stored: set[int] = set()
        self._write = Storage.write
        monkeypatch.setattr(Storage, "write", lambda storage, offset, content: self.write(storage, offset, content))

    def write(self, storage: Storage, offset: int, content: memoryview | bytes) -> None:
        view = memoryview(content)
        for block in range(offset // BLOCK, -(-(offset + len(view)) // BLOCK)):
            if block not in self._stored:
                if not self.room:
                    fits = max(0, block * BLOCK - offset)
                    self._write(storage, offset, view[:fits])
                    raise storage.failed("written", OSError(errno.ENOSPC, "full"), offset + fits)
                self.room -= 1
                self._stored.add(block)
        self._write(storage, offset, view)

    def punch(self, _fd: int, offset: int, length: int) -> None:
        """As a file system that takes its time to give the bytes back, but whose blocks are free at once."""
        given = self._stored & set(range(offset // BLOCK, (offset + length) // BLOCK))
        self._stored -= given
        self.room += len(given)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


def original(tmp_path: Path, size: int) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as out:
        out.truncate(size)
        out.write(random.Random(7).randbytes(min(size, SIZE) // 2))
    return path


def image_of(path: Path) -> Image:
    return open_image(DiskSpec(str(path)), DirectOpener())


def overlay_of(disk: Path, host: FullDisk | None = None) -> Overlay:
    """Made, or gone on with."""
    path = disk.with_name("over.qcow2")
    make = open_overlay if path.exists() else create_overlay
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        return make(fd, str(path), image_of(disk), punch=host.punch if host else None)
    except BaseException:
        os.close(fd)
        raise


def check(disk: Path, *, leaks: bool = False) -> None:
    path = disk.with_name("over.qcow2")
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert done.returncode in ((0, 3) if leaks else (0,)), done.stdout + done.stderr


def compare(disk: Path, want: bytes) -> None:
    wanted, path = disk.with_name("want"), disk.with_name("over.qcow2")
    wanted.write_bytes(want)
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, wanted], check=True, capture_output=True)


def some_range(rng: random.Random) -> tuple[int, int]:
    length = min(SIZE, rng.choice((1, 511, 4096, 65536, 65537, 200_000)))
    return rng.randrange(SIZE - length + 1), length


def discarded(model: bytearray, offset: int, length: int) -> None:
    start, end = -(-offset // CLUSTER) * CLUSTER, offset + length
    end = end if end == len(model) else end // CLUSTER * CLUSTER
    if start < end:
        model[start:end] = bytes(end - start)


def step(overlay: Overlay, model: bytearray, rng: random.Random) -> None:
    """A write or a discard; one that fails leaves each byte as it was, or as it was to be."""
    offset, length = some_range(rng)
    content = rng.randbytes(length)
    before, wanted = bytes(model), bytearray(model)
    is_write = rng.random() < 0.75
    if is_write:
        wanted[offset : offset + length] = content
    else:
        discarded(wanted, offset, length)
    try:
        overlay.write(offset, memoryview(content)) if is_write else overlay.discard(offset, length)
        model[:] = wanted
    except Failed as error:
        assert error.errno == errno.ENOSPC and error.hint
        model[:] = read(overlay, 0, SIZE)
        mixed = [
            at
            for at in range(0, SIZE, BLOCK)
            if model[at : at + BLOCK] not in (before[at : at + BLOCK], wanted[at : at + BLOCK])
        ]
        assert all(model[at] in (before[at], wanted[at]) for start in mixed for at in range(start, min(SIZE, start + BLOCK)))


@pytest.mark.parametrize("seed", range(6))
def test_as_an_array_of_bytes(tmp_path: Path, host: FullDisk, seed: int) -> None:
    """Room comes and goes; flushes always succeed, as what they write has its room already. Nothing is leaked."""
    rng = random.Random(seed)
    disk = original(tmp_path, SIZE)
    model = bytearray(disk.read_bytes())
    overlay = overlay_of(disk, host)
    for _ in range(8):
        host.room = rng.choice((0, 1, 17, 33, 100, 1 << 40))
        for _ in range(6):
            step(overlay, model, rng)
        assert read(overlay, 0, SIZE) == model
        overlay.flush()
        check(disk)
        if rng.random() < 0.4:
            overlay.close()
            compare(disk, model)
            overlay = overlay_of(disk, host)
    overlay.close()
    check(disk)
    compare(disk, model)


@pytest.mark.parametrize("room", range(0, 40, 3))
def test_room_for_tables(tmp_path: Path, host: FullDisk, room: int) -> None:
    """A write that needs a new L2 table, with too little room for it, for the cluster, or for an entry of the L1 table."""
    disk = original(tmp_path, FAR)
    overlay = overlay_of(disk, host)
    overlay.write(0, memoryview(b"kept"))
    host.room = room
    try:
        overlay.write(2 * SPAN + 5, memoryview(b"new"))
        want = b"new"
    except Failed:
        want = bytes(3)
    overlay.flush()
    check(disk)
    assert read(overlay, 2 * SPAN + 5, 3) == want and read(overlay, 0, 4) == b"kept"
    host.room = 1 << 40
    overlay.write(2 * SPAN + 5, memoryview(b"new"))
    overlay.close()
    check(disk)
    overlay = overlay_of(disk)
    assert read(overlay, 2 * SPAN + 5, 3) == b"new"
    overlay.close()


@pytest.mark.parametrize(
    ("size", "length", "room"), [(GIB, 2 * GIB, room) for room in range(0, 50, 4)] + [(600 * GIB, TIB, 16)]
)
def test_room_for_another_block_of_counts(tmp_path: Path, host: FullDisk, size: int, length: int, room: int) -> None:
    """The file is made to look that long, so that the next cluster is counted by a block that is not there yet: at 1 TiB its
    entry of the table lies where nothing was written before."""
    disk = original(tmp_path, size)
    overlay_of(disk, host).close()
    os.truncate(disk.with_name("over.qcow2"), length)
    overlay = overlay_of(disk, host)
    host.room = room
    try:
        overlay.write(0, memoryview(b"first"))
    except Failed:
        overlay.flush()
        check(disk)
        host.room = 1 << 40
        overlay.write(0, memoryview(b"first"))
    host.room = 0
    overlay.close()
    check(disk)
    overlay = overlay_of(disk)
    assert read(overlay, 0, 5) == b"first"
    overlay.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_death_at_any_moment_keeps_what_was_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """After each death the file holds all that reached the medium and any part of what was written since."""
    journal: list[tuple[int, bytes] | None] = []
    flushed: list[tuple[int, bytes, int]] = []
    touched: list[tuple[int, int, int]] = []
    real_write, real_sync = Storage.write, Storage.sync

    def write(self: Storage, offset: int, content: memoryview | bytes) -> None:
        journal.append((offset, bytes(content)))
        real_write(self, offset, content)

    def sync(self: Storage) -> None:
        real_sync(self)
        journal.append(None)

    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setattr(Storage, "sync", sync)
    rng = random.Random(seed)
    disk = original(tmp_path, SIZE)
    model = bytearray(disk.read_bytes())
    overlay = overlay_of(disk)
    for _ in range(5):
        overlay.flush()
        flushed.append((len(journal), bytes(model), len(touched)))
        for _ in range(5):
            offset, length = some_range(rng)
            touched.append((len(journal), offset, offset + length))
            content = rng.randbytes(length)
            overlay.write(offset, memoryview(content))
            model[offset : offset + length] = content
    overlay.close()
    flushed.append((len(journal), bytes(model), len(touched)))
    path = disk.with_name("over.qcow2")
    for death in sorted({flushed[0][0], len(journal), *(rng.randrange(flushed[0][0], len(journal)) for _ in range(12))}):
        barrier = max(at for at in range(death) if journal[at] is None)
        with path.open("wb") as out:
            for at, done in enumerate(journal[:death]):
                if done is not None and (at < barrier or rng.random() < 0.5):
                    os.pwrite(out.fileno(), done[1], done[0])
        check(disk, leaks=True)
        _, want, since = [one for one in flushed if one[0] <= death][-1]
        again = overlay_of(disk)
        got = bytearray(read(again, 0, SIZE))
        again.close()
        for _, start, end in [one for one in touched[since:] if one[0] < death]:
            start, end = start // CLUSTER * CLUSTER, min(SIZE, -(-end // CLUSTER) * CLUSTER)
            got[start:end] = want[start:end]
        assert got == want


def written(disk: Path) -> list[int]:
    """Write some clusters; where each of the overlay's clusters begins that is in use."""
    overlay = overlay_of(disk)
    for place in (0, 3 * CLUSTER, SPAN, 2 * SPAN):
        overlay.write(place, memoryview(b"x" * 5))
    overlay.close()
    return list(range(0, disk.with_name("over.qcow2").stat().st_size, CLUSTER))


def test_cut_anywhere(tmp_path: Path) -> None:
    """Refused when it is opened, with the offset of what is gone; and left as it was."""
    disk = original(tmp_path, FAR)
    starts = written(disk)
    path = disk.with_name("over.qcow2")
    whole = path.read_bytes()
    for cut in sorted({*starts, *(start + 1 for start in starts), *(start - 1 for start in starts[1:]), len(whole) - 1}):
        path.write_bytes(whole[:cut])
        with pytest.raises(MntapiError) as caught:
            overlay_of(disk)
        if cut >= 4 * CLUSTER:
            error = caught.value
            assert isinstance(error, Corrupt) and error.reason == "truncated" and error.path == str(path)
            assert error.offset is not None and cut - CLUSTER < error.offset < len(whole) and error.found == cut
        assert path.read_bytes() == whole[:cut]
    path.write_bytes(whole)
    overlay_of(disk).close()


def test_leaks_past_the_end_are_no_loss(tmp_path: Path) -> None:
    """A power failure may leave counts of clusters that never came to be; no table names them."""
    disk = original(tmp_path, FAR)
    written(disk)
    path = disk.with_name("over.qcow2")
    size = path.stat().st_size
    with path.open("r+b") as out:
        table = int.from_bytes(os.pread(out.fileno(), 8, 48), "big")
        counts = int.from_bytes(os.pread(out.fileno(), 8, table), "big")
        os.pwrite(out.fileno(), b"\0\1" * 3, counts + size // CLUSTER * 2)
    check(disk, leaks=True)
    overlay = overlay_of(disk)
    overlay.write(5 * CLUSTER, memoryview(b"more"))
    overlay.close()
    check(disk, leaks=True)
    overlay = overlay_of(disk)
    assert read(overlay, 5 * CLUSTER, 4) == b"more"
    overlay.close()


@pytest.mark.parametrize(
    ("at", "number", "error"),
    [
        (56, MAX_REFCOUNT_TABLE // CLUSTER + 1, Unsupported),  # clusters of the refcount table, 4 bytes
        (56, 512, Corrupt),
        (56, 0xFFFFFFFF, Unsupported),
        (56, 0, None),
    ],
)
def test_headers_that_lie(tmp_path: Path, at: int, number: int, error: type[MntapiError] | None) -> None:
    disk = original(tmp_path, FAR)
    written(disk)
    with disk.with_name("over.qcow2").open("r+b") as out:
        os.pwrite(out.fileno(), number.to_bytes(4, "big"), at)
    if error is None:
        overlay_of(disk).close()
        return
    with pytest.raises(error):
        overlay_of(disk)


def test_a_table_of_counts_with_nothing_in_it(tmp_path: Path) -> None:
    disk = original(tmp_path, FAR)
    written(disk)
    with disk.with_name("over.qcow2").open("r+b") as out:
        os.pwrite(out.fileno(), bytes(8), CLUSTER)
    overlay_of(disk).close()


def test_a_cluster_without_counts(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "over", os.O_RDWR | os.O_CREAT)
    storage = Storage(fd, str(tmp_path / "over"))
    storage.write(0, bytes(2 * CLUSTER))
    counts = Refcounts(storage, cluster_bits=16, table_offset=CLUSTER, table_size=CLUSTER // 8, first=2)
    with pytest.raises(Corrupt, match="no block of counts"):
        counts.give_back(5 * CLUSTER)
    storage.close()


def test_the_note_in_the_header(tmp_path: Path) -> None:
    """Kept by QEMU when that writes the header; written again in its place, and only if it fits exactly."""
    disk = original(tmp_path, SIZE)
    path = disk.with_name("over.qcow2")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    create_overlay(fd, str(path), image_of(disk), note=b"a" * MAX_NOTE).close()
    check(disk)
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "./disk.raw", path], check=True)
    assert note_in(path.read_bytes()[:CLUSTER])[1] == b"a" * MAX_NOTE
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "disk.raw", path], check=True)
    for note, want in ((b"b" * MAX_NOTE, b"b"), (b"short", b"b"), (None, b"b")):
        fd = os.open(path, os.O_RDWR)
        open_overlay(fd, str(path), image_of(disk), note=note).close()
        assert note_in(path.read_bytes()[:CLUSTER])[1] == want * MAX_NOTE
    check(disk)
    (tmp_path / "new").touch()
    fd = os.open(tmp_path / "new", os.O_RDWR)
    with pytest.raises(MntapiError, match="too long"):
        create_overlay(fd, str(tmp_path / "new"), image_of(disk), note=b"a" * (MAX_NOTE + 1))
    os.close(fd)


def test_two_at_a_time(tmp_path: Path) -> None:
    disk = original(tmp_path, SIZE)
    overlay = overlay_of(disk)
    with pytest.raises(Busy):
        overlay_of(disk)
    overlay.close()
