"""The C library ISA-L, where the host has it: the processor's vector instructions for what Python does slowly.

Checksums (``mntapi.crc32c``) and parity (``mntapi.galois.isal``) use it, and do without it where it is absent. ctypes is
imported when it is first asked for; a worker, which cannot open files later, asks before.

Source: ``crc.h`` of ISA-L 2.30.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_SONAME = "libisal.so.2"


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library, its checksum declared; None where there is none."""
    import ctypes

    try:
        loaded = ctypes.CDLL(_SONAME)
        loaded.crc32_iscsi.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint)
        loaded.crc32_iscsi.restype = ctypes.c_uint
    except (OSError, AttributeError):
        return None
    return loaded
