"""Landlock: giving up all paths of the file system, and TCP, for good.

Source: Documentation/userspace-api/landlock.rst; linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from mntapi.errors import Failed, NotFound, Unsupported
from mntapi.kernel import libc

# The same numbers on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3

# Rights that can be taken away: (since ABI, how many bits there are then).
_FS_BITS = ((1, 13), (2, 14), (3, 15), (5, 16))
_NET_BITS = ((4, 2),)  # bind and connect of TCP
_CONNECT_TCP = 1 << 1
_SCOPE_BITS = ((6, 2),)  # abstract Unix sockets of, and signals to, processes outside
_ATTRIBUTES = struct.Struct("=3Q")
_BENEATH = struct.Struct("=Qi")
_NET_PORT = struct.Struct("=2Q")


def abi() -> int | None:
    """The version of Landlock in this kernel, None if it has none or it is switched off."""
    try:
        return libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return None  # ENOSYS: not built in; EOPNOTSUPP: off at boot; EPERM: a container's filter


def restrict(keep_read_paths: Sequence[str] = (), *, connect_ports: Sequence[int] | None = ()) -> int:
    """Take all rights on paths from this thread and those it starts, but reading at or below ``keep_read_paths``; and on TCP,
    but connecting to ``connect_ports`` (None: to any port).

    Open descriptors keep working. Returns the ABI version in force; before version 4 TCP is left alone. Needs no_new_privs.

    Raises:
        Unsupported: this kernel has no Landlock.
        NotFound: a path to keep is not there.
        Failed: the kernel refused.
    """
    version = abi()
    if version is None:
        raise Unsupported("this kernel has no Landlock")
    net = _mask(_NET_BITS, version) & ~(_CONNECT_TCP if connect_ports is None else 0)
    ruleset = _create(version, net)
    try:
        for path in keep_read_paths:
            _allow_reading(ruleset, path)
        for port in connect_ports or () if net else ():
            _allow_connecting(ruleset, port)
        libc.syscall(_RESTRICT_SELF, ruleset, 0)
    except OSError as error:
        raise Failed(f"Landlock refused: {error.strerror}") from error
    finally:
        os.close(ruleset)
    return version


def _create(version: int, net: int) -> int:
    attributes = _ATTRIBUTES.pack(_mask(_FS_BITS, version), net, _mask(_SCOPE_BITS, version))
    try:
        # Fields that an older kernel does not know are zero here, which it accepts.
        return libc.syscall(_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    except OSError as error:
        raise Failed(f"Landlock refused: {error.strerror}") from error


def _mask(bits: Sequence[tuple[int, int]], version: int) -> int:
    return (1 << max((count for since, count in bits if version >= since), default=0)) - 1


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"cannot be kept readable: {error.strerror}", path=path) from error
    try:
        rights = _READ_FILE | (_READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else 0)
        rule = ctypes.create_string_buffer(_BENEATH.pack(rights, fd), _BENEATH.size)
        libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)


def _allow_connecting(ruleset: int, port: int) -> None:
    rule = ctypes.create_string_buffer(_NET_PORT.pack(_CONNECT_TCP, port), _NET_PORT.size)
    libc.syscall(_ADD_RULE, ruleset, _RULE_NET_PORT, rule, 0)
