"""Overlays: written by us, judged by qemu-img check and qemu-img compare; the original's bytes and times never change."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.blocks import read
from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, MntapiError, NotFound, Unsupported
from mntapi.images import formats
from mntapi.images.formats import Chain, Format
from mntapi.images.opener import DirectOpener
from mntapi.images.qcow2 import open_image
from mntapi.images.qcow2.create import create_overlay, open_overlay
from mntapi.images.qcow2.overlay import CLUSTER, MAX_TABLES, SPAN, Overlay
from mntapi.images.qcow2.refcounts import Refcounts
from mntapi.images.qcow2.storage import Storage
from mntapi.types import DiskSpec, ExtentKind, Image, OpenOptions

pytestmark = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")), reason="needs qemu-img and qemu-io (qemu-utils)"
)
SIZE = 3_000_832


@pytest.fixture(autouse=True)
def qcow2_row(monkeypatch: pytest.MonkeyPatch) -> None:
    if "qcow2" not in {format_.name for format_ in formats.FORMATS}:
        row = Format("qcow2", "mntapi.images.qcow2", ((0, b"QFI\xfb"),))
        monkeypatch.setattr(formats, "FORMATS", (row, *formats.FORMATS))


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk.raw"
    path.write_bytes(
        random.Random(1).randbytes(SIZE // 3) + bytes(SIZE // 3) + random.Random(2).randbytes(SIZE - 2 * (SIZE // 3))
    )
    os.utime(path, ns=(10**18, 10**18))
    digest = hashlib.sha256(path.read_bytes()).digest()
    os.utime(path, ns=(10**18, 10**18))
    yield path
    assert path.stat().st_mtime_ns == 10**18
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 3, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def image_of(path: Path) -> Image:
    return formats.open_image(DiskSpec(str(path)), DirectOpener())


def create(original: Path, name: str = "over.qcow2", *, punch: Callable[[int, int, int], None] | None = punch) -> Overlay:
    path = original.parent / name
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    return owned(fd, lambda: create_overlay(fd, str(path), image_of(original), punch=punch))


def reopen(original: Path, name: str = "over.qcow2") -> Overlay:
    path = original.parent / name
    fd = os.open(path, os.O_RDWR)
    return owned(fd, lambda: open_overlay(fd, str(path), image_of(original), punch=punch))


def owned(fd: int, make: Callable[[], Overlay]) -> Overlay:
    try:
        return make()
    except BaseException:
        os.close(fd)
        raise


def check(path: Path, *, leaks: bool = False) -> None:
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    assert done.returncode in ((0, 3) if leaks else (0,)), done.stdout + done.stderr


def compare(path: Path, want: bytes) -> None:
    wanted = path.with_suffix(".want")
    wanted.write_bytes(want)
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, wanted], check=True, capture_output=True)


def scribble(overlay: Overlay, shadow: bytearray, seed: int, count: int = 40) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        length = min(len(shadow), rng.choice((1, 512, 4096, 4097, 65536, 70_000, 200_000)))
        offset = rng.randrange(len(shadow) - length + 1)
        action = rng.random()
        if action < 0.7:
            content = rng.randbytes(length)
            overlay.write(offset, memoryview(content))
            shadow[offset : offset + length] = content
        elif action < 0.9:
            overlay.discard(offset, length)
            start, end = -(-offset // CLUSTER) * CLUSTER, offset + length
            end = end if end == len(shadow) else end // CLUSTER * CLUSTER
            if start < end:
                shadow[start:end] = bytes(end - start)
        else:
            overlay.flush()


@pytest.mark.parametrize("base", ["raw", "qcow2", "odd"])
def test_writes_and_discards(original: Path, base: str) -> None:
    want = original.read_bytes()
    under = original
    if base == "qcow2":
        under = original.with_name("disk.qcow2")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", original, under], check=True)
    if base == "odd":
        under = original.with_name("odd.raw")
        want = want[: SIZE - 100]
        under.write_bytes(want)
    before = under.read_bytes()
    shadow = bytearray(want)
    overlay = create(under)
    path = under.parent / "over.qcow2"
    check_blocks(overlay, bytes(shadow), ranges=50)
    for seed in range(4):
        scribble(overlay, shadow, seed)
        check_blocks(overlay, bytes(shadow), ranges=60)
        overlay.flush()
        check(path)
        if seed == 1:
            overlay.close()
            check(path)
            overlay = reopen(under)
    check_closed(overlay)
    check(path)
    compare(path, bytes(shadow) + bytes(-len(shadow) % 512))
    image = image_of(path)
    check_blocks(image.blocks, bytes(shadow) + bytes(-len(shadow) % 512), ranges=50)
    assert [link.file for link in image.chain] == [str(path), str(under)]
    image.blocks.close()
    assert under.read_bytes() == before


def test_extents_and_punched_holes(original: Path) -> None:
    overlay = create(original)
    path = original.parent / "over.qcow2"
    overlay.write(0, memoryview(b"x" * 4 * CLUSTER))
    overlay.flush()
    used = path.stat().st_blocks
    overlay.discard(CLUSTER, 2 * CLUSTER)
    overlay.discard(5 * CLUSTER, 2 * CLUSTER)
    overlay.flush()
    assert path.stat().st_blocks < used - CLUSTER // 512  # the host may need a block more for its own map
    kinds = [(extent.offset // CLUSTER, extent.kind) for extent in overlay.extents(0, 8 * CLUSTER)]
    data, zero = ExtentKind.DATA, ExtentKind.ZERO
    assert kinds == [(0, data), (1, zero), (3, data), (5, zero), (7, data)]
    overlay.write(CLUSTER + 5, memoryview(b"yy"))
    assert read(overlay, CLUSTER, 10) == bytes(5) + b"yy" + bytes(3)
    overlay.close()
    check(path)
    want = bytearray(original.read_bytes())
    want[: 4 * CLUSTER] = b"x" * CLUSTER + bytes(5) + b"yy" + bytes(2 * CLUSTER - 7) + b"x" * CLUSTER
    want[5 * CLUSTER : 7 * CLUSTER] = bytes(2 * CLUSTER)
    compare(path, bytes(want))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_that_cannot_punch(original: Path, number: int) -> None:
    def fails(fd: int, offset: int, length: int) -> None:
        raise OSError(number, "no")

    overlay = create(original, punch=fails)
    overlay.write(0, memoryview(b"x" * CLUSTER))
    if number == errno.EIO:
        with pytest.raises(Failed):
            overlay.discard(0, CLUSTER)
    else:
        overlay.discard(0, CLUSTER)
    assert read(overlay, 0, CLUSTER) == bytes(CLUSTER)
    overlay.write(7, memoryview(b"z"))
    assert read(overlay, 0, 16) == bytes(7) + b"z" + bytes(8)
    overlay.close()
    check(original.parent / "over.qcow2")


def test_62_tib(tmp_path: Path) -> None:
    size = 62 << 40
    path = tmp_path / "huge.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 9 {size - CLUSTER} {CLUSTER}", path], check=True, capture_output=True
    )
    overlay = create(path)
    rng = random.Random(3)
    places = [0, size - 10, *(rng.randrange(size - 10) for _ in range(MAX_TABLES + 20))]
    for place in places:
        overlay.write(place, memoryview(b"0123456789"))
    for place in places:
        assert read(overlay, place, 10) == b"0123456789"
    assert read(overlay, size - CLUSTER, CLUSTER) == b"\x09" * (CLUSTER - 10) + b"0123456789"
    overlay.discard(0, size)
    for place in places:
        assert read(overlay, place, 10) == bytes(10)
    assert all(extent.kind is ExtentKind.ZERO for extent in overlay.extents(0, size))
    overlay.close()
    out = tmp_path / "over.qcow2"
    check(out)
    assert out.stat().st_blocks * 512 < 100 << 20


def test_more_than_one_refcount_block(tmp_path: Path) -> None:
    """Only the bookkeeping: the file is made to look 2 GiB long, so that the next clusters are counted by a second block."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as out:
        out.truncate(1 << 30)
    overlay = create(path)
    overlay.write(0, memoryview(b"first"))
    overlay.close()
    over = tmp_path / "over.qcow2"
    os.truncate(over, (2 << 30) - CLUSTER)
    overlay = reopen(path)
    for place in range(5):
        overlay.write(place * 10 * CLUSTER, memoryview(b"again"))
    overlay.close()
    check(over)
    overlay = reopen(path)
    overlay.write(SPAN, memoryview(b"third"))
    overlay.flush()
    assert [read(overlay, place * 10 * CLUSTER, 5) for place in range(5)] == [b"again"] * 5
    overlay.close()
    check(over)


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[3])
from mntapi.images.formats import Chain
from mntapi.images.opener import DirectOpener
from mntapi.images.raw import open_image
from mntapi.images.qcow2.create import create_overlay
from mntapi.types import OpenOptions
opener = DirectOpener()
image = open_image(opener.open(sys.argv[1]), Chain(opener, OpenOptions()))
overlay = create_overlay(os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_EXCL), sys.argv[2], image)
for number in range(20):
    overlay.write(number * 100_000, memoryview(bytes([number + 1]) * 50_000))
