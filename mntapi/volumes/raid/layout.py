"""Which member of a stripe holds parity, and in which order the others hold data: the layouts of RAID 4, 5 and 6.

Names are those of Linux; DDF and LVM have the same layouts under other names. Source: ``raid5_compute_sector``, ``raid6_d0``
and ``raid6_idx_to_slot`` in drivers/md/raid5.c of the kernel, numbers in include/uapi/linux/raid/md_p.h and drivers/md/raid5.h.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from mntapi.galois import POWERS


class ParityLayout(enum.Enum):
    """Left: parity goes from the last member to the first, stripe by stripe; right: from the first to the last. Symmetric: data
    begins behind the parity and wraps; asymmetric: data begins at the first member and skips the parity."""

    LEFT_ASYMMETRIC = "left-asymmetric"
    RIGHT_ASYMMETRIC = "right-asymmetric"
    LEFT_SYMMETRIC = "left-symmetric"
    RIGHT_SYMMETRIC = "right-symmetric"
    PARITY_0 = "parity-first"
    PARITY_N = "parity-last"
    RAID4 = PARITY_N
    RAID4_PARITY_0 = PARITY_0

    RAID6_LEFT_ASYMMETRIC = "raid6-left-asymmetric"
    RAID6_RIGHT_ASYMMETRIC = "raid6-right-asymmetric"
    RAID6_LEFT_SYMMETRIC = "raid6-left-symmetric"
    RAID6_RIGHT_SYMMETRIC = "raid6-right-symmetric"
    RAID6_PARITY_0 = "raid6-parity-first"
    RAID6_PARITY_N = "raid6-parity-last"
    PARITY_N_6 = RAID6_PARITY_N
    """LVM's ``raid6_n_6``: P and Q on the last two members."""

    LEFT_ASYMMETRIC_6 = "left-asymmetric-6"
    RIGHT_ASYMMETRIC_6 = "right-asymmetric-6"
    LEFT_SYMMETRIC_6 = "left-symmetric-6"
    RIGHT_SYMMETRIC_6 = "right-symmetric-6"
    PARITY_0_6 = "parity-first-6"
    """Those five: RAID 5 over all but the last member, which holds Q; what a RAID 5 becomes on its way to RAID 6."""

    ROTATING_ZERO_RESTART = "ddf-zero-restart"
    ROTATING_N_RESTART = "ddf-n-restart"
    ROTATING_N_CONTINUE = "ddf-n-continue"
    """Those three are DDF's, and LVM's ``raid6_zr``, ``raid6_nr``, ``raid6_nc``."""

    @property
    def is_raid6(self) -> bool:
        """Whether there are two parities."""
        return self in _RAID6


_L = ParityLayout
_RAID5 = frozenset({_L.LEFT_ASYMMETRIC, _L.RIGHT_ASYMMETRIC, _L.LEFT_SYMMETRIC, _L.RIGHT_SYMMETRIC, _L.PARITY_0, _L.PARITY_N})
_RAID6 = frozenset(_L) - _RAID5
_DDF = frozenset({_L.ROTATING_ZERO_RESTART, _L.ROTATING_N_RESTART, _L.ROTATING_N_CONTINUE})
_Q_LAST = {
    _L.LEFT_ASYMMETRIC_6: _L.LEFT_ASYMMETRIC,
    _L.RIGHT_ASYMMETRIC_6: _L.RIGHT_ASYMMETRIC,
    _L.LEFT_SYMMETRIC_6: _L.LEFT_SYMMETRIC,
    _L.RIGHT_SYMMETRIC_6: _L.RIGHT_SYMMETRIC,
    _L.PARITY_0_6: _L.PARITY_0,
}
_LEFT = frozenset(
    {_L.LEFT_ASYMMETRIC, _L.LEFT_SYMMETRIC, _L.RAID6_LEFT_ASYMMETRIC, _L.RAID6_LEFT_SYMMETRIC, _L.ROTATING_N_CONTINUE}
)
_SYMMETRIC = frozenset(
    {
        _L.LEFT_SYMMETRIC,
        _L.RIGHT_SYMMETRIC,
        _L.RAID6_LEFT_SYMMETRIC,
        _L.RAID6_RIGHT_SYMMETRIC,
        _L.ROTATING_N_CONTINUE,
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """One stripe: members by what they hold in it."""

    data: tuple[int, ...]
    """In the order of the array."""
    p: int
    q: int | None
    weights: Mapping[int, int]
    """By data member: the factor it has in Q."""


def rows(layout: ParityLayout, count: int) -> list[Row]:
    """The stripes of an array of ``count`` members (at least 2, RAID 6: 3) until they repeat."""
    return [_row(layout, count, stripe) for stripe in range(count - 1 if layout in _Q_LAST else count)]


def _row(layout: ParityLayout, count: int, stripe: int) -> Row:
    if layout in _Q_LAST:
        inner = _row(_Q_LAST[layout], count - 1, stripe)
        return Row(inner.data, inner.p, count - 1, _weights(inner.data, count - 1, count, is_ddf=False))
    p = _parity(layout, count, stripe)
    if layout in _RAID5:
        return Row(_data(layout, count, p, {p}), p, None, {})
    q = (p - 1 if layout is _L.ROTATING_N_CONTINUE else p + 1) % count
    data = _data(layout, count, p if layout is _L.ROTATING_N_CONTINUE else q, {p, q})
    return Row(data, p, q, _weights(data, q, count, is_ddf=layout in _DDF))


def _parity(layout: ParityLayout, count: int, stripe: int) -> int:
    """The member with P."""
    if layout in (_L.PARITY_0, _L.RAID6_PARITY_0):
        return 0
    if layout is _L.PARITY_N:
        return count - 1
    if layout is _L.RAID6_PARITY_N:
        return count - 2
    if layout is _L.ROTATING_N_RESTART:
        return count - 1 - (stripe + 1) % count
    return count - 1 - stripe % count if layout in _LEFT else stripe % count


def _data(layout: ParityLayout, count: int, last_parity: int, parity: set[int]) -> tuple[int, ...]:
    """The members with data, in the array's order."""
    first = last_parity + 1 if layout in _SYMMETRIC else 0
    return tuple(member % count for member in range(first, first + count) if member % count not in parity)


def _weights(data: tuple[int, ...], q: int, count: int, *, is_ddf: bool) -> Mapping[int, int]:
    """The factors in Q: powers of 2 by position, counted over the data behind Q, or over all members with DDF."""
    if is_ddf:
        return {member: POWERS[member] for member in data}
    behind = [member % count for member in range(q + 1, q + 1 + count) if member % count in data]
    return {member: POWERS[exponent] for exponent, member in enumerate(behind)}
