"""Sets made writable by an overlay: the programs that write are foreign, so are those that judge the result.

Oracles: e2fsck, the kernel's ext4 and XFS, ntfs-3g, qemu-img check and compare, SHA-256 of the original before and after.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.http_fake import FakeWeb
from contract.make_disk import RealDisk, need, run
from mntapi.kernel.storage import punch_hole
from mntapi.units import MIB
from real.conftest import Mntapi
from real.network_servers import listen_unix, serving

pytestmark = pytest.mark.root

NOTE = "user.mntapi.original"
PART = MIB
"""Where disk0p1 begins on the disk."""


@pytest.fixture(autouse=True)
def state(mntapi: Mntapi) -> Path:
    """Where the commands of these tests keep the key of their notes."""
    return Path(mntapi.environment["MNTAPI_STATE_DIR"])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def original(disk: RealDisk) -> Iterator[Path]:
    """The VMDK; whatever a test does, its bytes stay, and nobody opened it for writing."""
    before = disk.vmdk.stat().st_mtime_ns, digest(disk.vmdk)
    yield disk.vmdk
    assert (disk.vmdk.stat().st_mtime_ns, digest(disk.vmdk)) == before


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return tmp_path / "overlay.qcow2"


def check(overlay: Path, *, leaks: bool = False) -> None:
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", overlay], capture_output=True, text=True, check=False)
    assert done.returncode in ((0, 3) if leaks else (0,)), done.stdout + done.stderr


def same(overlay: Path, want: Path | bytes) -> None:
    if isinstance(want, bytes):
        path = overlay.with_name("want.raw")
        path.write_bytes(want)
        want = path
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, want)


def write(path: Path, offset: int, content: bytes) -> None:
    """Write and flush."""
    with path.open("r+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), content, offset) == len(content)
        os.fsync(file.fileno())


def read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def close_dead(fd: int) -> None:
    """Close a file of a mount whose worker has ended: close(2) flushes, and says that it could not."""
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.close(fd)


def test_memory_is_forgotten(mntapi: Mntapi, original: Path, disk: RealDisk, target: Path) -> None:
    for _ in range(2):
        mntapi("mount", original, target, "--layout", "blocks", "--overlay", "memory")
        assert digest(target / "disks/disk0") == digest(disk.raw)
        run("mkfs.ext4", "-qF", target / "volumes/disk0p1")
        run("e2fsck", "-fn", target / "volumes/disk0p1")
        assert digest(target / "disks/disk0") != digest(disk.raw)
        mntapi("umount", target)


def test_a_file_keeps_it_and_can_be_gone_on_with(
    mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, overlay: Path
) -> None:
    want = bytearray(disk.raw.read_bytes())
    for round_ in range(2):
        mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
        assert overlay.stat().st_mode & 0o777 == 0o600
        for offset in (round_, 5 * MIB + 7, len(want) - 100 - round_):
            content = os.urandom(100)
            write(target / "disks/disk0", offset, content)
            want[offset : offset + 100] = content
        assert read(target / "disks/disk0", 0, len(want)) == want
        mntapi("umount", target)
        check(overlay)
        same(overlay, bytes(want))
    assert mntapi.json("ps") == []


def test_disk_and_volume_are_views_of_one(mntapi: Mntapi, original: Path, target: Path, overlay: Path) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    disk, volume = target / "disks/disk0", target / "volumes/disk0p1"
    with disk.open("rb", buffering=0) as seen:  # open before it is written, and read already
        os.pread(seen.fileno(), MIB, PART)
        write(volume, 0, b"through the volume")
        assert os.pread(seen.fileno(), 18, PART) == b"through the volume"
    write(disk, PART + 8, b"THE DISK  ")
    assert read(volume, 0, 18) == b"through THE DISK  "
    with volume.open("rb") as file, mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ) as view:
        assert view[:18] == b"through THE DISK  "
    assert volume.stat().st_mtime_ns == disk.stat().st_mtime_ns > (target / "disks").stat().st_ctime_ns - 1
    mntapi("umount", target)


def test_a_shared_mapping_that_is_written(mntapi: Mntapi, original: Path, target: Path, overlay: Path) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    with (target / "volumes/disk0p1").open("r+b") as file:
        try:
            view = mmap.mmap(file.fileno(), 2 * MIB)
        except OSError:
            view = None  # Linux before 6.6: such files cannot be mapped shared
        if view is not None:
            view[MIB : MIB + 6] = b"mapped"
            view.flush()
            view.close()
            assert read(target / "disks/disk0", PART + MIB, 6) == b"mapped"
    mntapi("umount", target)
    check(overlay)


def test_what_of_a_block_file_cannot_be_changed(mntapi: Mntapi, original: Path, target: Path) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", "memory")
    volume = target / "volumes/disk0p1"
    size = volume.stat().st_size
    with volume.open("r+b", buffering=0) as file:
        os.ftruncate(file.fileno(), size)
        for other in (0, size - 1, size + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(file.fileno(), other)
        os.lseek(file.fileno(), 0, os.SEEK_END)
        with pytest.raises(OSError, match="No space"):
            file.write(b"past the end")
    for call in (
        lambda: volume.unlink(),
        lambda: (target / "disks/new").touch(),
        lambda: volume.rename(target / "disks/x"),
        lambda: os.symlink("x", target / "link"),
        lambda: (target / "folder").mkdir(),
    ):
        with pytest.raises(OSError, match="Read-only"):
            call()
    with pytest.raises(PermissionError):
        volume.chmod(0o666)
    mntapi("umount", target)


def test_kill_9_leaves_all_that_was_flushed(
    mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, overlay: Path
) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    want = bytearray(disk.raw.read_bytes())
    content = os.urandom(3 * MIB + 5)
    write(target / "volumes/disk0p1", 100, content)
    want[PART + 100 : PART + 100 + len(content)] = content
    file = os.open(target / "disks/disk0", os.O_RDWR)
    try:
        os.pwrite(file, b"not flushed", 40 * MIB)
        mntapi.workers()[0].kill()
    finally:
        close_dead(file)
    mntapi("umount", target)
    check(overlay, leaks=True)
    with overlay.with_name("after.raw").open("wb"):
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, overlay.with_name("after.raw"))
    got = bytearray(overlay.with_name("after.raw").read_bytes())
    got[40 * MIB : 40 * MIB + 11] = want[40 * MIB : 40 * MIB + 11]
    assert got == want
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    assert read(target / "volumes/disk0p1", 100, len(content)) == content
    mntapi("umount", target)
    check(overlay, leaks=True)


def test_programs_that_write_block_files(mntapi: Mntapi, original: Path, target: Path, overlay: Path, tmp_path: Path) -> None:
    """mkfs, fsck, ntfs-3g and a loop device: each its own way to open, write and flush."""
    need("ntfs-3g", "mkntfs")
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    ext4, ntfs, top = target / "volumes/disk0p1", target / "volumes/disk0p2", tmp_path / "top"
    top.mkdir()
    run("mke2fs", "-qF", "-t", "ext4", ext4)
    write(ext4, 4096 * 3, bytes(4096))  # a damaged group descriptor, for e2fsck to mend
    assert subprocess.run(["e2fsck", "-fy", ext4], capture_output=True, check=False).returncode in (0, 1)
    run("e2fsck", "-fn", ext4)
    run("ntfs-3g", ntfs, top)
    try:
        assert (top / "budget.csv").stat().st_size == 3_000_001
        (top / "new").write_bytes(b"n" * 100_000)
    finally:
        run("umount", top)
    device = run("losetup", "--find", "--show", ext4).strip()
    try:
        run("mount", "-t", "ext4", device, top)
        (top / "file").write_bytes(b"f" * 100_000)
        run("umount", top)
        run("blkdiscard", "-o", str(20 * MIB), "-l", str(MIB), device)
    finally:
        run("losetup", "--detach", device)
    mntapi.json("ps")
    mntapi("umount", target)
    check(overlay)
    assert mntapi("cat", "--allow-outside", overlay, "/disk0p1/file").stdout == "f" * 100_000
    assert mntapi("cat", "--allow-outside", overlay, "/disk0p2/new").stdout == "n" * 100_000
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, tmp_path / "after.raw")
    assert read(tmp_path / "after.raw", PART + 20 * MIB, MIB) == bytes(MIB)


def kernel_mounts(mntapi: Mntapi, set_: Path, target: Path, overlay: Path | str) -> dict[str, set[str]]:
    """Mount by the kernel; each volume's options."""
    mntapi("mount", set_, target, "--via", "kernel", "--overlay", overlay)
    table = json.loads(run("findmnt", "--json", "--list", "-o", "TARGET,OPTIONS"))["filesystems"]
    return {Path(one["target"]).name: set(one["options"].split(",")) for one in table if one["target"].startswith(f"{target}/")}


