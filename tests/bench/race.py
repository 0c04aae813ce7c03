"""Programs that do the same work in turn, A B A B ..., so that all of them see the same noise of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from bench.commands import Failure, cache
from bench.report import LeftOut, Quantity, Role, Row

Subject = TypeVar("Subject")
"""What a racer brings to the start: a path to read, a command to run, a function to call."""


@dataclass(frozen=True, slots=True)
class Racer(Generic[Subject]):
    """A program that takes part.

    ``open`` makes it ready, and undoes that; ``needs`` are programs that must be installed; ``reads`` are the host's files that
    it reads: they are in the page cache at the start of each of its turns, so that no disk of the host is measured.
    """

    name: str
    open: Callable[[], AbstractContextManager[Subject]]
    needs: tuple[str, ...] = ()
    role: Role = Role.PEER
    reads: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Heat(Generic[Subject]):
    """One piece of work; ``run`` does it once and returns a value for each quantity."""

    quantities: tuple[Quantity, ...]
    run: Callable[[Subject], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Race(Generic[Subject]):
    """Heats for the same racers."""

    name: str
    racers: Sequence[Racer[Subject]]
    heats: Sequence[Heat[Subject]]


class Track:
    """Runs races and keeps what came out. A racer that fails is named in ``left_out`` and runs no further heat."""

    def __init__(self, rounds: int, say: Callable[[str], None]) -> None:
        self.rows: list[Row] = []
        self.left_out: list[LeftOut] = []
        self._rounds = rounds
        self._say = say

    def run(self, race: Race[Subject]) -> None:
        """All heats of a race; every racer is up from its first heat to its last."""
        try:
            with ExitStack() as stack:
                self._race(race, stack)
        except (Failure, OSError) as error:
            self.left_out.append(LeftOut(race.name, "undoing it", str(error)))

    def _race(self, race: Race[Subject], stack: ExitStack) -> None:
        roles = {racer.name: racer.role for racer in race.racers}
        reads = {racer.name: racer.reads for racer in race.racers}
        subjects: dict[str, Subject] = {}
        for racer in race.racers:
            self._bring(race, racer, stack, subjects)
        for heat in race.heats:
            self._say(f"{race.name}: {heat.quantities[0].work}, {self._rounds} rounds of {', '.join(subjects)}")
            rows = [Row(quantity, roles, {name: [] for name in subjects}) for quantity in heat.quantities]
            for _ in range(self._rounds):
                self._round(heat, subjects, reads, rows)
            self.rows += rows

    def _bring(self, race: Race[Subject], racer: Racer[Subject], stack: ExitStack, subjects: dict[str, Subject]) -> None:
        missing = [program for program in racer.needs if shutil.which(program) is None]
        if missing:
            self.left_out.append(LeftOut(race.name, racer.name, f"not installed ({', '.join(missing)})"))
            return
        try:
            subjects[racer.name] = stack.enter_context(racer.open())
        except (Failure, OSError) as error:
            self.left_out.append(LeftOut(race.name, racer.name, str(error)))

    def _round(
        self, heat: Heat[Subject], subjects: dict[str, Subject], reads: Mapping[str, Sequence[Path]], rows: Sequence[Row]
    ) -> None:
        for name, subject in list(subjects.items()):
            try:
                for path in reads[name]:
                    cache(path)
                values = heat.run(subject)
            except (Failure, OSError) as error:
                del subjects[name]
                for row in rows:
                    del row.samples[name]
                self.left_out.append(LeftOut(heat.quantities[0].work, name, str(error)))
                continue
            for row, value in zip(rows, values, strict=True):
                row.samples[name].append(value)