overlay.flush()
for number in range(20):
    overlay.write(2_000_000 + number * 40_000, memoryview(b"never flushed"))
print("ready", flush=True)
sys.stdin.read()
"""


def test_kill_9_keeps_what_was_flushed(original: Path) -> None:
    path = original.parent / "over.qcow2"
    root = str(Path(__file__).parents[2])
    words = [sys.executable, "-c", KILLED, str(original), str(path), root]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    check(path)
    want = bytearray(original.read_bytes())
    for number in range(20):
        want[number * 100_000 : number * 100_000 + 50_000] = bytes([number + 1]) * 50_000
    overlay = reopen(original)
    assert read(overlay, 0, 1_950_000) == want[:1_950_000]
    overlay.write(5, memoryview(b"on we go"))
    overlay.close()
    want[5:13] = b"on we go"
    check(path)
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, path.with_suffix(".raw")], check=True)
    assert path.with_suffix(".raw").read_bytes()[:1_950_000] == want[:1_950_000]


def test_power_loss_at_any_write(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that dies keeps all that was synced, and any part of what was written after: qemu-img finds leaks at most."""
    journal: list[tuple[int, bytes] | None] = []
    real_write, real_sync = Storage.write, Storage.sync

    def write(self: Storage, offset: int, content: memoryview | bytes) -> None:
        journal.append((offset, bytes(content)))
        real_write(self, offset, content)

    def sync(self: Storage) -> None:
        journal.append(None)
        real_sync(self)

    monkeypatch.setattr(Storage, "write", write)
    monkeypatch.setattr(Storage, "sync", sync)
    overlay = create(original)
    created = len(journal)
    scribble(overlay, bytearray(original.read_bytes()), seed=8, count=30)
    overlay.close()
    rng = random.Random(4)
    path = original.parent / "died.qcow2"
    for death in sorted({created, len(journal), *(rng.randrange(created, len(journal)) for _ in range(25))}):
        barrier = max(at for at in range(death) if journal[at] is None)
        with path.open("wb") as out:
            for at, step in enumerate(journal[:death]):
                if step is not None and (at < barrier or rng.random() < 0.5):
                    out.seek(step[0])
                    out.write(step[1])
        check(path, leaks=True)