def test_the_kernels_file_systems_are_written(
    mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, overlay: Path
) -> None:
    need("ntfs-3g")
    mounts = kernel_mounts(mntapi, original, target, overlay)
    assert set(mounts) == {"disk0p1", "disk0p2"}
    for options in mounts.values():
        assert {"rw", "nosuid", "nodev", "noexec"} <= options
    assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
    shutil.copytree(disk.files / "deep", target / "disk0p1/copy")
    (target / "disk0p2/budget.csv").write_bytes(b"spent")
    mntapi("umount", target)
    check(overlay)
    raw = overlay.with_name("after.raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, raw)
    with overlay.with_name("ext4").open("wb") as out, raw.open("rb") as file:
        file.seek(PART)
        out.write(file.read(32 * MIB))
    run("e2fsck", "-fn", overlay.with_name("ext4"))
    assert kernel_mounts(mntapi, original, target, overlay)["disk0p1"] >= {"rw"}  # goes on
    assert (target / "disk0p2/budget.csv").read_bytes() == b"spent"
    copied, source = target / "disk0p1/copy/er/still/data.bin", disk.files / "deep/er/still/data.bin"
    assert digest(copied) == digest(source)
    mntapi("umount", target)
    check(overlay)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_other_file_systems(mntapi: Mntapi, target: Path, overlay: Path, tmp_path: Path, kind: str) -> None:
    need(f"mkfs.{kind}")
    if kind not in Path("/proc/filesystems").read_text():
        pytest.skip(f"this kernel has no {kind}")
    image = tmp_path / "disk.raw"
    with image.open("wb") as out:
        out.truncate(320 * MIB)
    run(f"mkfs.{kind}", "-q", image)
    before = digest(image)
    assert kernel_mounts(mntapi, image, target, overlay)["disk0"] >= {"rw", "noexec"}
    (target / "disk0/file").write_bytes(b"written" * 100_000)
    mntapi("umount", target)
    check(overlay)
    kernel_mounts(mntapi, image, target, overlay)
    assert (target / "disk0/file").read_bytes() == b"written" * 100_000
    mntapi("umount", target)
    assert digest(image) == before


def test_a_dirty_journal_is_replayed_into_the_overlay(mntapi: Mntapi, target: Path, overlay: Path, tmp_path: Path) -> None:
    """kill -9 of the worker under a mounted ext4 leaves a journal to replay; the next mount does so."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as out:
        out.truncate(32 * MIB)
    run("mkfs.ext4", "-qF", image)
    before = digest(image)
    kernel_mounts(mntapi, image, target, overlay)
    (target / "disk0/file").write_text("synced")
    run("sync", "-f", target / "disk0")
    mntapi.workers()[0].kill()
    mntapi("umount", target)
    check(overlay, leaks=True)
    assert "needs_recovery" in run("dumpe2fs", "-h", _as_raw(overlay))
    kernel_mounts(mntapi, image, target, overlay)
    assert (target / "disk0/file").read_text() == "synced"
    mntapi("umount", target)
    check(overlay, leaks=True)
    assert "needs_recovery" not in run("dumpe2fs", "-h", _as_raw(overlay))
    run("e2fsck", "-fn", _as_raw(overlay))
    assert digest(image) == before


def _as_raw(overlay: Path) -> Path:
    raw = overlay.with_name("as.raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, raw)
    return raw


def test_force_writes_out_what_is_there_before_it_ends_it(mntapi: Mntapi, original: Path, target: Path, overlay: Path) -> None:
    kernel_mounts(mntapi, original, target, overlay)
    (target / "disk0p1/file").write_text("not synced")
    holder = subprocess.Popen(["sleep", "60"], cwd=target / "disk0p1")
    try:
        assert "sleep" in mntapi("umount", target, code=5).stderr
        assert (target / "disk0p1/file").read_text() == "not synced"
        mntapi("umount", "--force", target)
    finally:
        holder.kill()
        holder.wait()
    check(overlay, leaks=True)
    kernel_mounts(mntapi, original, target, overlay)
    assert (target / "disk0p1/file").read_text() == "not synced"
    mntapi("umount", target)


def test_sigterm_flushes(mntapi: Mntapi, original: Path, target: Path, overlay: Path) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    file = os.open(target / "disks/disk0", os.O_RDWR)
    try:
        os.pwrite(file, b"not flushed", 40 * MIB)
        [worker] = mntapi.workers()
        worker.terminate()
        worker.wait(20)
    finally:
        close_dead(file)
    mntapi("umount", target)
    check(overlay)
    assert read(_as_raw(overlay), 40 * MIB, 11) == b"not flushed"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    path = tmp_path / "small"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    yield path
    run("umount", path)


def test_a_full_file_system_below_the_overlay(
    mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, small: Path
) -> None:
    """A write fails and says so; what was written before is kept by the flush, which needs no room."""
    (small / "in the way").write_bytes(bytes(512 << 10))
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", small / "o.qcow2")
    file = os.open(target / "disks/disk0", os.O_RDWR)
    written = 0
    with pytest.raises(OSError, match="No space"):
        for written in range(0, 4 * MIB, 65536):
            os.pwrite(file, b"x" * 65536, written)
    assert written
    os.close(file)
    [told] = mntapi.json("ps")
    assert told["state"] == "impaired" and "No space" in told["reason"] and "o.qcow2" in told["reason"]
    assert "No space" in mntapi("ps").stdout
    check(small / "o.qcow2")
    assert read(target / "disks/disk0", written, 4096) == read(disk.raw, written, 4096)
    (small / "in the way").unlink()
    for _ in range(64):
        write(target / "disks/disk0", written, b"y" * 4096)
    [told] = mntapi.json("ps")
    assert (told["state"], told["reason"]) == ("ready", None)
    mntapi("umount", target)
    check(small / "o.qcow2")
    after = _as_raw(Path(shutil.copy(small / "o.qcow2", target.parent)))
    assert read(after, 0, written + 4096) == b"x" * written + b"y" * 4096


def test_what_cannot_be_flushed_is_told_and_kept(mntapi: Mntapi, original: Path, target: Path, small: Path) -> None:
    """Somebody takes the room away that a table had been given."""
    overlay = small / "o.qcow2"
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    file = os.open(target / "disks/disk0", os.O_RDWR)
    os.pwrite(file, b"x" * 65536, 0)
    table = overlay.stat().st_size - 2 * 65536
    with overlay.open("r+b") as opened:  # by no other process: its start would close, and so flush, our file
        punch_hole(opened.fileno(), table, 65536)
    with pytest.raises(OSError, match="No space"), (small / "in the way").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(OSError, match="No space"):
        os.close(file)
    said = mntapi("umount", target, code=1).stderr
    assert "not in the overlay" in said and "--force" in said
    assert read(target / "disks/disk0", 0, 65536) == b"x" * 65536
    (small / "in the way").unlink()
    mntapi("umount", target)
    check(overlay)
    assert read(_as_raw(Path(shutil.copy(overlay, target.parent))), 0, 65536) == b"x" * 65536


def test_one_file_a_disk(mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, overlay: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.raw"
    second.write_bytes(bytes(2 * MIB))
    mntapi("mount", original, "-d", second, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "disks/disk0", 0, b"zero")
    write(target / "disks/disk1", 5, b"one")
    mntapi("umount", target)
    assert sorted(path.name for path in tmp_path.glob("overlay*")) == ["overlay.qcow2.disk0", "overlay.qcow2.disk1"]
    want = bytearray(disk.raw.read_bytes())
    want[:4] = b"zero"
    for number, content in enumerate((bytes(want), bytes(5) + b"one" + bytes(2 * MIB - 8))):
        check(Path(f"{overlay}.disk{number}"))
        same(Path(f"{overlay}.disk{number}"), content)
    assert second.read_bytes() == bytes(2 * MIB)


def test_an_overlay_is_written_by_one_mount(
    mntapi: Mntapi, original: Path, target: Path, overlay: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    assert "in use" in mntapi("mount", original, tmp_path / "other", "--layout", "blocks", "--overlay", overlay, code=5).stderr
    mntapi("umount", target)


def test_no_other_file_is_ever_written(mntapi: Mntapi, original: Path, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    foreign, other = tmp_path / "foreign.qcow2", tmp_path / "other.raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", original, "-F", "vmdk", foreign)
    shutil.copy(disk.raw, other)
    for path in (original, foreign):
        before = digest(path)
        error = mntapi("mount", original, target, "--layout", "blocks", "--overlay", path, code=6).stderr
        assert "never written" in error and digest(path) == before
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", tmp_path / "o.qcow2")
    mntapi("umount", target)
    before = digest(tmp_path / "o.qcow2")
    ours = ["--layout", "blocks", "--overlay", tmp_path / "o.qcow2"]
    assert "another disk" in mntapi("mount", other, target, *ours, code=2).stderr
    assert "never written" in mntapi("mount", tmp_path / "o.qcow2", "--allow-outside", target, *ours, code=6).stderr
    assert digest(tmp_path / "o.qcow2") == before


def test_a_mount_that_fails_takes_its_overlay_back(mntapi: Mntapi, original: Path, target: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "o.qcow2"
    mntapi("mount", original, target, "--volume", "disk0p7", "--layout", "blocks", "--overlay", overlay, code=4)
    assert not overlay.exists()
    overlay.touch()  # as mktemp does
    mntapi("mount", original, target, "--volume", "disk0p7", "--layout", "blocks", "--overlay", overlay, code=4)
    assert overlay.exists()
    check(overlay)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--layout", "blocks", "--fuse-backend", "fusepy"), 7),
        (("--layout", "blocks", "--snapshot", "x"), 7),
        (("--layout", "blocks", "--parent", "x"), 7),
    ],
)
def test_what_an_overlay_does_not_go_with(
    mntapi: Mntapi, original: Path, target: Path, overlay: Path, arguments: tuple[str, ...], code: int
) -> None:
    mntapi("mount", original, target, "--overlay", overlay, *arguments, code=code)
    assert not overlay.exists()


def test_a_file_system_that_cannot_be_written_is_said(mntapi: Mntapi, target: Path, tmp_path: Path, overlay: Path) -> None:
    need("mksquashfs")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("a")
    run("mksquashfs", tmp_path / "files", tmp_path / "disk.raw", "-quiet", "-no-progress")
    with (tmp_path / "disk.raw").open("r+b") as file:
        file.truncate(MIB)
    said = mntapi("mount", tmp_path / "disk.raw", target, "--via", "kernel", "--overlay", overlay).stderr
    assert "read-only" in said and (target / "disk0/a").read_text() == "a"
    mntapi("umount", target)


@pytest.fixture
def verb(mntapi: Mntapi, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    """``mntapi overlay``, whether or not the table of verbs has it yet."""
    program = (
        "import sys; from mntapi.cli import main; main.VERBS.setdefault('overlay', 'mntapi.cli.overlay'); sys.exit(main.run())"
    )
    monkeypatch.setattr(mntapi, "argv", [mntapi.argv[0], "-c", program])
    return mntapi


def test_commit_writes_a_new_disk(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path
) -> None:
    verb("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "volumes/disk0p2", 1000, b"changed")
    told = json.loads(verb("overlay", "info", overlay, "--json").stdout)
    assert (told["original"], told["original_format"], told["size"], told["in_use"]) == (str(original), "vmdk", 64 * MIB, True)
    new = overlay.with_name("new.qcow2")
    assert "in use" in verb("overlay", "commit", overlay, "--to", new, code=5).stderr
    verb("umount", target)
    before = digest(overlay)
    assert "no" in verb("overlay", "info", overlay).stdout.split()
    for name, driver in (("new.qcow2", "qcow2"), ("new.vmdk", "vmdk"), ("new.IMG", "raw"), ("new.vhdx", "vhdx")):
        verb("overlay", "commit", overlay, "--to", overlay.with_name(name))
        run("qemu-img", "compare", "-f", "qcow2", "-F", driver, overlay, overlay.with_name(name))
    assert "backing file" not in run("qemu-img", "info", new)
    verb("overlay", "commit", overlay, "--to", new, code=6)  # it is there already
    verb("overlay", "commit", overlay, "--to", new, "--overwrite")
    assert digest(overlay) == before


def test_only_the_overlay_that_was_mounted_finds_its_original_elsewhere(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path
) -> None:
    """Not a copy, whose header may be anybody's, nor the overlay itself once its header names another file."""
    verb("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "volumes/disk0p2", 1000, b"changed")
    verb("umount", target)
    copy, new, secret = overlay.with_name("copy.qcow2"), overlay.with_name("new.raw"), original.with_name("secret.vmdk")
    shutil.copy2(overlay, copy)  # with its extended attributes
    assert os.getxattr(copy, NOTE) == os.getxattr(overlay, NOTE)
    assert "--allow-outside" in verb("overlay", "commit", copy, "--to", new, code=6).stderr
    for how in ("--allow-outside",), ("--parent", original):
        verb("overlay", "commit", copy, "--to", new, "--overwrite", *how)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, new)
    shutil.copy(original, secret)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "vmdk", "-b", secret, overlay)
    os.setxattr(overlay, NOTE, f"{overlay.stat().st_ino} {secret}".encode())  # as anybody can write it
    assert "outside its own folder" in verb("overlay", "commit", overlay, "--to", new, "--overwrite", code=6).stderr


