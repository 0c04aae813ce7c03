"""Loop devices for real. Oracles: losetup --json, blockdev, and the bytes of the backing file."""

from __future__ import annotations

import json
import os
import select
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mntapi.errors import Busy, Invalid, NotFound
from mntapi.kernel import loop
from mntapi.kernel.loop import LoopDevice, attach, attached_below, detach_if, status

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists(loop.CONTROL), reason="needs root and loop devices"),
]

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file of 4 MiB whose every 512 bytes are different; whatever is attached to it is detached in the end."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(number.to_bytes(8, "little") * 64 for number in range(4 * MIB // 512)))
    yield path
    for device in attached_below(str(tmp_path)):
        subprocess.run(["losetup", "--detach", device.path], check=False)
    assert not attached_below(str(tmp_path))


def losetup(path: str) -> dict[str, Any]:
    """What losetup says of a device; nothing if it is not attached."""
    command = ["losetup", "--json", "--list", "-O", "NAME,SIZELIMIT,OFFSET,AUTOCLEAR,RO,BACK-FILE,DIO,LOG-SEC"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    devices = json.loads(listed)["loopdevices"] if listed.strip() else []
    return next((device for device in devices if device["name"] == path), {})


def content(path: str) -> bytes:
    with open(path, "rb") as device:
        return device.read()


def test_attach_and_detach(disk: Path) -> None:
    with attach(str(disk)) as device:
        told = losetup(device.path)
        assert told["back-file"] == str(disk)
        assert (told["ro"], told["autoclear"], told["offset"], told["sizelimit"]) == (True, False, 0, 0)
        assert device.size == 4 * MIB
        assert content(device.path) == disk.read_bytes()
        assert device.status == status(device.number)
        assert device.status.read_only and not device.status.autoclear
    assert losetup(device.path) == {}
    device.detach()  # twice is fine


def test_read_only_is_read_only(disk: Path) -> None:
    with attach(str(disk)) as device, pytest.raises(OSError, match=r"Operation not permitted|Read-only|Permission"):
        fd = os.open(device.path, os.O_WRONLY)
        try:
            os.write(fd, bytes(512))
            os.fsync(fd)
        finally:
            os.close(fd)


def test_writable_on_request(disk: Path) -> None:
    with attach(str(disk), read_only=False) as device:
        assert losetup(device.path)["ro"] is False
        fd = os.open(device.path, os.O_WRONLY)
        os.pwrite(fd, b"W" * 512, 512)
        os.fsync(fd)
        os.close(fd)
    assert disk.read_bytes()[512:1024] == b"W" * 512


def test_a_writable_descriptor_attached_read_only(disk: Path) -> None:
    with disk.open("r+b") as file, attach(file.fileno()) as device:
        assert losetup(device.path)["ro"] is True
        assert not file.closed


def test_offset_and_limit(disk: Path) -> None:
    with attach(str(disk), offset=MIB, size_limit=64 * 1024) as device:
        told = losetup(device.path)
        assert (told["offset"], told["sizelimit"]) == (MIB, 64 * 1024)
        assert (device.status.offset, device.status.size_limit) == (MIB, 64 * 1024)
        assert content(device.path) == disk.read_bytes()[MIB : MIB + 64 * 1024]


def test_descriptor(disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        with attach(fd) as device:
            assert losetup(device.path)["back-file"] == str(disk)
        os.fstat(fd)  # still the caller's
    finally:
        os.close(fd)


@pytest.mark.parametrize("sector_size", [512, 1024, 2048, 4096])
def test_sector_size(disk: Path, sector_size: int) -> None:
    with attach(str(disk), sector_size=sector_size) as device:
        asked = subprocess.run(["blockdev", "--getss", device.path], capture_output=True, check=True)
        assert int(asked.stdout) == sector_size == losetup(device.path)["log-sec"]


def test_direct_io_is_told_as_it_is(disk: Path) -> None:
    with attach(str(disk), direct_io=True) as device:
        assert device.status.direct_io == losetup(device.path)["dio"]
        assert content(device.path) == disk.read_bytes()
    with attach(str(disk)) as device:
        assert not device.status.direct_io


def test_odd_size_shows_whole_sectors(tmp_path: Path, disk: Path) -> None:
    odd = tmp_path / "odd.raw"
    odd.write_bytes(disk.read_bytes()[:1300])
    with attach(str(odd)) as device:
        assert device.size == 1024
        assert content(device.path) == odd.read_bytes()[:1024]


def test_autoclear_lives_as_long_as_its_user(disk: Path) -> None:
    device = attach(str(disk), autoclear=True)
    assert losetup(device.path)["autoclear"] is True
    with open(device.path, "rb"):
        device.release()
        assert losetup(device.path)["back-file"] == str(disk)
    assert losetup(device.path) == {}


def test_autoclear_with_nobody_left(disk: Path) -> None:
    with attach(str(disk), autoclear=True) as device:
        assert losetup(device.path)
    assert losetup(device.path) == {}


def test_a_name_longer_than_the_ioctl_can_tell(tmp_path: Path, disk: Path) -> None:
    long = tmp_path / ("n" * 200 + " with\nnewline")
    disk.rename(long)
    with attach(str(long)) as device:
        assert device.status.backing_file == str(long)
        assert status(device.number).backing_name == str(long)
        assert [found.number for found in attached_below(str(tmp_path))] == [device.number]


def test_a_deleted_file(disk: Path) -> None:
    device = attach(str(disk))
    device.release()
    disk.unlink()
    now = status(device.number)
    assert now.backing_file == f"{disk} (deleted)"
    assert now.backing_name == str(disk)
    assert detach_if(device.number, str(disk))
    assert losetup(device.path) == {}


def test_a_renamed_file_is_still_detached(disk: Path) -> None:
    with attach(str(disk)) as device:
        disk.rename(disk.with_name("other.raw"))
    assert losetup(device.path) == {}


def test_attached_below(tmp_path: Path, disk: Path) -> None:
    folder = tmp_path / "disk.raw.d"  # its name begins like the file's
    folder.mkdir()
    inner = folder / "inner"
    shutil.copy(disk, inner)
    with attach(str(disk)) as one, attach(str(inner)) as two:
        assert {device.number for device in attached_below(str(tmp_path))} == {one.number, two.number}
        assert {device.number for device in attached_below(str(folder))} == {two.number}
        assert {device.number for device in attached_below(str(disk))} == {one.number}
        assert {device.path for device in attached_below(str(folder))} == {two.path}


def test_detach_if_asks_first(disk: Path) -> None:
    with attach(str(disk)) as device:
        device.release()
        assert not detach_if(device.number, "/some/other/file")
        assert not detach_if(device.number, str(disk), sequence=1)
        assert losetup(device.path)
        assert detach_if(device.number, "/under another name by now", sequence=device.status.sequence)
        assert not detach_if(device.number, str(disk))


def test_a_number_used_again_is_left_alone(tmp_path: Path, disk: Path) -> None:
    device = attach(str(disk))
    device.release()
    subprocess.run(["losetup", "--detach", device.path], check=True)
    taken = subprocess.run(["losetup", device.path, str(disk)], capture_output=True, check=False)
    if taken.returncode:
        pytest.skip("another program took the number first")
    device.detach()  # the same file, offset and number; but somebody else's attachment
    assert losetup(device.path)["back-file"] == str(disk)


def test_mounted_is_busy_and_stays(tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, target = tmp_path / "ext4.raw", tmp_path / "mnt"
    target.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image), "8M"], check=True)
    device = attach(str(image))
    try:
        subprocess.run(["mount", "-o", "ro,noload", device.path, str(target)], check=True)
        try:
            with pytest.raises(Busy, match=str(target)) as caught:
                device.detach()
            assert caught.value.reason == "mounted"
            with pytest.raises(Busy):
                detach_if(device.number, str(image))
            assert losetup(device.path)["autoclear"] is False  # really untouched
        finally:
            subprocess.run(["umount", str(target)], check=True)
    finally:
        device.detach()
    assert losetup(device.path) == {}


