"""``scripts/bench``: mntapi against the programs that do the same, in turn, on this machine.

Not a test: nothing here fails for being slow. Start with ``work.py``, which says what is measured; ``race.py`` is how,
``servers.py`` against whom, ``disks.py`` on what. Always true: the figures of a row were taken in turn within one run, so their
ratio counts and they themselves do not; and whatever way the bench ends, nothing stays mounted, since ``scripts/bench`` gave it
a mount and a process namespace of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import formats, guests, machine, managers, work
from bench.commands import Failure
from bench.disks import Disks
from bench.race import Track
from bench.report import as_object, table
from bench.wakefulness import steady
from bench.work import Bench, Settings
from mntapi.errors import MntapiError

SECTIONS = {**work.SECTIONS, **formats.SECTIONS, **managers.SECTIONS, **guests.SECTIONS}
_ROUNDS = 5
_SECONDS, _QUICK_SECONDS = 3.0, 1.0


def main() -> int:
    """The command; returns its exit code."""
    arguments = _parse()
    if os.geteuid():
        return _complain("root is needed: it mounts, and measures against the kernel's mounts")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mntapi-bench"
    _keep_bytecode(cache / "bytecode")
    try:
        with _scratch(cache) as scratch:
            _measure(arguments, cache, scratch)
    except (Failure, MntapiError, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    return 0


def _keep_bytecode(folder: Path) -> None:
    """Programs in Python find their modules compiled, as installed ones do; this environment may forbid to keep that."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("scripts/bench", description="Measure mntapi and its peers in turn, on the same disks.")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample instead of the table")
    parser.add_argument("--quick", action="store_true", help="1 s instead of 3 s for each run of fio")
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=list(SECTIONS), help=f"one of: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--rounds", metavar="N", type=_positive, default=_ROUNDS, help=f"of every measurement; {_ROUNDS}")
    parser.add_argument("--slow", action="store_true", help="also peers that take long: virt-filesystems")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")
    return int(text)


def _stop(number: int, frame: object) -> None:
    """The first Ctrl-C ends the bench; a second one must not interrupt the undoing."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder for mount points, emptied before and after; only one bench at a time has it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another bench is running ({lock.name} is locked)") from error
        scratch = cache / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "run").mkdir(parents=True)
        os.environ["MNTAPI_RUN_DIR"] = str(scratch / "run")
        os.environ["MNTAPI_STATE_DIR"] = str(scratch / "state")
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _measure(arguments: argparse.Namespace, cache: Path, scratch: Path) -> None:
    dissect = os.environ.get("MNTAPI_BENCH_DISSECT")
    seconds = _QUICK_SECONDS if arguments.quick else _SECONDS
    settings = Settings(scratch, seconds, arguments.slow, Path(dissect) if dissect else None)
    described = machine.describe()
    track = Track(arguments.rounds, _say)
    bench = Bench(settings, Disks(cache, _say))
    described["round_trips"] = {}
    try:
        for name in arguments.only or SECTIONS:
            for race in SECTIONS[name](bench):
                with steady() as described["round_trips"][race.name]:
                    track.run(race)
    finally:  # what was measured before an interrupt took long enough to be worth showing
        _print_json(track, described) if arguments.json else _print_page(track, described, arguments.rounds)


def _print_json(track: Track, described: dict[str, Any]) -> None:
    print(json.dumps(as_object(track.rows, track.left_out, described), indent=2))


def _print_page(track: Track, described: dict[str, Any], rounds: int) -> None:
    print(machine.sentence(described))
    print(f"\nMedian (min..max) of {rounds} rounds, taken in turn. Ratio: how many times as good as the best peer.\n")
    print(table(track.rows))
    if track.left_out:
        print("\nLeft out:")
    for one in track.left_out:
        print(f"- {one.program} ({one.work}): {one.reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _complain(text: str) -> int:
    _say(f"error: {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
