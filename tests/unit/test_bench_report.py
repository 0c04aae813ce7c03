"""The bench's arithmetic and its table; what is measured is measured by ``scripts/bench`` and asserted nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from bench.commands import Failure
from bench.race import Heat, Race, Racer, Track
from bench.report import LeftOut, Quantity, Role, Row, as_object, number, ratio, table

SPEED = Quantity("reading", "MiB/s", higher_is_better=True)
TIME = Quantity("listing", "s", higher_is_better=False)
ROLES = {"mntapi": Role.OURS, "slow": Role.PEER, "fast": Role.PEER, "top": Role.LIMIT}


def speed() -> Row:
    return Row(SPEED, ROLES, {"mntapi": [30, 10, 20], "slow": [5, 5, 5], "fast": [10, 10, 10], "top": [60, 20, 40]})


def test_the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    row = Row(SPEED, ROLES, {"mntapi": [10, 100, 40], "fast": [1, 50, 5]})
    assert ratio(row, "mntapi", "fast") == 8  # of 10, 2 and 8; the medians' ratio is 8 only by 40 / 5
    uneven = Row(SPEED, ROLES, {"mntapi": [10, 20, 30], "fast": [10, 5, 30]})
    assert ratio(uneven, "mntapi", "fast") == 1  # the medians' would be 2


@pytest.mark.parametrize(("quantity", "expected"), [(SPEED, 2.0), (TIME, 0.5)])
def test_above_one_means_ahead(quantity: Quantity, expected: float) -> None:
    assert ratio(Row(quantity, ROLES, {"mntapi": [20], "fast": [10]}), "mntapi", "fast") == expected


def test_the_best_comes_first_whichever_way_better_is() -> None:
    samples = {"mntapi": [1.0], "slow": [5.0], "fast": [10.0], "top": [60.0]}
    assert Row(SPEED, ROLES, dict(samples)).of(Role.PEER) == ["fast", "slow"]
    assert Row(TIME, ROLES, dict(samples)).of(Role.PEER) == ["slow", "fast"]
    assert Row(SPEED, ROLES, {"mntapi": [1.0], "fast": []}).of(Role.PEER) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.27149, "0.271"),
        (12.345, "12.3"),
        (99.96, "100"),
        (271.4, "271"),
        (999.6, "1000"),
        (48234, "48,200"),
        (1_400_123, "1,400,000"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_row_names_the_best_peer_the_others_and_the_limit() -> None:
    header, _rule, line = (split(one) for one in table([speed()]).splitlines())
    assert header == ["work", "mntapi", "best peer", "ratio", "others"]
    assert line == ["reading (MiB/s)", "20 (10..30)", "fast 10 (10..10)", "2.00", "slow 5; limit: top 40 (0.50)"]


def test_each_of_our_programs_has_a_line() -> None:
    roles = {"mntapi mount": Role.OURS, "mntapi cat": Role.OURS, "cp": Role.PEER}
    row = Row(SPEED, roles, {"mntapi mount": [10], "mntapi cat": [40], "cp": [20]})
    lines = [split(line) for line in table([row]).splitlines()[2:]]
    assert [(line[0], line[3]) for line in lines] == [("reading, cat (MiB/s)", "2.00"), ("reading, mount (MiB/s)", "0.50")]


def test_what_did_not_run_is_no_number() -> None:
    alone = Row(SPEED, ROLES, {"mntapi": [10]})
    beaten = Row(SPEED, ROLES, {"fast": [10]})
    assert [split(line)[1:4] for line in table([alone, beaten]).splitlines()[2:]] == [
        ["10 (10..10)", "-", "-"],
        ["failed", "fast 10 (10..10)", "-"],
    ]


def test_columns_are_aligned() -> None:
    lines = table([speed(), Row(TIME, ROLES, {"mntapi": [0.25], "fast": [2.5]})]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len({tuple(index for index, letter in enumerate(line) if letter == "|") for line in lines}) == 1


def test_json_holds_every_sample_and_ratio() -> None:
    left_out = [LeftOut("blocks", "nbdfuse", "not installed (nbdfuse)")]
    whole = json.loads(json.dumps(as_object([speed()], left_out, {"cores": 2})))
    assert whole["machine"] == {"cores": 2}
    assert whole["left_out"] == [{"work": "blocks", "program": "nbdfuse", "reason": "not installed (nbdfuse)"}]
    (row,) = whole["rows"]
    assert row["best_peer"] == "fast"
    assert row["programs"]["mntapi"] == {"role": "ours", "min": 10, "median": 20, "max": 30, "samples": [30, 10, 20]}
    assert row["ratios"] == {"mntapi": {"fast": 2, "slow": 4, "top": 0.5}}


def racer(name: str, log: list[str], role: Role = Role.PEER, needs: tuple[str, ...] = ()) -> Racer[str]:
    @contextmanager
    def opened() -> Iterator[str]:
        log.append(f"open {name}")
        if name == "broken":
            raise Failure("does not start")
        try:
            yield name
        finally:
            log.append(f"close {name}")
        if name == "sticky":
            raise Failure("stays mounted")

    return Racer(name, opened, needs, role)


def heat(log: list[str], fails: Callable[[str], bool] = lambda name: False) -> Heat[str]:
    def run(name: str) -> Sequence[float]:
        log.append(name)
        if fails(name):
            raise Failure("gives up")
        return (1.0,)

    return Heat((SPEED,), run)


def test_programs_run_in_turn_and_are_closed_at_the_end() -> None:
    log: list[str] = []
    track = Track(2, lambda text: None)
    track.run(Race("race", [racer("mntapi", log, Role.OURS), racer("fast", log)], [heat(log)]))
    assert log == ["open mntapi", "open fast", "mntapi", "fast", "mntapi", "fast", "close fast", "close mntapi"]
    assert [row.samples for row in track.rows] == [{"mntapi": [1, 1], "fast": [1, 1]}]
    assert track.left_out == []


def test_a_program_that_is_missing_or_fails_is_named_and_left_out() -> None:
    log: list[str] = []
    track = Track(2, lambda text: None)
    racers = [racer("mntapi", log, Role.OURS), racer("broken", log), racer("slow", log), racer("gone", log, needs=("no-such",))]
    track.run(Race("race", racers, [heat(log, fails=lambda name: name == "slow" and log.count("slow") == 2), heat(log)]))
    assert [(one.program, one.reason) for one in track.left_out] == [
        ("broken", "does not start"),
        ("gone", "not installed (no-such)"),
        ("slow", "gives up"),
    ]
    assert [row.samples for row in track.rows] == [{"mntapi": [1, 1]}, {"mntapi": [1, 1]}]


def test_what_cannot_be_undone_is_named_and_costs_no_result() -> None:
    log: list[str] = []
    track = Track(1, lambda text: None)
    track.run(Race("race", [racer("mntapi", log, Role.OURS), racer("sticky", log)], [heat(log)]))
    assert [row.samples for row in track.rows] == [{"mntapi": [1], "sticky": [1]}]
    assert track.left_out == [LeftOut("race", "undoing it", "stays mounted")]
    assert log[-1] == "close mntapi"


def split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