def test_open_elsewhere_is_busy_until_closed(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "DETACH_WAIT_S", 0.0)
    device = attach(str(disk))
    with open(device.path, "rb"):
        with pytest.raises(Busy, match="still open") as caught:
            device.detach()
        assert caught.value.reason == "open"
    assert losetup(device.path) == {}


def test_cleanup_does_not_hide_the_first_error(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "DETACH_WAIT_S", 0.0)
    device = attach(str(disk))
    with open(device.path, "rb"), pytest.raises(KeyError) as caught, device:
        raise KeyError("the first error")
    assert "still open" in caught.value.__notes__[0]
    device = attach(str(disk))
    with open(device.path, "rb"), pytest.raises(Busy), device:
        assert True


def test_twenty_at_once(disk: Path) -> None:
    """All race for the same free numbers; each gets one, all show the same bytes."""
    with ThreadPoolExecutor(20) as pool:
        devices: list[LoopDevice] = list(pool.map(lambda _: attach(str(disk), offset=512), range(20)))
        try:
            assert len({device.number for device in devices}) == 20
            assert all(losetup(device.path)["back-file"] == str(disk) for device in devices)
        finally:
            list(pool.map(LoopDevice.detach, devices))
    assert not attached_below(str(disk))


def test_a_missing_node_is_made(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing makes /dev/loopN: the node is made in a folder of the test's own."""
    monkeypatch.setattr(loop, "DEVICES", str(tmp_path))
    with attach(str(disk)) as device:
        node = tmp_path / f"loop{device.number}"
        assert device.path == str(node)
        found = node.stat()
        assert stat.S_ISBLK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_rdev == os.stat(f"/dev/loop{device.number}").st_rdev
        assert content(str(node)) == disk.read_bytes()


@pytest.mark.parametrize(
    ("offset", "size_limit"),
    [(4 * MIB, 0), (4 * MIB - 511, 0), (0, 4 * MIB + 512), (MIB, 3 * MIB + 1), (-512, 0), (0, -1)],
)
def test_ranges_outside_the_file(disk: Path, offset: int, size_limit: int) -> None:
    with pytest.raises(Invalid, match="not inside"):
        attach(str(disk), offset=offset, size_limit=size_limit)


@pytest.mark.parametrize("sector_size", [0, 256, 513, 1536, 8192])
def test_sector_sizes_that_are_none(disk: Path, sector_size: int) -> None:
    with pytest.raises(Invalid, match="sector size"):
        attach(str(disk), sector_size=sector_size)


def test_things_that_are_no_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Invalid, match="regular file or a block device"):
            attach(str(path))
    with pytest.raises(NotFound):
        attach(str(tmp_path / "nowhere"))


