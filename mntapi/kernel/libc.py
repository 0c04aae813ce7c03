"""The few C library calls that Python does not offer. A failure is an OSError with the call's errno; EINTR is retried."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

_library = ctypes.CDLL(None, use_errno=True)
_library.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_library.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_library.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_library.syscall.restype = ctypes.c_long


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    """mount(2). Paths are surrogate-escaped as everywhere; ``data`` is the file system's own options."""
    _checked(lambda: _library.mount(_bytes(source), os.fsencode(target), _bytes(kind), flags, _bytes(data)))


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _checked(lambda: _library.umount2(os.fsencode(target), flags))


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """prctl(2); the arguments it does not use must be 0."""
    return _checked(lambda: _library.prctl(option, second, third, fourth, fifth))


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """syscall(2), for calls that the C library has no name for. Integers are passed as long, buffers as pointers."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _checked(lambda: _library.syscall(ctypes.c_long(number), *words))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _checked(call: Callable[[], int]) -> int:
    while True:
        result = call()
        if result != -1:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
