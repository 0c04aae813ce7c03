"""``/var/log/wtmp``: when the system was started and shut down.

Records are fixed-size. On most machines they have 384 bytes, because 64-bit ones keep the layout of their 32-bit programs; on
AArch64 and others that never had such, 400.

Source: glibc bits/utmp.h (``struct utmp``), bits/wordsize.h (``__WORDSIZE_TIME64_COMPAT32``); utmp(5); systemd's
src/shared/utmp-wtmp.c for what it writes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mntapi.blocks import read
from mntapi.types import Blocks
from mntapi.units import MIB

MAX_TAIL = MIB
"""Bytes of the newest records that are looked at, about 2700 of them."""
_RUN_LEVEL, _BOOT = 1, 2
_TYPES = range(10)
_SECOND = 1_000_000_000
_LATEST = 1 << 33
"""Seconds; a time behind the year 2242 is none."""


@dataclass(frozen=True, slots=True)
class Uptimes:
    """Nanoseconds since 1970 UTC."""

    last_boot_ns: int | None = None
    last_shutdown_ns: int | None = None


def last_times(content: Blocks, *, big_endian: bool = False) -> Uptimes:
    """The newest start and shutdown among the last records. Raises what reading raises."""
    size = _record_size(content, big_endian)
    records = content.size // size
    first = max(0, records - MAX_TAIL // size)
    tail = read(content, first * size, (records - first) * size)
    boots: list[int] = []
    shutdowns: list[int] = []
    for at in range(0, len(tail), size):
        kind, user, time_ns = _parse(tail, at, size, big_endian)
        if time_ns is not None and kind == _BOOT:
            boots.append(time_ns)
        elif time_ns is not None and kind == _RUN_LEVEL and user == b"shutdown":
            shutdowns.append(time_ns)
    return Uptimes(max(boots, default=None), max(shutdowns, default=None))


_LINE_AND_NAMES = "32s4s32s256shh"
_LAYOUTS = {
    (384, False): struct.Struct(f"<h2xi{_LINE_AND_NAMES}iii16s20s"),
    (384, True): struct.Struct(f">h2xi{_LINE_AND_NAMES}iii16s20s"),
    (400, False): struct.Struct(f"<h2xi{_LINE_AND_NAMES}qqq16s20s4x"),
    (400, True): struct.Struct(f">h2xi{_LINE_AND_NAMES}qqq16s20s4x"),
}
"""Type, process, line, id, user, host, exit status, session, seconds, microseconds, address, unused."""


def _record_size(content: Blocks, big_endian: bool) -> int:
    """The size whose second record begins with a type; one record alone tells by its length."""
    if content.size % 400 == 0 and content.size % 384 != 0:
        return 400
    if content.size % 400 == 0 and content.size:
        starts = range(0, min(content.size, 40 * 400), 400)
        kinds = [struct.unpack(">h" if big_endian else "<h", read(content, at, 2))[0] for at in starts]
        if all(kind in _TYPES for kind in kinds):
            return 400
    return 384


def _parse(raw: bytes, at: int, size: int, big_endian: bool) -> tuple[int, bytes, int | None]:
    kind, _, _, _, user, _, _, _, _, seconds, microseconds, _, _ = _LAYOUTS[size, big_endian].unpack_from(raw, at)
    time_ns = seconds * _SECOND + microseconds * 1000 if 0 < seconds < _LATEST and 0 <= microseconds < 1_000_000 else None
    return kind, user.rstrip(b"\0"), time_ns
