"""Parity of RAID 5 and 6: what a stripe holds as a sum of what others hold, each times a factor.

P is the sum of the data, Q that of the data times the powers of 2, in the order of the row (``mntapi.galois``).

Source: H. Peter Anvin, "The mathematics of RAID-6", 2004-2011, sections 1 to 4; fs/btrfs/raid56.c ``recover_vertical``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mntapi.galois import ORDER, POWERS, inverse, product

MAX_DATA = ORDER
"""Stripes with data that Q can tell apart."""


class Source(NamedTuple):
    """Bytes that are the sum of those of some stripes, by their indexes in the chunk, each times its factor."""

    stripes: tuple[int, ...]
    factors: tuple[int, ...]


def plain(stripe: int) -> Source:
    """What one stripe holds."""
    return Source((stripe,), (1,))


def rebuilt(data: Sequence[int], column: int, parity: Sequence[int]) -> Iterator[Source]:
    """All ways to compute what ``data[column]`` holds without reading it, the cheapest first.

    Args:
        data: the stripes with data of a row, in order.
        column: which of them is lost.
        parity: the stripe with P, and of RAID 6 the one with Q.
    """
    others = [index for index in range(len(data)) if index != column]
    p, *q = parity
    yield Source((*(data[index] for index in others), p), (1,) * len(data))
    if not q:
        return
    yield _from_q(data, column, q[0], others)
    for lost in others:
        yield _from_both(data, column, (p, q[0]), [index for index in others if index != lost], lost)


def _from_q(data: Sequence[int], column: int, q: int, known: Sequence[int]) -> Source:
    share = inverse(POWERS[column])
    factors = (*(product(POWERS[index], share) for index in known), share)
    return Source((*(data[index] for index in known), q), factors)


def _from_both(data: Sequence[int], column: int, parity: tuple[int, int], known: Sequence[int], lost: int) -> Source:
    """Without another column either: P times that one's factor takes it out of Q."""
    taken = POWERS[lost]
    share = inverse(POWERS[column] ^ taken)
    factors = [POWERS[index] ^ taken for index in known] + [taken, 1]
    return Source((*(data[index] for index in known), *parity), tuple(product(factor, share) for factor in factors))