def test_another_user_must_say_where_the_original_is(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path, state: Path
) -> None:
    verb("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    verb("umount", target)
    new = overlay.with_name("new.raw")
    os.chown(state / "key", 65534, 65534)
    assert "--allow-outside" in verb("overlay", "commit", overlay, "--to", new, code=6).stderr
    os.chown(state / "key", 0, 0)
    verb("overlay", "commit", overlay, "--to", new)


def test_a_raw_original_elsewhere(
    verb: Callable[..., subprocess.CompletedProcess], disk: RealDisk, target: Path, overlay: Path, tmp_path: Path
) -> None:
    """What is raw by the overlay's word is not looked into, and found all the same."""
    raw = Path(shutil.copy(disk.raw, tmp_path / "original.raw"))
    verb("mount", raw, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "disks/disk0", 1000, b"changed")
    verb("umount", target)
    new = overlay.with_name("new.raw")
    for how in (), ("--parent", raw):
        verb("overlay", "commit", overlay, "--to", new, "--overwrite", *how)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, new)
        if not how:
            os.removexattr(overlay, NOTE)


def test_an_original_that_is_encrypted(
    verb: Callable[..., subprocess.CompletedProcess], disk: RealDisk, target: Path, overlay: Path, tmp_path: Path
) -> None:
    key, locked, plain = tmp_path / "key", tmp_path / "locked.qcow2", overlay.with_name("plain.qcow2")
    key.write_text("secret")
    secret = ["--object", f"secret,id=s,file={key}"]
    how = ["-o", "encrypt.format=aes,encrypt.key-secret=s"]  # no key derivation, whose speed qemu-img would measure
    run("qemu-img", "convert", *secret, "-f", "raw", "-O", "qcow2", *how, disk.raw, locked)
    verb("mount", "--key-file", key, locked, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "disks/disk0", 1000, b"changed")
    verb("umount", target)
    new = overlay.with_name("new.raw")
    assert "passphrase" in verb("overlay", "commit", overlay, "--to", new, code=7).stderr
    verb("overlay", "commit", overlay, "--to", new, "--key-file", key)
    shutil.copy(overlay, plain)
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", disk.raw, plain)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", plain, new)