def test_qemu_may_write_to_it_too(original: Path) -> None:
    create(original).close()
    path = original.parent / "over.qcow2"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 5 70000 100000", path], check=True, capture_output=True)
    overlay = reopen(original)
    overlay.write(80_000, memoryview(b"ours"))
    assert read(overlay, 70_000, 10_004) == b"\5" * 10_000 + b"ours"
    overlay.close()
    check(path)


def refused(
    original: Path, path: Path, error: type[MntapiError], text: str, *, flags: int = os.O_RDWR, new: bool = False
) -> None:
    fd = os.open(path, flags)
    image = image_of(original)
    before = path.read_bytes()
    with pytest.raises(error, match=text):
        (create_overlay if new else open_overlay)(fd, str(path), image)
    assert path.read_bytes() == before
    os.close(fd)
    image.blocks.close()


def test_originals_and_strangers_are_refused(original: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", original.name, "-F", "raw", stranger], check=True)
    refused(original, stranger, Denied, "not an overlay that mntapi made")
    refused(original, stranger, Invalid, "not empty", new=True)
    refused(original, original, Denied, "never written")
    refused(original, original, Denied, "never written", new=True)
    link = tmp_path / "link"
    link.symlink_to(original)
    refused(original, link, Denied, "never written", new=True)
    (tmp_path / "empty").touch()
    refused(original, tmp_path / "empty", Invalid, "regular file", flags=os.O_RDONLY, new=True)
    refused(original, tmp_path / "empty", Corrupt, "too short")


def test_another_disk_and_another_user(original: Path, tmp_path: Path) -> None:
    overlay = create(original)
    path = tmp_path / "over.qcow2"
    refused(original, path, Busy, "in use")
    overlay.close()
    other = tmp_path / "other.raw"
    other.write_bytes(original.read_bytes())
    refused(other, path, Invalid, "another disk")
    other.write_bytes(bytes(512))
    refused(other, path, Invalid, "another disk")
    reopen(original).close()
    subprocess.run(["qemu-img", "snapshot", "-c", "one", path], check=True)
    refused(original, path, Unsupported, "another program")


def test_names_of_originals(tmp_path: Path) -> None:
    for name in ("a:b.raw", "plain.raw"):
        path = tmp_path / name
        path.write_bytes(bytes(5000) + b"x" * 5000 + bytes(240))
        create(path, f"over-{name[0]}").close()
        check(tmp_path / f"over-{name[0]}")
        compare(tmp_path / f"over-{name[0]}", path.read_bytes())
    elsewhere = tmp_path / "below"
    elsewhere.mkdir()
    fd = os.open(elsewhere / "over", os.O_RDWR | os.O_CREAT)
    create_overlay(fd, str(elsewhere / "over"), image_of(tmp_path / "plain.raw")).close()
    compare(elsewhere / "over", (tmp_path / "plain.raw").read_bytes())
    folder = tmp_path
    for _ in range(5):
        folder = folder / ("n" * 250)
        folder.mkdir()
    (folder / "disk.raw").write_bytes(bytes(512))
    (tmp_path / "far").touch()
    refused(folder / "disk.raw", tmp_path / "far", Unsupported, "name of the original", new=True)


def test_too_large_for_an_overlay(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, str((2 << 50) + (1 << 30))], check=True
    )
    (tmp_path / "over").touch()
    refused(path, tmp_path / "over", Unsupported, "too large", new=True)


