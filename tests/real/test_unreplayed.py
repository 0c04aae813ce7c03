"""What a user is told of volumes whose newest changes are in a journal. The journals are left by the kernel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from contract.make_disk import need, run
from contract.mounting import mounted, need_root

pytestmark = pytest.mark.root


def snapshot(tmp_path: Path, *options: str) -> Path:
    """A copy of a mounted ext4, made right after a file was synced."""
    need_root()
    need("mke2fs")
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as out:
        out.truncate(32 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext4", *options, image)
    with mounted(image, "rw") as top:
        (top / "first").write_text("1")
        run("sync", "-f", top)
        with (top / "second").open("w") as file:
            file.write("2")
            file.flush()
            os.fsync(file.fileno())
            shutil.copy(image, copy)
    return copy


def test_a_journal_that_was_replayed_needs_no_note(mntapi, tmp_path: Path) -> None:
    disk = snapshot(tmp_path)
    done = mntapi("ls", disk, "/disk0")
    assert done.stdout.split() == ["first", "lost+found", "second"] and done.stderr == ""
    assert mntapi("cat", disk, "/disk0/second").stdout == "2"
    (volume,) = mntapi.json("info", disk)["volumes"]
    assert (volume["state"], volume["reason"]) == ("ok", "journal replayed in memory")


@pytest.mark.parametrize("verb", [("ls", "/disk0"), ("cat", "/disk0/first"), ("find", "/"), ("versions", "/disk0/first")])
def test_one_that_was_not_is_told_once(mntapi, tmp_path: Path, verb: tuple[str, str]) -> None:
    disk = snapshot(tmp_path, "-O", "fast_commit")
    done = mntapi(verb[0], disk, verb[1])
    assert done.stderr.count("\n") == 1 and "note: disk0 is dirty: fast commits" in done.stderr
    assert "note" not in done.stdout


def test_a_volume_that_cannot_be_opened_is_not_ok(mntapi, tmp_path: Path) -> None:
    """The superblock is sound, the root folder is not."""
    need("debugfs")
    disk = tmp_path / "disk"
    with disk.open("wb") as out:
        out.truncate(8 << 20)
    run("mke2fs", "-q", "-F", "-t", "ext2", disk)
    run("debugfs", "-w", "-R", "clri <2>", disk)
    (volume,) = mntapi.json("info", disk)["volumes"]
    assert volume["state"] == "damaged" and "inode 2 is not in use" in volume["reason"]


def test_the_kernel_shows_it_as_it_lies_unless_it_may_write(mntapi, tmp_path: Path) -> None:
    disk, target = snapshot(tmp_path), tmp_path / "target"
    target.mkdir()
    done = mntapi("mount", "--via", "kernel", disk, target)
    mntapi("umount", target)
    assert "disk0: journal not replayed: a read-only kernel mount leaves it so" in done.stderr
    done = mntapi("mount", "--via", "kernel", "--overlay", "memory", disk, target)
    content = (target / "disk0/second").read_text()
    mntapi("umount", target)
    assert "not replayed" not in done.stderr and content == "2"


def test_a_file_that_is_in_the_journal_only(mntapi, tmp_path: Path) -> None:
    disk = snapshot(tmp_path, "-O", "fast_commit")
    error = mntapi("cat", disk, "/disk0/second", code=4).stderr
    assert "no such name" in error and "note: disk0 is dirty" in error


@pytest.mark.parametrize(
    "make", [("mke2fs", "-q", "-F", "-t", "ext4"), ("mkfs.xfs", "-q"), ("mkfs.btrfs", "-q"), ("mkfs.ntfs", "-q", "-F", "-Q")]
)
def test_a_disk_that_was_not_copied_whole(mntapi, tmp_path: Path, make: tuple[str, ...]) -> None:
    need(make[0])
    disk = tmp_path / "disk"
    with disk.open("wb") as out:
        out.truncate(320 << 20)
    run(*make, disk)
    assert mntapi.json("info", disk)["volumes"][0]["state"] == "ok"
    os.truncate(disk, 200 << 20)
    (volume,) = mntapi.json("info", disk)["volumes"]
    assert volume["state"] == "damaged" and "cut off" in volume["reason"]