def test_an_original_with_a_changed_parent(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path
) -> None:
    folder = original.with_name("chain")
    folder.mkdir()
    parent, child = Path(shutil.copy(original, folder / "parent.vmdk")), folder / "child.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", parent.name, "-F", "vmdk", child)
    of_another = re.compile(rb"(?<=parentCID=)[0-9a-f]+")  # qemu-img writes no leading zeros: one to eight digits
    child.write_bytes(of_another.sub(lambda cid: b"12345678"[: len(cid[0])], child.read_bytes(), count=1))
    verb("mount", "--ignore-cid", child, target, "--layout", "blocks", "--overlay", overlay)
    verb("umount", target)
    new = overlay.with_name("new.raw")
    assert "--ignore-cid" in verb("overlay", "commit", overlay, "--to", new, code=8).stderr
    verb("overlay", "commit", overlay, "--to", new, "--ignore-cid")
    run("qemu-img", "compare", "-f", "vmdk", "-F", "raw", parent, new)


def test_an_original_that_changed_is_refused(
    verb: Callable[..., subprocess.CompletedProcess], disk: RealDisk, target: Path, overlay: Path, tmp_path: Path
) -> None:
    raw = Path(shutil.copy(disk.raw, tmp_path / "original.raw"))
    ours = ["--layout", "blocks", "--overlay", overlay]
    verb("mount", raw, target, *ours)
    write(target / "disks/disk0", 1000, b"changed")
    verb("umount", target)
    run("cp", "-p", raw, tmp_path / "copy")
    (tmp_path / "copy").replace(raw)
    verb("mount", raw, target, *ours)
    verb("umount", target)
    write(raw, 40 * MIB, b"by somebody else")
    before = digest(overlay)
    new = overlay.with_name("new.raw")
    for command in ("mount", raw, target, *ours), ("overlay", "commit", overlay, "--to", new):
        said = verb(*command, code=8).stderr
        assert str(raw) in said and "time is another" in said and "--ignore-cid" in said
    assert digest(overlay) == before and not new.exists() and not any(target.iterdir())
    assert "taken as it is now" in verb("overlay", "commit", overlay, "--to", new, "--ignore-cid").stderr
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, new)
    assert "taken as it is now" in verb("mount", "--ignore-cid", raw, target, *ours).stderr
    verb("umount", target)
    assert verb("mount", raw, target, *ours).stderr == ""
    verb("umount", target)
    check(overlay)


