"""Device nodes: in a container, or where nothing like udev runs, they are not there until somebody makes them."""

from __future__ import annotations

import contextlib
import os
import stat

from mntapi.errors import Denied, Failed, Invalid

_MODES = {stat.S_IFBLK: "block", stat.S_IFCHR: "character"}


def ensure_node(path: str, kind: int, major: int, minor: int, *, mode: int = 0o600) -> None:
    """Make the device node unless it is there, and see that what is there is this device.

    Args:
        kind: ``stat.S_IFBLK`` or ``stat.S_IFCHR``.
        mode: permission bits of a new node.

    Raises:
        Denied: there is no node and we may not make one.
        Invalid: something else bears its name.
        Failed: any other answer of the system.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = _make(path, kind, major, minor, mode)
    except OSError as error:
        raise Failed(f"cannot look at the device node: {error.strerror}", path=path) from error
    if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != os.makedev(major, minor):
        raise Invalid(
            "is not the device that bears this name",
            path=path,
            expected=f"{_MODES[kind]} device {major}:{minor}",
            found=_describe(found),
            hint=f"remove it: rm {path}",
        )


def _make(path: str, kind: int, major: int, minor: int, mode: int) -> os.stat_result:
    try:
        # Where the kernel's devtmpfs or another process was faster, what is there now is checked like any other.
        with contextlib.suppress(FileExistsError):
            os.mknod(path, kind | mode, os.makedev(major, minor))
            os.chmod(path, mode)
    except PermissionError as error:
        letter = "b" if kind == stat.S_IFBLK else "c"
        raise Denied(
            "the device node is missing and cannot be made",
            path=path,
            hint=f"run as root, or have it made: mknod {path} {letter} {major} {minor}",
        ) from error
    except OSError as error:
        raise Failed(f"cannot make the device node: {error.strerror}", path=path) from error
    return os.stat(path)


def _describe(found: os.stat_result) -> str:
    kind = _MODES.get(stat.S_IFMT(found.st_mode))
    return f"{kind} device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if kind else "no device"
