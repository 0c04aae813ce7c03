"""Mounting sets and taking them away: nothing hangs, nothing leaks.

Oracles: the files the disk was made from, qemu-img, e2fsck, fls, findmnt, losetup.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.make_disk import RealDisk, need, run

pytestmark = pytest.mark.root


# An ordinary user who may read this checkout wherever it lies, and nothing more.
AS_NOBODY = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def is_mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def same_tree(shown: Path, source: Path) -> None:
    """All below ``source`` is at ``shown`` too, and nothing else but lost+found. mke2fs -d keeps whole seconds only."""
    names = {path.relative_to(source) for path in source.rglob("*")}
    assert {path.relative_to(shown) for path in shown.rglob("*")} - {Path("lost+found")} == names
    for name in names:
        one, other = (shown / name).lstat(), (source / name).lstat()
        assert (one.st_mode, int(one.st_mtime), one.st_nlink) == (other.st_mode, int(other.st_mtime), other.st_nlink), name
        if (source / name).is_symlink():
            assert os.readlink(shown / name) == os.readlink(source / name)
        elif (source / name).is_file():
            assert one.st_size == other.st_size and digest(shown / name) == digest(source / name), name


@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_volumes_as_folders(mounted, disk: RealDisk, backend: str) -> None:
    top = mounted(disk.vmdk, "--layout", "volumes", "--fuse-backend", backend)
    assert sorted(os.listdir(top)) == ["disk0p1", "disk0p2"]
    same_tree(top / "disk0p1", disk.files)
    assert (top / "disk0p2/budget.csv").read_bytes() == disk.budget
    with pytest.raises(OSError, match="Read-only"):
        (top / "disk0p1/new").write_text("x")
    with pytest.raises(FileNotFoundError):
        (top / "disk0p1/absent").stat()


def test_one_volume(mounted, disk: RealDisk) -> None:
    same_tree(mounted(disk.vmdk, "--volume", "disk0p1"), disk.files)


@pytest.mark.parametrize("backend", ["kernel", "fusepy"])
def test_block_files(mounted, disk: RealDisk, tmp_path: Path, backend: str) -> None:
    top = mounted(disk.vmdk, "--layout", "blocks", "--fuse-backend", backend)
    assert digest(top / "disks/disk0") == digest(disk.raw)
    assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", top / "disks/disk0", disk.raw).startswith(
        "Images are identical"
    )
    run("e2fsck", "-fn", top / "volumes/disk0p1")
    assert json.loads(run("sfdisk", "--json", top / "disks/disk0"))["partitiontable"]["label"] == "gpt"
    run("dd", f"if={top}/disks/disk0", f"of={tmp_path}/direct", "bs=1M", "iflag=direct", "status=none")
    assert digest(tmp_path / "direct") == digest(disk.raw)
    need("fls")
    assert "budget.csv" in run("fls", "-f", "ntfs", top / "volumes/disk0p2")


def test_the_kernels_own_file_systems(mounted, disk: RealDisk, mntapi) -> None:
    need("ntfs-3g")
    top = mounted(disk.vmdk, "--via", "kernel")
    same_tree(top / "disk0p1", disk.files)
    assert (top / "disk0p2/budget.csv").read_bytes() == disk.budget
    mounts = {
        one["target"]: one for one in json.loads(run("findmnt", "--json", "--list", "-o", "TARGET,OPTIONS"))["filesystems"]
    }
    for target in (top / "disk0p1", top / "disk0p2"):
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts[str(target)]["options"].split(","))
    loops = [one for one in json.loads(run("losetup", "--json"))["loopdevices"] if str(mntapi.run_dir) in one["back-file"]]
    assert len(loops) == 2 and all(one["ro"] for one in loops)


def test_one_volume_by_the_kernel(mounted, disk: RealDisk) -> None:
    same_tree(mounted(disk.vmdk, "--via", "kernel", "--volume", "disk0p1"), disk.files)


def test_what_the_kernel_cannot_mount_is_said(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    (tmp_path / "unknown.raw").write_bytes(random.Random(5).randbytes(1 << 20))
    assert "none of the volumes" in mntapi("mount", "--via", "kernel", tmp_path / "unknown.raw", target, code=7).stderr
    mntapi("mount", "--via", "kernel", "--layout", "blocks", disk.vmdk, target, code=7)
    assert not is_mounted(target)


def test_what_the_kernel_cannot_mount_is_no_empty_folder(mounted, disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "unknown.raw").write_bytes(b"\xff" * (1 << 20))
    top = mounted(disk.vmdk, "-d", tmp_path / "unknown.raw", "--via", "kernel")
    same_tree(top / "disk0p1", disk.files)
    assert os.readlink(top / "disk1").startswith("not mounted: nothing that is known")
    with pytest.raises(FileNotFoundError):
        os.listdir(top / "disk1")


def test_unreadable_volumes_are_there_and_say_why(mntapi, mounted, disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "unknown.raw").write_bytes(b"\xff" * (1 << 20))
    top = mounted(disk.vmdk, "-d", tmp_path / "unknown.raw", "--layout", "volumes")
    assert "disk1" in os.listdir(top)
    with pytest.raises(OSError, match="not supported"):
        os.listdir(top / "disk1")
    assert os.getxattr(top / "disk1", "user.mntapi.reason") == b"unknown"


def test_ps(mntapi, mounted, disk: RealDisk) -> None:
    top = mounted(disk.vmdk)
    [one] = mntapi.json("ps")
    assert (one["mountpoint"], one["state"], one["disks"]) == (str(top), "ready", [str(disk.vmdk)])
    assert one["memory"] < 64 << 20 and one["pid"] == mntapi.workers()[0].pid
    assert str(top) in mntapi("ps").stdout


def test_the_worker_is_confined(mntapi, mounted, disk: RealDisk) -> None:
    mounted(disk.vmdk)
    [worker] = mntapi.workers()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


@pytest.mark.parametrize(
    ("prepare", "code"),
    [(lambda path: path.rmdir(), 4), (lambda path: (path / "file").touch(), 6), (lambda path: (path.rmdir(), path.touch()), 2)],
)
def test_what_is_no_mount_point(mntapi, disk: RealDisk, target: Path, prepare: Callable[[Path], object], code: int) -> None:
    prepare(target)
    mntapi("mount", disk.vmdk, target, code=code)


def test_a_second_mount_on_the_same_folder_is_refused_elsewhere_it_is_fine(
    mntapi, mounted, disk: RealDisk, tmp_path: Path
) -> None:
    top = mounted(disk.vmdk)
    assert "mntapi umount" in mntapi("mount", disk.vmdk, top, code=5).stderr
    (tmp_path / "other").mkdir()
    mntapi("mount", disk.vmdk, tmp_path / "other")
    assert (tmp_path / "other/disk0p1/etc/hostname").read_text() == "web01\n"
    mntapi("umount", tmp_path / "other")
    assert (top / "disk0p1/etc/hostname").read_text() == "web01\n"


def test_a_disk_that_cannot_be_opened_leaves_nothing(mntapi, target: Path, tmp_path: Path, disk: RealDisk) -> None:
    (tmp_path / "empty.vmdk").touch()
    mntapi("mount", tmp_path / "empty.vmdk", target, code=8)
    mntapi("mount", tmp_path / "absent.vmdk", target, code=4)
    mntapi("mount", disk.vmdk, target, "--volume", "disk0p7", code=4)
    mntapi("mount", disk.vmdk, target, "--volume", "disk0p7", "--via", "kernel", code=4)
    assert not is_mounted(target) and mntapi.json("ps") == []


def test_umount_of_what_is_not_mounted(mntapi, target: Path) -> None:
    assert "mntapi ps" in mntapi("umount", target, code=4).stderr


@pytest.mark.parametrize("via", ["user", "kernel"])
def test_a_busy_mount_names_who_keeps_it_and_force_ends_it(mntapi, disk: RealDisk, target: Path, via: str) -> None:
    mntapi("mount", disk.vmdk, target, "--via", via)
    holder = subprocess.Popen(["sleep", "60"], cwd=target / "disk0p1/etc")
    try:
        busy = mntapi("umount", target, code=5).stderr
        assert "sleep" in busy and str(holder.pid) in busy
        assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
        mntapi("umount", "--force", target)
        assert not is_mounted(target)
    finally:
        holder.kill()
        holder.wait()
    wait_for(
        lambda: not [one for one in run("losetup", "-n", "-O", "BACK-FILE").split() if str(mntapi.run_dir) in one], "loops"
    )


def test_umount_from_outside_is_noticed(mntapi, disk: RealDisk, target: Path) -> None:
    mntapi("mount", disk.vmdk, target)
    run("umount", target)
    wait_for(lambda: not mntapi.workers(), "the worker")
    assert mntapi.json("ps") == []
    mntapi("mount", disk.vmdk, target)
    mntapi("umount", target)


@pytest.mark.parametrize("via", ["user", "kernel"])
def test_kill_9_of_the_worker(mntapi, disk: RealDisk, target: Path, via: str) -> None:
    mntapi("mount", disk.vmdk, target, "--via", via)
    mntapi.workers()[0].kill()
    wait_for(lambda: not mntapi.workers(), "the worker")
    if via == "user":
        with pytest.raises(OSError, match=r"not connected|connection abort"):  # the second while the kernel is still at it
            os.listdir(target / "disk0p1")
    assert mntapi.json("ps")[0]["state"] == "dead"
    assert mntapi.json("clean") == {"cleaned": [str(target)], "failed": []}
    assert not is_mounted(target)


def test_kill_9_of_the_worker_and_umount(mntapi, disk: RealDisk, target: Path) -> None:
    mntapi("mount", disk.vmdk, target)
    mntapi.workers()[0].kill()
    mntapi("umount", target)
    assert not is_mounted(target)


def test_clean_leaves_live_mounts_alone(mntapi, mounted, disk: RealDisk) -> None:
    top = mounted(disk.vmdk)
    assert mntapi.json("clean") == {"cleaned": [], "failed": []}
    assert (top / "disk0p1/etc/hostname").read_text() == "web01\n"


@pytest.mark.parametrize("via", ["user", "kernel"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_is_stopped_at_any_moment(mntapi, disk: RealDisk, target: Path, via: str, number: signal.Signals) -> None:
    began = time.monotonic()
    mntapi("mount", disk.vmdk, target, "--via", via)
    took = time.monotonic() - began
    mntapi("umount", target)
    for part in range(1, 10, 2):
        command = mntapi.start("mount", disk.vmdk, target, "--via", via, stderr=subprocess.PIPE, text=True)
        time.sleep(took * part / 10)
        command.send_signal(number)
        _, errors = command.communicate(timeout=30)
        assert "Traceback" not in errors, errors
        if number == signal.SIGKILL:
            wait_for(
                lambda: mntapi.json("clean") and not [one for one in mntapi.json("ps") if one["state"] != "ready"], "clean"
            )
        if mntapi.json("ps"):  # it was ready before the signal came
            mntapi("umount", target)
        assert not is_mounted(target) and os.listdir(target) == []
    wait_for(lambda: not mntapi.workers(), "the workers")


def test_foreground_ends_with_ctrl_c(mntapi, disk: RealDisk, target: Path) -> None:
    command = mntapi.start("mount", "--foreground", disk.vmdk, target, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: is_mounted(target) and mntapi.json("ps")[0]["state"] == "ready", "the mount")
    assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
    command.send_signal(signal.SIGINT)
    assert "Traceback" not in command.communicate(timeout=30)[1]
    assert command.returncode == 0 and not is_mounted(target)


def test_foreground_ends_with_umount(mntapi, disk: RealDisk, target: Path) -> None:
    command = mntapi.start("mount", "--foreground", disk.vmdk, target, stderr=subprocess.DEVNULL)
    wait_for(lambda: is_mounted(target) and mntapi.json("ps")[0]["state"] == "ready", "the mount")
    mntapi("umount", target)
    assert command.wait(timeout=30) == 0


def test_32_sets_at_once(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    targets = [tmp_path / f"mnt{number}" for number in range(32)]
    for path in targets:
        path.mkdir()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: mntapi("mount", disk.vmdk, path), targets))
        assert len(mntapi.json("ps")) == 32
        assert set(pool.map(lambda path: digest(path / "disk0p2/budget.csv"), targets)) == {
            hashlib.sha256(disk.budget).hexdigest()
        }
        list(pool.map(lambda path: mntapi("umount", path), targets))


def test_parallel_readers_and_extended_attributes(mounted, disk: RealDisk) -> None:
    top = mounted(disk.vmdk)
    file = top / "disk0p1/deep/er/still/data.bin"
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(digest, [file, top / "disk0p1/deep/er/still/data.bin"] * 16))) == 1
    assert digest(file) == digest(disk.files / "deep/er/still/data.bin")


def test_an_odd_name_cannot_slip_in_mount_options(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a,allow_other,suid \\ \n.vmdk"
    odd.symlink_to(disk.vmdk)
    mntapi("mount", odd, target)
    [line] = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {target} " in line]
    assert "allow_other" not in line.split(" - ")[1].split()[2]
    mntapi("umount", target)


@pytest.fixture
def home(disk: RealDisk) -> Iterator[Path]:
    """A folder of an ordinary user, with a mount point and a disk; not below pytest's own, which is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mnt").mkdir()
        shutil.copy(disk.vmdk, folder / "web01.vmdk")
        for path in (folder, folder / "mnt", folder / "web01.vmdk"):
            os.chown(path, 65534, 65534)
        yield folder