def test_no_verb_mixes_an_overlay_with_an_original_that_changed(
    mntapi: Mntapi, disk: RealDisk, target: Path, overlay: Path, tmp_path: Path
) -> None:
    """Nor with one under a QCOW2 file that qemu-img put on top; unless told to, and then it is said."""
    raw, top = tmp_path / "disk.raw", tmp_path / "top.qcow2"
    shutil.copyfile(disk.raw, raw)
    mntapi("mount", raw, target, "--layout", "blocks", "--overlay", overlay)
    mntapi("umount", target)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", overlay, top)
    mntapi("ls", overlay)
    mntapi("ls", top)
    write(raw, 20 * MIB, b"changed")
    out = tmp_path / "out.raw"
    convert = ("convert", "--format", "raw")
    for verb in ("info",), ("ls",), ("map",), convert, ("mount", "--layout", "blocks"):
        for child in overlay, top:
            rest = [out] if verb is convert else [target] if verb[0] == "mount" else []
            said = mntapi(*verb, child, *rest, code=8).stderr
            assert str(raw) in said and "made over" in said and "--ignore-cid" in said
    assert not out.exists()
    assert "made over" in mntapi("check", overlay, code=3).stdout
    assert "note: " in mntapi("check", "--ignore-cid", top).stdout
    for verb in ("ls",), ("mount", "--layout", "blocks"):
        rest = [target] if verb[0] == "mount" else []
        assert "taken as it is now" in mntapi(*verb, "--ignore-cid", top, *rest).stderr
    mntapi("umount", target)