def spoil(path: Path, offset: int, number: int) -> None:
    with path.open("r+b") as out:
        out.seek(offset)
        out.write(number.to_bytes(8, "big"))


def number_at(path: Path, offset: int) -> int:
    return int.from_bytes(path.read_bytes()[offset : offset + 8], "big")


def test_spoilt_tables(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "over.qcow2"
    overlay = create(original)
    overlay.write(0, memoryview(b"x" * 2 * CLUSTER))
    overlay.close()
    l1_offset = number_at(path, 40)
    l1 = number_at(path, l1_offset)
    table = l1 & ~(1 << 63)
    entry = number_at(path, table)
    for offset, number, error, text in [
        (l1_offset, l1 | 1 << 60, Corrupt, "L1 entry"),
        (l1_offset, l1 & ~(1 << 63), Corrupt, "L1 entry"),
        (l1_offset, 1 << 40 | 1 << 63, Corrupt, "ends where"),
        (table, entry | 2, Corrupt, "reserved"),
        (table, 1 << 62 | 5, Unsupported, "compressed"),
        (table, entry & ~(1 << 63), Unsupported, "shares"),
    ]:
        before = number_at(path, offset)
        spoil(path, offset, number)
        overlay = reopen(original)
        with pytest.raises(error, match=text) as caught:
            overlay.write(5, memoryview(b"y"))
        assert caught.value.path == str(path)
        if offset == table:
            assert read(overlay, SIZE - 5, 5) == original.read_bytes()[-5:]
        overlay.close()
        spoil(path, offset, before)
    spoil(path, CLUSTER, 5)
    overlay = reopen(original)
    with pytest.raises(Corrupt, match="refcount block"):
        overlay.write(SIZE - 5, memoryview(b"y"))
    overlay.close()


def test_a_full_disk_and_a_failing_one(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = create(original)
    path = original.parent / "over.qcow2"
    overlay.write(0, memoryview(b"kept" * 100))
    overlay.flush()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with pytest.raises(Failed) as caught:
            overlay.write(10 * CLUSTER, memoryview(b"z" * CLUSTER))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert read(overlay, 10 * CLUSTER, CLUSTER) == original.read_bytes()[10 * CLUSTER : 11 * CLUSTER]
    overlay.write(10 * CLUSTER, memoryview(b"z" * CLUSTER))
    overlay.flush()
    check(path)
    with monkeypatch.context() as patch:

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, "no")

        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(Failed, match="synced"):
            overlay.flush()
    with pytest.raises(Failed, match="earlier sync"):
        overlay.flush()
    with pytest.raises(Failed):
        overlay.close()
    check(path)


def test_a_failing_read(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = create(original)
    overlay.write(0, memoryview(b"x" * CLUSTER))

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fails)
        with pytest.raises(Failed, match="cannot be read"):
            read(overlay, 0, 5)
    overlay.close()


def test_an_overlay_that_is_as_large_as_it_can_be(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "over", os.O_RDWR | os.O_CREAT)
    storage = Storage(fd, str(tmp_path / "over"))
    refcounts = Refcounts(storage, cluster_bits=16, table_offset=CLUSTER, table_size=1, first=1 << 15)
    with pytest.raises(Unsupported, match="full"):
        refcounts.allocate()
    storage.close()


def test_out_of_range(original: Path) -> None:
    overlay = create(original)
    for offset, length in ((-1, 1), (SIZE, 1), (SIZE - 1, 2)):
        with pytest.raises(Invalid):
            overlay.write(offset, memoryview(bytes(length)))
        with pytest.raises(Invalid):
            overlay.discard(offset, length)
    overlay.close()
    with pytest.raises(Invalid, match="closed"):
        overlay.flush()


def test_a_chain_through_our_own_reader(original: Path) -> None:
    overlay = create(original)
    overlay.write(100, memoryview(b"changed"))
    overlay.close()
    opener = DirectOpener()
    image = open_image(opener.open(str(original.parent / "over.qcow2")), Chain(opener, OpenOptions()))
    assert read(image.blocks, 100, 7) == b"changed"
    image.blocks.close()
    original.parent.joinpath("over.qcow2").rename(original.parent / "moved.qcow2")
    with pytest.raises(NotFound):
        image_of(original.parent / "over.qcow2")
