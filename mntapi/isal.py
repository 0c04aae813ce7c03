"""The C library ISA-L, where the host has it: the processor's vector instructions for what Python does slowly.

Checksums (``mntapi.crc32c``) and parity (``mntapi.volumes.raid.isal``) use it, and do without it where it is absent. ctypes is
imported when it is first asked for; a worker, which cannot open files later, asks before.

Source: ``crc.h``, ``raid.h`` and ``erasure_code.h`` of ISA-L 2.30.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_SONAME = "libisal.so.2"


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library, its functions declared; None where there is none."""
    import ctypes

    try:
        loaded = ctypes.CDLL(_SONAME)
        loaded.xor_gen.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        loaded.gf_vect_mul_init.argtypes = (ctypes.c_ubyte, ctypes.c_void_p)
        loaded.gf_vect_mul_init.restype = None
        loaded.gf_vect_mul.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        loaded.crc32_iscsi.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint)
        loaded.crc32_iscsi.restype = ctypes.c_uint
    except (OSError, AttributeError):
        return None
    return loaded