def test_an_overlay_that_was_cut_short(mntapi: Mntapi, original: Path, target: Path, overlay: Path) -> None:
    mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay)
    write(target / "disks/disk0", 0, b"x" * MIB)
    mntapi("umount", target)
    os.truncate(overlay, overlay.stat().st_size - 100_000)
    said = mntapi("mount", original, target, "--layout", "blocks", "--overlay", overlay, code=8).stderr
    assert "cut short" in said and "at byte" in said and str(overlay) in said


def test_an_original_on_a_server(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path
) -> None:
    server = FakeWeb(original.read_bytes())
    try:
        verb("mount", server.url(), target, "--layout", "blocks", "--overlay", overlay)
        write(target / "volumes/disk0p2", 1000, b"changed")
        assert mntapi_state(verb) == ("ready", None)
        verb("umount", target)
        verb("overlay", "commit", overlay, "--to", overlay.with_name("new.raw"))
        os.removexattr(overlay, NOTE)
        assert "--parent" in verb("overlay", "commit", overlay, "--to", overlay.with_name("no.raw"), code=6).stderr
        verb("overlay", "commit", overlay, "--to", overlay.with_name("more.raw"), "--parent", server.url())
        verb("mount", server.url(), target, "--layout", "blocks", "--overlay", overlay)
        verb("umount", target)
    finally:
        server.stop()
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "vmdk", "-b", original, overlay)
    for name in ("new.raw", "more.raw"):
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, overlay.with_name(name))