def test_an_ordinary_user_mounts_through_fusermount3(home: Path) -> None:
    need("setpriv", "fusermount3")
    os.chmod("/dev/fuse", 0o666)
    command = f"{sys.executable} -m mntapi.cli.entry"
    mountpoint = home / "mnt"
    script = f"""
        set -e
        {command} mount {home}/web01.vmdk {mountpoint}
        cat {mountpoint}/disk0p1/etc/hostname
        {command} ps
        {command} umount {mountpoint}
        {command} ps
    """
    done = subprocess.run(
        [*AS_NOBODY, "sh", "-c", script],
        env={**os.environ, "MNTAPI_RUN_DIR": str(home / "run"), "MNTAPI_STATE_DIR": str(home / "state"), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("web01\n") and "ready" in done.stdout
    assert list((home / "run").iterdir()) == [] and not is_mounted(home / "mnt")


def test_mounting_changes_neither_bytes_nor_times(mntapi, disk: RealDisk, target: Path) -> None:
    before = digest(disk.vmdk)
    os.utime(disk.vmdk, ns=(1, 2))
    for via in ("user", "kernel"):
        mntapi("mount", disk.vmdk, target, "--via", via)
        digest(target / "disk0p2/budget.csv")
        mntapi("umount", target)
    assert (disk.vmdk.stat().st_atime_ns, disk.vmdk.stat().st_mtime_ns) == (1, 2)
    assert digest(disk.vmdk) == before


def test_two_commands_want_the_same_folder(mntapi, disk: RealDisk, target: Path) -> None:
    both = [mntapi.start("mount", disk.vmdk, target, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(command.wait(60) for command in both) == [0, 5]
    mntapi("umount", target)
    assert not is_mounted(target)


def test_a_stuck_worker_does_not_hang_umount(mntapi, disk: RealDisk, target: Path) -> None:
    mntapi("mount", disk.vmdk, target)
    mntapi.workers()[0].suspend()
    mntapi("umount", "--force", target)
    assert not is_mounted(target)


def test_a_folder_that_was_renamed(mntapi, disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "a/mnt").mkdir(parents=True)
    mntapi("mount", disk.vmdk, tmp_path / "a/mnt")
    (tmp_path / "a").rename(tmp_path / "b")
    assert mntapi.json("ps")[0]["state"] == "ready" and mntapi.json("clean")["cleaned"] == []
    mntapi("umount", tmp_path / "b/mnt")
    assert not is_mounted(tmp_path / "b/mnt")


def test_something_mounted_over_it_is_not_ours_to_take(mntapi, disk: RealDisk, target: Path) -> None:
    mntapi("mount", disk.vmdk, target)
    run("mount", "-t", "tmpfs", "none", target)
    assert "umount" in mntapi("umount", target, code=5).stderr
    run("umount", target)
    assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
    mntapi("umount", target)


def test_a_bind_mount_in_use_keeps_it(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    mntapi("mount", disk.vmdk, target)
    (tmp_path / "bound").mkdir()
    run("mount", "--bind", target / "disk0p1/etc", tmp_path / "bound")
    with (tmp_path / "bound/hostname").open() as file:
        mntapi("umount", target, code=5)
        assert file.read() == "web01\n"
    mntapi("umount", target)
    assert not is_mounted(tmp_path / "bound")


def test_a_kernel_mount_is_its_owners(mntapi, mounted, disk: RealDisk, tmp_path: Path) -> None:
    top = mounted(disk.vmdk, "--via", "kernel")
    assert top.stat().st_mode & 0o777 == 0o700
    (tmp_path / "other").mkdir()
    mntapi("mount", "--via", "kernel", "--allow-other", disk.vmdk, tmp_path / "other")
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o755
    mntapi("umount", tmp_path / "other")
