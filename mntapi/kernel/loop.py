"""Loop devices: a file as a block device.

Two lifetimes. Without ``autoclear`` a device stays until it is detached, whoever made it. With it the kernel detaches the
device when its last user (a mount, or our own descriptor) is gone; so ``attach(autoclear=True)``, mount, ``release()`` leaves
nothing behind whatever happens to us afterwards.

Source: linux/loop.h, loop(4); drivers/block/loop.c for what the flags do.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
import time
from collections.abc import Callable

from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, MntapiError, NotFound, Unsupported
from mntapi.kernel.ioctl import device_size, ioctl
from mntapi.kernel.loop_status import LoopStatus, attached_below, minor, status
from mntapi.kernel.mountinfo import mounts
from mntapi.kernel.nodes import ensure_node
from mntapi.units import align_down

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

LOOP_MAJOR = 7
MISC_MAJOR = 10
LOOP_CTRL_MINOR = 237
CONTROL = "/dev/loop-control"
DEVICES = "/dev"

__all__ = ["LoopDevice", "LoopStatus", "attach", "attached_below", "detach_if", "status"]

ATTEMPTS = 256
"""Free devices we ask for before giving up. Each failure means that another process got one, so it moves on."""
DETACH_WAIT_S = 1.0
"""How long a detached device may take to disappear: a scanner that looks at new devices may hold it for a moment."""
_SECTOR = 512
_MAX_SECTOR_SIZE = 4096

# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt type, key size, flags,
# file name, crypt name, key, init; struct loop_config puts fd and block size before and 64 reserved bytes behind it.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG = struct.Struct("=2I232s64x")


class LoopDevice:
    """An attached loop device that is ours.

    Leaving its ``with`` detaches it; with ``autoclear`` it releases it, and what was mounted on it meanwhile keeps it alive.
    """

    def __init__(self, fd: int, path: str, status: LoopStatus, size: int) -> None:
        self._fd = fd
        self._detached = False
        self.path = path
        self.number = status.number
        self.status = status
        self.size = size
        """Bytes that the device shows: whole 512-byte sectors, so up to 511 bytes fewer than the file holds."""

    def release(self) -> None:
        """Let go of our own descriptor. With ``autoclear`` the device then lives as long as its mount does."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def detach(self) -> None:
        """Detach the device. Doing it twice, or when the number serves another file by now, does nothing.

        Raises:
            Busy: it is mounted (and stays attached), or still open (and goes away with its last user).
        """
        if self._detached:
            return
        self.release()
        _clear(self.number, self.status.is_same)
        self._detached = True

    def __enter__(self) -> LoopDevice:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if self.status.autoclear:
                self.release()
            else:
                self.detach()
        except MntapiError as trouble:
            if error is None:
                raise
            error.add_note(f"and {trouble}")  # cleanup never hides the first error


def attach(
    backing: int | str,
    *,
    offset: int = 0,
    size_limit: int = 0,
    read_only: bool = True,
    autoclear: bool = False,
    direct_io: bool = False,
    sector_size: int = 512,
) -> LoopDevice:
    """Attach a file to a free loop device.

    Args:
        backing: an open descriptor (stays the caller's) or a path.
        offset: first byte of the file that the device shows.
        size_limit: bytes that it shows at most, 0 for all; must lie inside the file.
        direct_io: ask for I/O around the page cache; ``status.direct_io`` says whether the kernel could do it.
        sector_size: logical sector size in bytes, a power of two from 512 to 4096.

    Raises:
        Invalid: offset, limit or sector size make no sense.
        NotFound: there is no such file.
        Denied: no right to open the file or loop devices; no device node may be made.
        Busy: no free device could be had.
        Unsupported: the kernel has no loop devices, or no LOOP_CONFIGURE (before 5.8).
        Failed: any other answer of the kernel, or a device that is not what was asked for.
    """
    if sector_size not in (512, 1024, 2048, _MAX_SECTOR_SIZE):
        raise Invalid(f"a sector size of {sector_size} bytes is not a power of two from {_SECTOR} to {_MAX_SECTOR_SIZE}")
    fd = backing if isinstance(backing, int) else _open_backing(backing, read_only)
    try:
        expected_size = _shown_size(fd, offset, size_limit)
        flags = (
            (LO_FLAGS_READ_ONLY if read_only else 0)
            | (LO_FLAGS_AUTOCLEAR if autoclear else 0)
            | (LO_FLAGS_DIRECT_IO if direct_io else 0)
        )
        name = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))[:63]
        info = _INFO.pack(0, 0, 0, offset, size_limit, 0, 0, 0, flags, name, b"", b"", 0, 0)
        device = _configure_free(_CONFIG.pack(fd, sector_size, info), read_only)
        return _verified(device, os.fstat(fd), expected_size, flags)
    finally:
        if fd is not backing:
            os.close(fd)