def mntapi_state(mntapi: Callable[..., subprocess.CompletedProcess]) -> tuple[str, str | None]:
    [told] = json.loads(mntapi("ps", "--json").stdout)
    return told["state"], told["reason"]


def test_a_server_that_is_gone_is_seen(mntapi: Mntapi, disk: RealDisk, target: Path, overlay: Path, tmp_path: Path) -> None:
    """By the next read that needs it; looking asks nobody. And that it is back, when it is."""
    need("nbdkit")
    mntapi.environment["MNTAPI_SERVER_PATIENCE"] = "0"
    path, server = tmp_path / "socket", ("nbdkit", "--readonly", "file", disk.raw)
    with listen_unix(path) as sock, serving(sock, *server):
        mntapi("mount", f"nbd+unix:///?socket={path}", target, "--layout", "blocks", "--overlay", overlay)
    assert mntapi_state(mntapi) == ("ready", None)
    with pytest.raises(OSError, match="Input/output"):
        read(target / "disks/disk0", 40 * MIB, 4096)
    state, reason = mntapi_state(mntapi)
    assert state == "impaired" and str(path) in (reason or "")
    path.unlink(missing_ok=True)
    with listen_unix(path) as sock, serving(sock, *server):
        assert read(target / "disks/disk0", 40 * MIB, 4096) == read(disk.raw, 40 * MIB, 4096)
        assert mntapi_state(mntapi) == ("ready", None)
    mntapi("umount", target)


