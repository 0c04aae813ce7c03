"""Mounting and unmounting: mount(2), umount2(2), and what their errors mean.

Always true: everything mounted here is ``nodev``, ``nosuid`` and ``noexec``, and read-only unless it lies in an overlay.
Unmounting waits for nobody and hides nothing: a busy mount stays, and the error names who uses it. Only ``force`` takes a mount
away from its users.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mntapi.errors import Busy, Corrupt, Denied, Failed, Invalid, MntapiError, NotADirectory, NotFound, Unsupported
from mntapi.kernel import libc
from mntapi.kernel.filesystems import TRY_NEXT, Driver, drivers, writable_drivers
from mntapi.kernel.loop_status import attached_below
from mntapi.kernel.mountinfo import canonical, mount_at, mounts_under
from mntapi.kernel.process import users_of
from mntapi.kernel.run import run

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
SAFE_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC

MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

MAX_NAMES = 65536
"""Folders of a skeleton."""
MAX_REASON = 120
"""Bytes of a link that says why a volume is not mounted: a tmpfs keeps up to 127 beside the inode, more would take a page."""
MAX_HOLDERS = 8
"""Users of a busy mount that an error names."""


@dataclass(frozen=True, slots=True)
class KernelMount:
    """How a file system was mounted: the driver that took it, and its options besides ``nodev,nosuid,noexec`` and ``ro``."""

    target: str
    type: str
    options: str
    read_only: bool = True


def mount_kernel_filesystem(device: str, target: str, kind: str, *, read_only: bool = True) -> KernelMount:
    """Mount the file system of ``kind`` (libblkid's word: ``ext4``, ``ntfs``) on a block device.

    Args:
        read_only: change nothing on the device. False is for overlays: journals are replayed, and files can be written; a file
            system that the kernel cannot write is mounted read-only all the same, and the result says so.

    Raises:
        Unsupported: this kernel has no driver for it (for NTFS: and there is no ntfs-3g).
        Corrupt, Failed: the driver took one look and refused.
        Denied: not root.
        Busy, NotFound, NotADirectory: as the kernel says.
    """
    refusals: list[MntapiError] = []
    for driver, is_writing in _attempts(kind, read_only):
        try:
            _mount_with(driver, device, target, read_only=not is_writing)
            return KernelMount(target, driver.type, driver.options, read_only=not is_writing or _is_read_only(target))
        except OSError as error:
            refusal = explain(error, target, f"the {driver.type} file system of {device}")
            if error.errno not in TRY_NEXT:
                raise refusal from error
            refusals.append(refusal)
        except NotFound as missing_program:
            refusals.append(missing_program)
        except Failed as refusal:
            raise refusal.located(path=device) from None
    raise _best(refusals, kind, device)


def _attempts(kind: str, read_only: bool) -> Iterator[tuple[Driver, bool]]:
    """The drivers to try in turn, and whether to write with them."""
    if not read_only:
        yield from ((driver, True) for driver in writable_drivers(kind))
    yield from ((driver, False) for driver in drivers(kind))


def _is_read_only(target: str) -> bool:
    """Whether the driver thought better of writing, as ntfs-3g does on the volume of a hibernated Windows."""
    mounted = mount_at(target)
    return mounted is not None and mounted.read_only


def _mount_with(driver: Driver, device: str, target: str, *, read_only: bool) -> None:
    if driver.program:
        options = ",".join(filter(None, ("ro" if read_only else "rw", "nodev,nosuid,noexec", driver.options)))
        run([driver.program, "-o", options, os.path.abspath(device), os.path.abspath(target)], package=driver.package)
    else:
        flags = SAFE_FLAGS if read_only else SAFE_FLAGS & ~MS_RDONLY
        libc.mount(device, target, driver.type, flags, driver.options)


def _best(refusals: Sequence[MntapiError], kind: str, device: str) -> MntapiError:
    """What to tell when nothing worked: a driver that looked at the bytes knows more than one that is not there."""
    looked = [refusal for refusal in refusals if not isinstance(refusal, Unsupported | NotFound)]
    if looked:
        return looked[0]
    hints = [refusal.hint for refusal in refusals if isinstance(refusal, NotFound) and refusal.hint]
    instead = "without --via kernel it is read in user space, where a reader for it exists"
    return Unsupported(
        f"this kernel cannot mount {kind}",
        path=device,
        hint="; or ".join([*hints, instead]),
        reason="no-kernel-driver",
    )


def explain(error: OSError, target: str, what: str) -> MntapiError:
    """The error for a mount(2) of ``what`` on ``target`` that failed."""
    number, text = error.errno, error.strerror
    if number == errno.EPERM:
        return Denied(f"mounting {what} needs root", path=target, hint="run as root")
    if number == errno.EACCES:
        return Denied(f"no right to mount {what}: {text}", path=target)
    if number == errno.EBUSY:
        return Busy(f"cannot mount {what}: it is in use", path=target, hint="findmnt shows what is mounted")
    if number == errno.ENODEV:
        return Unsupported(f"this kernel cannot mount {what}: it has no such driver", path=target, reason="no-kernel-driver")
    if number == errno.ENOENT:
        return NotFound(f"cannot mount {what}: no such folder", path=target, hint=f"mkdir -p {target}")
    if number == errno.ENOTDIR:
        return NotADirectory("is not a folder to mount on", path=target)
    if number == errno.ENOTCONN:
        return Busy("is a mount whose server has died", path=target, hint=f"umount {target}", reason="dead-server")
    if number in (errno.EINVAL, errno.EUCLEAN, errno.EBADMSG, errno.EFBIG, errno.EIO):
        return Corrupt(f"the kernel refuses {what}: {text}", path=target, hint="dmesg says more")
    return Failed(f"cannot mount {what}: {text}", path=target, hint="dmesg says more")


def mount_skeleton(target: str, names: Sequence[str], *, source: str = "mntapi", mode: int = 0o755) -> None:
    """Mount an empty, read-only tmpfs on ``target`` that has one folder for each name: to mount volumes on, side by side.

    ``source`` is what the mount table shows as its device; ``mode`` says who may enter.

    Raises:
        Invalid: a name is no file name, or there are more than ``MAX_NAMES``.
        Denied, NotFound, NotADirectory, Busy, Failed: as the kernel says.
    """
    _check_names(names)
    options = f"size=64k,nr_inodes={len(names) + 2},mode={mode:04o}"
    with _explained(target, "a folder for volumes"):
        libc.mount(source, target, "tmpfs", SAFE_FLAGS & ~MS_RDONLY, options)
    try:
        with _explained(target, "a folder for volumes"):
            _make_folders(target, names)
            libc.mount(None, target, None, MS_REMOUNT | SAFE_FLAGS, None)
    except BaseException:
        libc.umount2(target, UMOUNT_NOFOLLOW)
        raise


def mark_not_mounted(target: str, reasons: Mapping[str, str]) -> None:
    """Replace folders of a skeleton by links that lead nowhere and say why: an empty folder would look like an empty volume.

    Opening ``NAME`` answers ENOENT then, and ``ls -l`` shows ``NAME -> not mounted: REASON``.

    Raises:
        MntapiError: as the kernel says.
    """
    if not reasons:
        return
    with _explained(target, "a folder for volumes"):
        libc.mount(None, target, None, MS_REMOUNT | SAFE_FLAGS & ~MS_RDONLY, None)
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, reason in reasons.items():
                os.rmdir(name, dir_fd=folder)
                os.symlink(_nowhere(reason), name, dir_fd=folder)
        finally:
            os.close(folder)
            libc.mount(None, target, None, MS_REMOUNT | SAFE_FLAGS, None)


def _nowhere(reason: str) -> bytes:
    """A single name, which no volume has: the colon and the spaces."""
    text = "".join(sign if sign.isprintable() and sign != "/" else "-" for sign in f"not mounted: {reason}")
    return text.encode(errors="replace")[:MAX_REASON]


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_NAMES:
        raise Invalid(f"{len(names)} folders, more than {MAX_NAMES}")
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise Invalid(f"{name!r} cannot be the name of a folder")
    if len(set(names)) != len(names):
        raise Invalid("two folders of the same name")


def _make_folders(target: str, names: Sequence[str]) -> None:
    folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            os.mkdir(name, 0o755, dir_fd=folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _explained(target: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, target, what) from error


def unmount(target: str, *, force: bool = False) -> tuple[str, ...]:
    """Unmount what is mounted at ``target``.

    Args:
        force: when it is busy, take it away from its users: requests in flight are aborted (MNT_FORCE), and what is still
            held is taken out of the tree and goes when its last user does (MNT_DETACH).

    Returns:
        Who still holds it: empty unless ``force`` had to detach it.

    Raises:
        Busy: it is in use; the error names by whom.
        NotFound: nothing is mounted there.
        Denied: not root, or not ours.
    """
    path = canonical(target)
    try:
        libc.umount2(path, UMOUNT_NOFOLLOW)
        return ()
    except OSError as error:
        if error.errno != errno.EBUSY or not force:
            raise _cannot_unmount(error, path) from error
    return _unmount_by_force(path)


def check_idle(target: str) -> None:
    """Raise Busy, with the users, if unmounting what is mounted at ``target`` would; otherwise do nothing.

    The kernel is asked with ``MNT_EXPIRE``, which only marks a mount that nobody uses: a second such call would unmount it.
    Opening its top folder without reading it takes the mark away again.

    Raises:
        Busy, NotFound, Denied: as ``unmount``.

    Source: umount2(2); Linux fs/namespace.c ``do_umount``, ``mntput``.
    """
    path = canonical(target)
    try:
        libc.umount2(path, MNT_EXPIRE | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise _cannot_unmount(error, path) from error
    os.close(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))


def _unmount_by_force(path: str) -> tuple[str, ...]:
    held = holders(path)
    try:
        libc.umount2(path, MNT_FORCE | UMOUNT_NOFOLLOW)
        return ()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise _cannot_unmount(error, path) from error
    try:
        libc.umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)
        return held
    except OSError as error:
        raise _cannot_unmount(error, path) from error


def _cannot_unmount(error: OSError, path: str) -> MntapiError:
    if error.errno == errno.EBUSY:
        return busy(path)
    if error.errno in (errno.EINVAL, errno.ENOENT):
        return NotFound("nothing is mounted there", path=path)
    if error.errno in (errno.EPERM, errno.EACCES):
        return Denied("unmounting needs root", path=path, hint="run as root")
    return Failed(f"cannot be unmounted: {error.strerror}", path=path)


def busy(path: str) -> Busy:
    """The error for a mount that is in use, with its users."""
    users = holders(path)
    text = "; ".join(users) if users else "somebody we cannot see: another user's process, or a swap file"
    return Busy(f"is in use: {text}", path=path, hint="end what uses it and try again, or use --force", reason="in-use")


def holders(path: str) -> tuple[str, ...]:
    """Who keeps a mount busy, in words: mounts below it, loop devices over its files, processes; at most ``MAX_HOLDERS``."""
    found = itertools.chain(
        (f"{mount.target} is mounted below it" for mount in mounts_under(path) if mount.target != path),
        (f"{device.path} is attached to {device.backing_name}" for device in attached_below(path)),
        (str(user) for user in users_of(path)),
    )
    return tuple(itertools.islice(found, MAX_HOLDERS))