def detach_if(number: int, backing_file: str, *, sequence: int | None = None) -> bool:
    """Detach the device if it is still what it was; whether it was. For cleaning up after a crash.

    Args:
        backing_file: the path it was attached to.
        sequence: ``LoopStatus.sequence`` of then, if it was kept: it decides, whatever the file is called by now.

    Raises:
        Busy: it is mounted (and stays attached), or still open (and goes away with its last user).
    """

    def is_it(now: LoopStatus) -> bool:
        if sequence is not None and now.sequence is not None:
            return now.sequence == sequence
        return backing_file in (now.backing_name, now.backing_file)

    return _clear(number, is_it)


def _open_backing(path: str, read_only: bool) -> int:
    try:
        # O_NONBLOCK, so that a pipe is refused and not waited for.
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound("no such file", path=path) from error
    except PermissionError as error:
        raise Denied("permission denied", path=path) from error
    except OSError as error:
        raise Failed(f"cannot be opened: {error.strerror}", path=path) from error


def _shown_size(fd: int, offset: int, size_limit: int) -> int:
    """Bytes that the device has to show; the kernel itself would quietly clip what reaches past the end of the file."""
    found = os.fstat(fd)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise Invalid("only a regular file or a block device can be attached to a loop device")
    size = device_size(fd) if stat.S_ISBLK(found.st_mode) else found.st_size
    if offset < 0 or size_limit < 0 or offset + max(size_limit, _SECTOR) > size:
        raise Invalid(f"{size_limit or _SECTOR} bytes at {offset} are not inside the {size} bytes of the file", offset=offset)
    return align_down(size_limit or size - offset, _SECTOR)


def _configure_free(config: bytes, read_only: bool) -> tuple[int, str]:
    """The descriptor and path of a device that was free and is now configured."""
    control = _open_control()
    try:
        for attempt in range(ATTEMPTS):
            path = _node(_free_number(control))
            fd = _open_device(path, os.O_RDONLY if read_only else os.O_RDWR)
            if _configure(fd, path, config):
                return fd, path
            if attempt > 8:
                time.sleep(random.uniform(0, 0.005))  # a crowd: step out of rhythm with the others
    finally:
        os.close(control)
    raise Busy(f"no free loop device in {ATTEMPTS} attempts: other programs were always faster", hint="try again")


def _configure(fd: int, path: str, config: bytes) -> bool:
    """Whether the device took the configuration; not if another process was faster. Closes ``fd`` unless it did."""
    try:
        ioctl(fd, LOOP_CONFIGURE, bytearray(config))
        return True
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            return False
        raise _refused(error, path) from error


def _refused(error: OSError, path: str) -> MntapiError:
    if error.errno == errno.ENOTTY:
        return Unsupported("this kernel has no LOOP_CONFIGURE", path=path, hint="Linux 5.8 or later is needed")
    if error.errno in (errno.EPERM, errno.EACCES):
        return Denied("attaching a loop device needs root", path=path, hint="run as root")
    return Failed(f"the kernel refused to attach the file: {error.strerror}", path=path)


def _open_control() -> int:
    ensure_node(CONTROL, stat.S_IFCHR, MISC_MAJOR, LOOP_CTRL_MINOR)
    return _open_device(CONTROL, os.O_RDWR)


