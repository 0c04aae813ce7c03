"""Mounting FUSE and taking it away: as root by mount(2), otherwise through fusermount3.

The descriptor that comes back *is* the mount: whoever holds it answers the kernel, and when the last copy is closed every
access fails with ENOTCONN. Until somebody answers, a process that touches the mount point waits; so nothing here does.

Source: Documentation/filesystems/fuse.rst (mount options, the fusectl file system); libfuse's fusermount3 for
``_FUSE_COMMFD`` (the descriptor comes as SCM_RIGHTS beside one byte) and for how ``fsname`` is escaped.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat

from mntapi.errors import Denied, Failed, Invalid, MntapiError, NotFound, Unsupported
from mntapi.kernel import libc
from mntapi.kernel.mount import MS_RDONLY, SAFE_FLAGS, busy, explain, holders, unmount
from mntapi.kernel.mountinfo import canonical, mount_at
from mntapi.kernel.nodes import ensure_node
from mntapi.kernel.run import run
from mntapi.units import KIB, MIB

FUSE_DEVICE = "/dev/fuse"
MISC_MAJOR = 10
FUSE_MINOR = 229
CONNECTIONS = "/sys/fs/fuse/connections"
FUSERMOUNT = "fusermount3"
_SUBTYPE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
_NAME_MAX = 1024
_READ_AHEAD = 4 * MIB


def open_fuse_and_mount(
    target: str,
    *,
    fsname: str,
    subtype: str = "mntapi",
    allow_other: bool = False,
    default_permissions: bool = False,
    read_only: bool = True,
    max_read: int = MIB,
) -> int:
    """Mount a new FUSE connection on ``target`` and return its descriptor (close-on-exec, the caller's to close).

    Args:
        target: a folder, or a regular file if the root of what will be served is one.
        fsname: what mount tables show as source; any text, control characters become ``?``.
        subtype: the type is shown as ``fuse.<subtype>``.
        allow_other: other users may enter; without root this has to be allowed in /etc/fuse.conf.
        default_permissions: the kernel checks the permission bits we show.
        read_only: the kernel refuses all writes by itself.
        max_read: bytes of the largest read the kernel asks for.

    Raises:
        Invalid: ``target`` is neither folder nor file, or ``subtype`` is not a plain word.
        NotFound: ``target``, or fusermount3, is not there.
        Busy: a dead FUSE mount lies there.
        Denied: not allowed to mount there, to enter it, or for other users.
        Unsupported: the kernel has no FUSE.
        Failed: any other answer.
    """
    if not _SUBTYPE.fullmatch(subtype):
        raise Invalid(f"{subtype!r} cannot be a file system subtype")
    name = _CONTROL_CHARACTERS.sub("?", fsname)[:_NAME_MAX] or subtype
    root_type = _root_type(target)
    options = [f"max_read={max_read}"]
    options += ["allow_other"] if allow_other else []
    options += ["default_permissions"] if default_permissions else []
    if os.geteuid() == 0:
        return _mount_as_root(target, name, subtype, root_type, options, read_only=read_only)
    return _mount_as_user(target, name, subtype, ["ro" if read_only else "rw", *options])


def _root_type(target: str) -> int:
    try:
        kind = stat.S_IFMT(os.stat(target).st_mode)
    except OSError as error:
        raise explain(error, target, "a FUSE file system") from error
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        raise Invalid("is neither a folder nor a regular file to mount on", path=target)
    return kind


def _mount_as_root(target: str, name: str, subtype: str, root_type: int, options: list[str], *, read_only: bool) -> int:
    fd = _open_fuse()
    identity = [f"fd={fd}", f"rootmode={root_type:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    flags = SAFE_FLAGS if read_only else SAFE_FLAGS & ~MS_RDONLY
    try:
        libc.mount(name, target, f"fuse.{subtype}", flags, ",".join(identity + options))
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise explain(error, target, "a FUSE file system") from error
        raise
    return fd


def read_ahead(target: str) -> None:
    """Let the kernel read further ahead than its 128 KiB: buffered sequential reads become twice as fast.

    Call it when the server has answered INIT, which sets the old value again (fs/fuse/inode.c ``process_init_reply``). Where
    sysfs does not have it, or we are not root, reads are slower, and right all the same.
    """
    mounted = mount_at(target)
    if mounted is None:
        return
    major, minor = mounted.device
    try:
        with open(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb", "w") as file:
            file.write(str(_READ_AHEAD // KIB))
    except OSError:
        return


def _open_fuse() -> int:
    ensure_node(FUSE_DEVICE, stat.S_IFCHR, MISC_MAJOR, FUSE_MINOR, mode=0o666)
    try:
        return os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise Unsupported("the kernel has no FUSE", path=FUSE_DEVICE, hint="modprobe fuse") from error
        raise Denied(f"cannot be opened: {error.strerror}", path=FUSE_DEVICE) from error


def _mount_as_user(target: str, name: str, subtype: str, options: list[str]) -> int:
    words = ["nosuid", "nodev", "noexec", f"fsname={escape(name)}", f"subtype={subtype}", *options]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            run(
                [FUSERMOUNT, "-o", ",".join(words), "--", os.path.abspath(target)],
                package="fuse3",
                pass_fds=[theirs.fileno()],
                variables={"_FUSE_COMMFD": str(theirs.fileno())},
            )
        except Failed as error:
            raise _explain_fusermount(error, target) from error
        return _received(ours)


def escape(name: str) -> str:
    """A source name as fusermount3 wants it inside of its options: backslash and comma lose their meaning."""
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _received(ours: socket.socket) -> int:
    ours.setblocking(False)  # fusermount3 has ended, so what it sent is there already
    try:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    except BlockingIOError:
        fds = []
    if len(fds) != 1:
        raise Failed(f"{FUSERMOUNT} did not hand over the descriptor of the mount")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _explain_fusermount(error: Failed, target: str) -> MntapiError:
    text = error.what
    if "user_allow_other" in text:
        hint = "write the line user_allow_other into /etc/fuse.conf, or leave out --allow-other"
        return Denied("only root may let other users into a FUSE mount", path=target, hint=hint)
    if "too many" in text:
        return Denied("there are too many FUSE mounts", path=target, hint="raise mount_max in /etc/fuse.conf")
    if re.search(r"[Pp]ermission denied|not permitted|user has no write access", text):
        hint = "the folder must be yours and writable; fusermount3 must be setuid root (apt-get install --reinstall fuse3)"
        return Denied(text, path=target, hint=hint)
    return Failed(text, path=target, hint="run as root to mount without fusermount3")


def unmount_fuse(target: str, *, force: bool = False) -> tuple[str, ...]:
    """Unmount a FUSE mount; arguments, result and errors as ``mntapi.kernel.mount.unmount``.

    Without root ``fusermount3 -u`` does it, and ``force`` means: abort the connection, then detach (``-z``).
    """
    if os.geteuid() == 0:
        return unmount(target, force=force)
    path = canonical(target)
    mount = mount_at(path)
    if mount is None:
        raise NotFound("nothing is mounted there", path=path)
    refusal = _fusermount_unmount(path)
    if refusal is None:
        return ()
    if not force:
        raise refusal
    held = holders(path)
    if os.path.exists(f"{CONNECTIONS}/{mount.device[1]}/abort"):
        abort(mount.device[1])
    refusal = _fusermount_unmount(path, "-z")
    if refusal is not None:
        raise refusal
    return held


def _fusermount_unmount(path: str, *options: str) -> MntapiError | None:
    try:
        run([FUSERMOUNT, "-u", *options, "--", path], package="fuse3")
        return None
    except Failed as error:
        if "busy" in error.what:
            return busy(path)
        return Denied(error.what, path=path, hint="only the user who mounted it, or root, can unmount it")


def abort(connection: int) -> None:
    """Abort a FUSE connection: all that wait for its server get ECONNABORTED, whether the server lives or not.

    Args:
        connection: the minor number of the mount's device (``Mount.device[1]``).

    Raises:
        NotFound: there is no such connection, or the fusectl file system is not mounted.
        Denied: it is another user's.
    """
    path = f"{CONNECTIONS}/{connection}/abort"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        hint = f"mount -t fusectl fusectl {CONNECTIONS}"
        raise NotFound("there is no such FUSE connection", path=path, hint=hint) from error
    except OSError as error:
        raise Denied(f"cannot abort the FUSE connection: {error.strerror}", path=path) from error
