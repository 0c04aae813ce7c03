"""The architecture of a guest, from the header of a program of its own.

Source: System V ABI, chapter 4 (ELF header); machine numbers of Linux include/uapi/linux/elf-em.h; names of ``uname -m``.
"""

from __future__ import annotations

import struct

from mntapi.errors import Corrupt

HEADER_SIZE = 20
"""Bytes of the header that are needed."""
_IDENT = struct.Struct("<4sBB")
_WIDE, _BIG_ENDIAN = 2, 2
_MACHINES = {
    2: ("sparc", "sparc64"),
    3: ("x86", "x86_64"),
    4: ("m68k", "m68k"),
    8: ("mips", "mips64"),
    15: ("parisc", "parisc64"),
    20: ("ppc", "ppc64"),
    21: ("ppc64", "ppc64"),
    22: ("s390", "s390x"),
    40: ("arm", "arm"),
    42: ("sh4", "sh4"),
    43: ("sparc64", "sparc64"),
    50: ("ia64", "ia64"),
    62: ("x86_64", "x86_64"),
    183: ("aarch64", "aarch64"),
    243: ("riscv32", "riscv64"),
    258: ("loongarch32", "loongarch64"),
    0x9026: ("alpha", "alpha"),
}
"""By machine number: the names of 32 and of 64 bit programs."""
_LITTLE_ENDIAN = {"ppc64": "ppc64le", "mips": "mipsel", "mips64": "mips64el", "ppc": "ppcle"}
"""Those whose plain name means big-endian."""


def architecture(header: bytes) -> tuple[str, bool] | None:
    """``uname -m`` of a machine that runs the program, and whether it is big-endian; None for a machine that has no name here.

    Raises:
        Corrupt: it is no ELF header.
    """
    if len(header) < HEADER_SIZE or not header.startswith(b"\x7fELF"):
        raise Corrupt("no ELF header", offset=0, expected=b"\x7fELF".hex(" "), found=header[:4].hex(" "))
    _, width, order = _IDENT.unpack_from(header)
    is_big = order == _BIG_ENDIAN
    (machine,) = struct.unpack_from(">H" if is_big else "<H", header, 18)
    names = _MACHINES.get(machine)
    if names is None:
        return None
    name = names[width == _WIDE]
    return (name if is_big else _LITTLE_ENDIAN.get(name, name)), is_big
