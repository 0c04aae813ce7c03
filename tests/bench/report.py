"""What was measured, as numbers, a table and JSON. Pure: nothing here runs or reads anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Any


class Role(Enum):
    """``LIMIT``: not a peer, but what the host could do at best; no ratio is taken from it for the table's verdict."""

    OURS = "ours"
    PEER = "peer"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Quantity:
    """What one figure of a piece of work is."""

    work: str
    unit: str
    higher_is_better: bool


@dataclass(slots=True)
class Row:
    """One quantity of every program that took part. ``samples[program][n]`` is of round n; a failed one has none."""

    quantity: Quantity
    roles: Mapping[str, Role]
    samples: dict[str, list[float]] = field(default_factory=dict)

    def of(self, role: Role) -> list[str]:
        """The programs in that role that were measured, the best median first."""
        names = [name for name, samples in self.samples.items() if samples and self.roles[name] is role]
        return sorted(names, key=lambda name: median(self.samples[name]), reverse=self.quantity.higher_is_better)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A program that could not be measured, and why."""

    work: str
    program: str
    reason: str


def ratio(row: Row, ours: str, other: str) -> float:
    """How many times as good ``ours`` is: above 1 it is ahead, be it by more bytes or by fewer seconds.

    The median of the rounds' ratios, not the ratio of the medians: the two figures of one round saw the same machine.
    """
    pairs = zip(row.samples[ours], row.samples[other], strict=True)
    return median(mine / theirs if row.quantity.higher_is_better else theirs / mine for mine, theirs in pairs)


def number(value: float) -> str:
    """Three digits that count, thousands apart: ``0.271``, ``12.3``, ``48,200``."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table that can be read as it is: one line for each quantity of each of our programs."""
    lines = [("work", "mntapi", "best peer", "ratio", "others"), *(line for row in rows for line in _lines(row))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _lines(row: Row) -> Iterator[tuple[str, ...]]:
    mine, peers, limits = (row.of(role) for role in Role)
    unit = row.quantity.unit
    best = f"{peers[0]} {_spread(row, peers[0])}" if peers else "-"
    for ours in mine or [""]:
        who = ours.removeprefix("mntapi").strip()
        work = row.quantity.work + (f", {who}" if who else "") + f" ({unit})"
        against = f"{ratio(row, ours, peers[0]):.2f}" if ours and peers else "-"
        others = [f"{name} {number(median(row.samples[name]))}" for name in peers[1:]]
        if ours:
            others += [f"limit: {name} {number(median(row.samples[name]))} ({ratio(row, ours, name):.2f})" for name in limits]
        yield work, _spread(row, ours) if ours else "failed", best, against, "; ".join(others)


def _spread(row: Row, name: str) -> str:
    samples = row.samples[name]
    return f"{number(median(samples))} ({number(min(samples))}..{number(max(samples))})"


def as_object(rows: Sequence[Row], left_out: Sequence[LeftOut], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain values, each sample included."""
    return {
        "machine": dict(machine),
        "rows": [_row(row) for row in rows],
        "left_out": [{"work": one.work, "program": one.program, "reason": one.reason} for one in left_out],
    }


def _row(row: Row) -> dict[str, Any]:
    mine, peers, limits = (row.of(role) for role in Role)
    return {
        "work": row.quantity.work,
        "unit": row.quantity.unit,
        "higher_is_better": row.quantity.higher_is_better,
        "best_peer": peers[0] if peers else None,
        "programs": {
            name: {
                "role": row.roles[name].value,
                "min": min(samples),
                "median": median(samples),
                "max": max(samples),
                "samples": samples,
            }
            for name, samples in row.samples.items()
            if samples
        },
        "ratios": {ours: {other: ratio(row, ours, other) for other in [*peers, *limits]} for ours in mine},
    }
