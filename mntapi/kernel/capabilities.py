"""Giving up capabilities: root without them is a user who owns some files.

Source: capabilities(7); linux/capability.h for the layout of version 3.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Sequence

from mntapi.errors import Failed
from mntapi.kernel import libc

DAC_OVERRIDE = 1
"""The number of CAP_DAC_OVERRIDE: files and sockets of others may be used whatever their permissions say."""
_CAPGET = {"x86_64": 125, "aarch64": 90}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_SETS = struct.Struct("=6I")
"""Effective, permitted, inheritable of capabilities 0 to 31; the same of those from 32 on."""
_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_CAPBSET_READ = 23
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_MORE_THAN_THERE_ARE = 64


def drop_bounding_set() -> None:
    """No program started from here on can have a capability. Before ``drop_all``, which takes the right to do this.

    Raises:
        Failed: not permitted; without CAP_SETPCAP nobody may.
    """
    try:
        for capability in range(_MORE_THAN_THERE_ARE):
            if _is_bounded(capability):
                libc.prctl(_PR_CAPBSET_DROP, capability)
    except OSError as error:
        raise Failed(f"the capability bounding set stays as it is: {error.strerror}") from error


def _is_bounded(capability: int) -> bool:
    """Whether the bounding set still has it; beyond the last capability of the kernel there is none to drop."""
    try:
        return libc.prctl(_PR_CAPBSET_READ, capability) == 1
    except OSError:
        return False


def drop_all(*, keep: Sequence[int] = ()) -> None:
    """Empty this thread's ambient, effective, permitted and inheritable sets; ``keep`` (numbers below 32) stays if it is there.

    Raises:
        Failed: the kernel refused, or this machine's number for capset(2) is not known here.
    """
    number = _CAPSET.get(platform.machine())
    if number is None:
        raise Failed(f"capset(2) has no known number on {platform.machine()}")
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    sets = ctypes.create_string_buffer(_SETS.size)
    try:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        if keep:
            libc.syscall(_CAPGET[platform.machine()], header, sets)
            kept = _SETS.unpack(sets.raw)[1] & sum(1 << one for one in keep)
            _SETS.pack_into(sets, 0, kept, kept, 0, 0, 0, 0)
        libc.syscall(number, header, sets)
    except OSError as error:
        raise Failed(f"capabilities cannot be given up: {error.strerror}") from error
