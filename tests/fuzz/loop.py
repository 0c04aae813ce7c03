"""Damages disks and exercises them until time or number is up: ``PYTHONPATH=tests python -m fuzz.loop --help``.

Runs in a process of its own, because it limits its memory and counts what it took. What it prints before it fails (or before it
is killed: it is in the file ``current`` of the folder) is all that is needed to do the same again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuzz.exercise import exercise
from fuzz.mutate import SECTOR, Damage, Target, damage
from fuzz.seeds import Seed, make
from mntapi.session.diskset import open_disks

ADDRESS_SPACE = 1 << 30
MAX_RESIDENT = 256 << 20
MAX_CPU_S = 10
"""Seconds of processor time one example may take: a step that does not end takes more."""


class TooLong(BaseException):
    """An example that does not end. No ``Exception``, so that nothing takes it for something else."""


def main() -> int:
    options = _options()
    signal.signal(signal.SIGPROF, too_long)
    with tempfile.TemporaryDirectory(prefix="mntapi-fuzz-") as scratch:
        folder = Path(options.folder or scratch).resolve()
        (folder / "seeds").mkdir(parents=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        seeds = [seed for seed in make(folder / "seeds") if options.only in (None, seed.name)]
        if options.list:
            print("\n".join(f"{seed.name} {seed.opened.name}" for seed in seeds))
            return 0
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return _run(options, folder, seeds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz.loop", description=__doc__)
    parser.add_argument("--examples", type=int, default=10, help="of each seed; 0 for as many as there is time")
    parser.add_argument("--first", type=int, default=0, help="number of the first example")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of processor time in all")
    parser.add_argument("--seed", default="1", help="another one gives other examples")
    parser.add_argument("--only", metavar="NAME", help="only this disk")
    parser.add_argument("--list", action="store_true", help="print the disks and stop")
    parser.add_argument("--go-on", action="store_true", help="after a failure")
    parser.add_argument("--folder", help="a new folder to work in; it is kept")
    return parser.parse_args()


def _run(options: argparse.Namespace, folder: Path, seeds: list[Seed]) -> int:
    guests = {sector for name in ("gpt.raw", "mbr.raw") for sector in _sectors(folder / "seeds" / name)}
    targets = [(seed, Target.of(seed.damaged, guests)) for seed in seeds]
    done = failures = 0
    slowest, peak = (0.0, ""), 0
    print("formats:", *sorted({name for seed in seeds for name in _formats(seed)}))
    for number in range(options.first, options.first + options.examples if options.examples else sys.maxsize):
        for seed, target in targets:
            if time.process_time() > options.seconds:
                break
            recipe = f"--seed {options.seed} --only {seed.name} --first {number} --examples 1"
            (folder / "current").write_text(recipe)
            took, fault = _example(seed, target, random.Random(f"{options.seed}:{seed.name}:{number}"))
            resident = _peak()
            if fault is None and resident > max(peak, MAX_RESIDENT):
                fault = f"took {resident >> 20} MiB of memory"
            peak, slowest = max(peak, resident), max(slowest, (took, recipe))
            done += 1
            if fault is not None:
                failures += 1
                print(f"FAILED: {recipe}\n{fault}", flush=True)
                if not options.go_on:
                    return 1
        else:
            continue
        break
    print(f"{done} examples of {len(targets)} disks, {failures} failed, slowest {slowest[0]:.1f} s of CPU ({slowest[1]}), "
          f"{peak >> 20} MiB at most, {time.process_time():.0f} s of CPU")  # fmt: skip
    return 1 if failures else 0


def _formats(seed: Seed) -> set[str]:
    """The formats that the disk goes through, sound as it is."""
    exercise(seed.opened)
    with open_disks(str(seed.opened)) as disks:
        return {link.format for disk in disks.disks for link in disk.chain}


def _sectors(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    return (content[at : at + SECTOR] for at in range(0, len(content), SECTOR))


def _peak() -> int:
    """Bytes this process had resident at most. Not ``ru_maxrss``: that begins with what the parent had, even after an exec."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


def _example(seed: Seed, target: Target, dice: random.Random) -> tuple[float, str | None]:
    """Seconds of processor time, and what went wrong."""
    started = time.process_time()
    fault = None
    with damaged(target, damage(target, dice)):
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        try:
            exercise(seed.opened)
        except (Exception, TooLong):  # noqa: BLE001 (whatever it is, it should not have come out)
            fault = traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - started, fault


@contextmanager
def damaged(target: Target, how: Damage) -> Iterator[None]:
    """The file damaged, and afterwards as it was."""
    with target.path.open("r+b", buffering=0) as file:
        for at, new in how.writes:
            os.pwrite(file.fileno(), new, at)
        if how.size is not None:
            file.truncate(how.size)
        try:
            yield
        finally:
            for at, new in how.writes:
                os.pwrite(file.fileno(), target.content[at : at + len(new)], at)
            if how.size is not None:
                os.pwrite(file.fileno(), target.content[how.size :], how.size)


def too_long(*_: object) -> None:
    raise TooLong(f"more than {MAX_CPU_S} s of processor time")


if __name__ == "__main__":
    sys.exit(main())