def test_a_loop_on_a_loop(disk: Path) -> None:
    with attach(str(disk), offset=512) as outer, attach(outer.path, offset=512) as inner:
        assert inner.size == 4 * MIB - 1024
        assert content(inner.path) == disk.read_bytes()[1024:]


def test_status_of_what_is_not_attached() -> None:
    with pytest.raises(NotFound, match="not attached"):
        status(999_999)


@pytest.fixture
def fuse_file(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A raw disk, and the same as a file served by somebody else's FUSE server out of a VMDK."""
    for program in ("qemu-storage-daemon", "qemu-img", "mkfs.ext4"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    raw, vmdk, exported = tmp_path / "raw", tmp_path / "disk.vmdk", tmp_path / "exported"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "inside", str(raw), "8M"], check=True)
    subprocess.run(["qemu-img", "convert", "-q", "-O", "vmdk", str(raw), str(vmdk)], check=True)
    exported.touch()
    pidfile = tmp_path / "pid"
    command = [
        *("qemu-storage-daemon", "--daemonize", "--pidfile", str(pidfile)),
        *("--blockdev", f"driver=file,filename={vmdk},node-name=file,read-only=on"),
        *("--blockdev", "driver=vmdk,file=file,node-name=disk,read-only=on"),
        *("--export", f"type=fuse,id=export,node-name=disk,mountpoint={exported},writable=off"),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("qemu-storage-daemon cannot export over FUSE here")
    try:
        yield raw, exported
    finally:
        with os.fdopen(os.pidfd_open(int(pidfile.read_text()))) as server:
            os.kill(int(pidfile.read_text()), 15)
            select.select([server], [], [], 10)
        subprocess.run(["umount", "--lazy", str(exported)], capture_output=True, check=False)


def test_over_fuse(fuse_file: tuple[Path, Path], tmp_path: Path) -> None:
    raw, exported = fuse_file
    with attach(str(exported), autoclear=True) as device:
        assert content(device.path) == raw.read_bytes()
        told = subprocess.run(["blkid", "-p", "-o", "value", "-s", "LABEL", device.path], capture_output=True, text=True)
        assert told.stdout.strip() == "inside"
    assert not attached_below(str(tmp_path))


def test_detach_when_the_server_is_dead(fuse_file: tuple[Path, Path], tmp_path: Path) -> None:
    """The one case LOOP_GET_STATUS64 cannot do: its file system does not answer any more."""
    _, exported = fuse_file
    device = attach(str(exported))
    device.release()
    server = int((tmp_path / "pid").read_text())
    with os.fdopen(os.pidfd_open(server)) as ended:
        os.kill(server, 9)
        select.select([ended], [], [], 10)
    assert status(device.number).backing_name == str(exported)
    assert detach_if(device.number, str(exported))
    assert losetup(device.path) == {}