def test_a_disk_on_a_server_that_changed(
    verb: Callable[..., subprocess.CompletedProcess], disk: RealDisk, target: Path, overlay: Path, tmp_path: Path
) -> None:
    content = disk.raw.read_bytes()
    server = FakeWeb(content)
    ours = ["--layout", "blocks", "--overlay", overlay]
    try:
        verb("mount", server.url("/disk"), target, *ours)
        verb("umount", target)
        commit = ("overlay", "commit", overlay, "--to", tmp_path / "new.raw")
        for changed, headers, words in (
            (content[:-512] + b"x" * 512, {}, "start or end has other bytes"),
            (content[: 20 * MIB] + b"x" * 512 + content[20 * MIB + 512 :], {"ETag": '"v2"'}, "another ETag or date"),
        ):
            server.content, server.headers = changed, {**server.headers, **headers}
            for command in ("mount", server.url("/disk"), target, *ours), commit, ("ls", overlay, "--allow-outside"):
                assert words in verb(*command, code=8).stderr
    finally:
        server.stop()


def test_what_cannot_be_committed(verb: Callable[..., subprocess.CompletedProcess], original: Path, tmp_path: Path) -> None:
    assert "no overlay" in verb("overlay", "commit", original, "--to", tmp_path / "new.raw", code=2).stderr
    assert ".qcow2" in verb("overlay", "commit", original, "--to", tmp_path / "new.iso", code=2).stderr
    verb("overlay", "info", tmp_path / "absent", code=4)
    verb("overlay", "info", original, code=2)
    for action in ("info", "http://host/o.qcow2"), ("commit", "nbd://host", "--to", tmp_path / "new.raw"):
        told = verb("overlay", *action, code=2).stderr
        assert "not one on a server" in told and "mount --overlay" in told


def test_an_overlay_that_the_mount_would_hide(mntapi: Mntapi, original: Path, target: Path) -> None:
    error = mntapi("mount", "--layout", "blocks", "--overlay", target / "overlay", original, target, code=2).stderr
    assert "hidden" in error and not any(target.iterdir())


def test_an_original_in_pieces(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path, tmp_path: Path
) -> None:
    """It has no mark of its own: the overlay remembers that it is one."""
    raw = tmp_path / "whole.raw"
    run("qemu-img", "convert", "-O", "raw", original, raw)
    run("split", "-b", "7M", "-d", "-a", "3", "--numeric-suffixes=1", raw, tmp_path / "disk.")
    for content in (b"first", b"again"):
        verb("mount", tmp_path / "disk.001", target, "--layout", "blocks", "--overlay", overlay)
        write(target / "disks/disk0", 100, content)
        verb("umount", target)
    verb("overlay", "commit", overlay, "--to", tmp_path / "new.raw")
    wanted = bytearray(raw.read_bytes())
    wanted[100:105] = b"again"
    assert (tmp_path / "new.raw").read_bytes() == wanted


def test_an_original_without_its_end(
    verb: Callable[..., subprocess.CompletedProcess], original: Path, target: Path, overlay: Path, tmp_path: Path
) -> None:
    """Nobody takes that as it is: QCOW2 has zeros for what a backing file is too short for."""
    raw = tmp_path / "whole.raw"
    run("qemu-img", "convert", "-O", "raw", original, raw)
    verb("mount", raw, target, "--layout", "blocks", "--overlay", overlay)
    verb("umount", target)
    os.truncate(raw, raw.stat().st_size // 2)
    for command in (("info", overlay), ("convert", overlay, tmp_path / "new.raw", "--format", "raw")):
        for overruled in ((), ("--ignore-cid",)):
            told = verb(*command, *overruled, code=8).stderr
        assert "ends before" in told and str(raw) in told
    assert verb("overlay", "commit", overlay, "--to", tmp_path / "new.raw", "--ignore-cid", code=8)
    assert not (tmp_path / "new.raw").exists()
