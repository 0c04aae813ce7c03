"""Giving up rights: what a worker process does before it looks at the first hostile byte.

Afterwards it can read and write the descriptors it holds, allocate memory up to a limit, run threads, and end. It can not
open a path, start a program or process, make a socket (unless it was to keep that), or signal anybody. Modules must be imported
before.

Not here: what each piece is made of (``seccomp.py``, ``landlock.py``, ``capabilities.py``). Always true: a piece that this
kernel lacks is named in the report, never silently left out; the others are put in force all the same.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mntapi.errors import Failed, Invalid, MntapiError
from mntapi.kernel import capabilities, landlock, libc, seccomp
from mntapi.units import MIB

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class Connecting:
    """What a process that makes connections keeps the right to."""

    ports: tuple[int, ...] | None = ()
    """TCP ports that it may connect to (Landlock of Linux 6.7 sees to that); None: all. Unix sockets are not limited."""
    past_permissions: bool = False
    """To Unix sockets of other users too, where it has the right to (CAP_DAC_OVERRIDE)."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What is in force. ``missing`` says, one sentence each, what is not and why."""

    no_new_privs: bool
    not_dumpable: bool
    capabilities_dropped: bool
    bounding_set_dropped: bool
    landlock: int | None
    """ABI version of Landlock, None where it is not in force."""
    seccomp: bool
    memory_limit: int | None
    """Bytes of heap, stacks and private mappings (RLIMIT_DATA); mapped files do not count."""
    open_files: int
    file_size_limit: int | None
    """Bytes that a regular file may be written to; pipes, sockets and /dev/fuse do not count."""
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


def confine(
    *,
    memory_limit: int | None = None,
    open_files: int = 1024,
    file_size_limit: int | None = 16 * MIB,
    keep_read_paths: Sequence[str] = (),
    connecting: Connecting | None = None,
) -> Confinement:
    """Give up, for the rest of this process's life, what a parser of hostile bytes does not need.

    Args:
        memory_limit: bytes of private memory; beyond them allocation fails with MemoryError. Thread stacks count, with 8 MiB
            each unless ``threading.stack_size`` says otherwise.
        open_files: descriptors it may have.
        file_size_limit: bytes a regular file may grow to, for a log; None where an overlay is written.
        keep_read_paths: files and folders that stay readable. Needs Landlock: without it they are not.
        connecting: it keeps the right to make sockets and to connect them.

    Raises:
        Invalid: there are threads already: Landlock and capabilities would not cover them.
        NotFound: a path to keep is not there.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise Invalid("a process with several threads cannot be confined as a whole")
    _load_late_libraries()
    missing: list[str] = []
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, open_files)
    _limit(resource.RLIMIT_DATA, memory_limit)
    _limit(resource.RLIMIT_FSIZE, file_size_limit)
    no_new_privs = _in_force(lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1), missing)
    bounding = _in_force(capabilities.drop_bounding_set, missing)
    version = _landlock(keep_read_paths, () if connecting is None else connecting.ports, missing)
    keep = (capabilities.DAC_OVERRIDE,) if connecting is not None and connecting.past_permissions else ()
    dropped = _in_force(lambda: capabilities.drop_all(keep=keep), missing)
    not_dumpable = _in_force(lambda: _prctl(_PR_SET_DUMPABLE, 0), missing)
    may_read = bool(keep_read_paths) and version is not None
    filtered = _in_force(lambda: seccomp.install(may_read_files=may_read, may_connect=connecting is not None), missing)
    return Confinement(
        no_new_privs=no_new_privs,
        not_dumpable=not_dumpable,
        capabilities_dropped=dropped,
        bounding_set_dropped=bounding,
        landlock=version,
        seccomp=filtered,
        memory_limit=memory_limit,
        open_files=open_files,
        file_size_limit=file_size_limit,
        missing=tuple(missing),
    )


def _load_late_libraries() -> None:
    """What the C library would open only later. Without libgcc_s a daemon thread that is still there at exit aborts us."""
    time.tzset()
    try:
        ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        return  # a C library that does without it, such as musl


def _limit(what: int, value: int | None) -> None:
    """Lower a limit, hard and soft; it never gets higher than it was."""
    if value is not None:
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def _in_force(step: Callable[[], None], missing: list[str]) -> bool:
    try:
        step()
    except (MntapiError, OSError) as error:
        missing.append(str(error))
        return False
    return True


def _prctl(option: int, value: int) -> None:
    libc.prctl(option, value)


def _landlock(keep_read_paths: Sequence[str], ports: Sequence[int] | None, missing: list[str]) -> int | None:
    if landlock.abi() is None:
        missing.append("this kernel has no Landlock" + (": no path stays readable" if keep_read_paths else ""))
        return None
    try:
        return landlock.restrict(keep_read_paths, connect_ports=ports)
    except Failed as error:
        missing.append(str(error))
        return None