def _open_device(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except PermissionError as error:
        raise Denied("no right to use loop devices", path=path, hint="run as root") from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise Unsupported("the kernel has no such loop device", path=path, hint="modprobe loop") from error
        raise Failed(f"cannot be opened: {error.strerror}", path=path) from error


def _free_number(control: int) -> int:
    try:
        return ioctl(control, LOOP_CTL_GET_FREE)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Denied("the kernel does not let us have a loop device", path=CONTROL, hint="run as root") from error
        raise Busy(
            f"no free loop device: {error.strerror}",
            path=CONTROL,
            hint="detach what nobody needs (losetup --list, losetup --detach), or raise the kernel's loop.max_loop",
            reason="no-loop-device",
        ) from error


def _node(number: int) -> str:
    """The device's path; the node is made if it is missing."""
    path = f"{DEVICES}/loop{number}"
    ensure_node(path, stat.S_IFBLK, LOOP_MAJOR, minor(number))
    return path


def _verified(device: tuple[int, str], backing: os.stat_result, expected_size: int, flags: int) -> LoopDevice:
    """The device, once the kernel itself says that it is what was asked for; otherwise it is detached again."""
    fd, path = device
    try:
        answer = bytearray(_INFO.size)
        ioctl(fd, LOOP_GET_STATUS64, answer)
        fields = _INFO.unpack(answer)
        inode, number, now_flags, size = fields[1], fields[5], fields[8], device_size(fd)
        if inode != backing.st_ino:
            raise Failed(
                "the kernel attached another file", path=path, expected=f"inode {backing.st_ino}", found=f"inode {inode}"
            )
        if flags & LO_FLAGS_READ_ONLY & ~now_flags:
            raise Failed("the kernel attached the file writable", path=path)
        if size != expected_size:
            raise Corrupt("the loop device has the wrong size", path=path, expected=expected_size, found=size)
        return LoopDevice(fd, path, status(number), size)
    except (MntapiError, OSError):
        ioctl(fd, LOOP_CLR_FD)  # ours alone as long as we hold the descriptor
        os.close(fd)
        raise


def _clear(number: int, is_ours: Callable[[LoopStatus], bool]) -> bool:
    """Detach the device if it is ours, and see that it is gone; whether it was ours.

    The descriptor is held from the check to the LOOP_CLR_FD: while it is open, the device cannot change hands. On a device
    that others have open LOOP_CLR_FD succeeds too, and merely turns on autoclear; hence the look afterwards.
    """
    if not _is_attached(number, is_ours):
        return False
    path = _node(number)
    fd = _open_device(path, os.O_RDONLY)
    try:
        if not _is_attached(number, is_ours):
            return False
        _refuse_if_mounted(path, os.fstat(fd).st_rdev)
        ioctl(fd, LOOP_CLR_FD)
    except OSError as error:
        raise Failed(f"cannot be detached: {error.strerror}", path=path) from error
    finally:
        os.close(fd)
    _wait_until_gone(number, path, is_ours)
    return True


def _is_attached(number: int, is_ours: Callable[[LoopStatus], bool]) -> bool:
    try:
        return is_ours(status(number))
    except NotFound:
        return False


def _refuse_if_mounted(path: str, device: int) -> None:
    """A mount claims its device, so opening it exclusively fails. Asked first, because LOOP_CLR_FD would not refuse."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        number = (os.major(device), os.minor(device))
        targets = [mount.target for mount in mounts() if mount.source == path or mount.device == number]
        users = f"mounted at {', '.join(targets)}" if targets else "claimed by another program or mount name space"
        raise Busy(f"the loop device is {users}", path=path, hint="unmount it first", reason="mounted") from error


def _wait_until_gone(number: int, path: str, is_ours: Callable[[LoopStatus], bool]) -> None:
    deadline = time.monotonic() + DETACH_WAIT_S
    while _is_attached(number, is_ours):
        if time.monotonic() > deadline:
            raise Busy(
                "the loop device is still open somewhere; it will be detached when its last user closes it",
                path=path,
                hint=f"fuser -v {path} names the users",
                reason="open",
            )
        time.sleep(0.01)
