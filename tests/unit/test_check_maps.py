"""The two maps of a file that the check keeps, against the plainest models of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.images.checking import counts as counts_module
from mntapi.images.checking import occupied as occupied_module
from mntapi.images.checking.counts import MOST, PAGE, Counts
from mntapi.images.checking.occupied import PAGE_BITS, Occupied

SPAN = 3 << PAGE_BITS
RANGES = st.lists(st.tuples(st.integers(0, SPAN), st.integers(0, SPAN // 2)), max_size=12)


@settings(deadline=None)
@given(RANGES, st.sampled_from([1, 512]))
def test_occupied(ranges: list[tuple[int, int]], unit: int) -> None:
    model: set[int] = set()
    occupied = Occupied(unit)
    for first, number in ranges:
        units = set(range(first, first + number))
        assert occupied.is_free(first * unit, number * unit) == model.isdisjoint(units)
        assert occupied.take(first * unit, number * unit) == model.isdisjoint(units)
        model |= units
    free = {at for offset, length in occupied.gaps(SPAN * unit) for at in range(offset // unit, (offset + length) // unit)}
    assert free == set(range(SPAN)) - model


def test_a_range_takes_every_unit_it_touches() -> None:
    occupied = Occupied(512)
    assert occupied.take(511, 2) and not occupied.take(0, 1) and not occupied.take(1023, 1) and occupied.take(1024, 1)


def test_occupied_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied_module, "MAX_OPEN_PAGES", 2)
    occupied = Occupied(1)
    for page in range(2):
        assert occupied.take(page << PAGE_BITS, 1 << PAGE_BITS) and occupied.take((8 + page) << PAGE_BITS, 1)
    assert not occupied.overflowed
    assert occupied.take(90 << PAGE_BITS, 1) and occupied.overflowed and occupied.take(90 << PAGE_BITS, 1)
    assert not occupied.take(0, 1) and not occupied.take(8 << PAGE_BITS, 1)
    assert [fault.what for fault in occupied.note("x")] == [
        "the file is too scattered: not all of it was searched for overlaps"
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.integers(0, 2 * PAGE), st.integers(0, 300)), max_size=10))
def test_counts(added: list[tuple[int, int, int]]) -> None:
    model: Counter[int] = Counter()
    counts = Counts()
    for first, number, times in added:
        assert counts.any(first, number) == any(model[at] for at in range(first, first + number))
        counts.add(first, number, times)
        for at in range(first, first + number):
            model[at] = min(MOST, model[at] + times)
    assert dict(counts.items()) == {at: count for at, count in model.items() if count}
    for index in counts.pages():
        assert list(counts.page(index)) == [model[at] for at in range(index * PAGE, (index + 1) * PAGE)]


def test_counts_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "MAX_OPEN_PAGES", 1)
    counts = Counts()
    counts.add(0, 4 * PAGE)
    assert not counts.overflowed and len(list(counts.items())) == 4 * PAGE
    counts.add(5 * PAGE)
    counts.add(6 * PAGE)
    assert counts.overflowed
