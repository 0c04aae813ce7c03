"""Coverage-guided fuzzing of one disk with atheris, by hand: ``scripts/fuzz --atheris NAME [libFuzzer options]``.

The input is a list of changes to the sound disk (place, width, number), which keeps it in the shape of its format; libFuzzer
learns which of them lead to code that was not seen yet. It writes an input that fails to ``crash-...`` in the folder where it
was started; give that file's name to run it alone.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import tempfile
from pathlib import Path

import atheris  # not among the project's requirements

with atheris.instrument_imports(include=["mntapi"]):
    import mntapi
    from fuzz.exercise import exercise

    for package in ("images", "volumes", "filesystems"):  # imported on use as they are, they would be without instruments
        for module in pkgutil.walk_packages([str(Path(mntapi.__file__).parent / package)], f"mntapi.{package}."):
            importlib.import_module(module.name)

from fuzz.loop import MAX_CPU_S, damaged, too_long
from fuzz.mutate import Damage, Target, repair
from fuzz.seeds import make

MAX_CHANGES = 8


def main() -> None:
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory(prefix="mntapi-fuzz-") as scratch:
        folder = Path(scratch).resolve()
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        seed = next(seed for seed in make(folder) if seed.name == name)
        target = Target.of(seed.damaged, set())
        signal.signal(signal.SIGPROF, too_long)

        def once(data: bytes) -> None:
            with damaged(target, _damage(target, atheris.FuzzedDataProvider(data))):
                signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
                exercise(seed.opened)
                signal.setitimer(signal.ITIMER_PROF, 0)

        atheris.Setup([sys.argv[0], "-max_len=128", "-len_control=0", *sys.argv[1:]], once)
        atheris.Fuzz()


def _damage(target: Target, dice: atheris.FuzzedDataProvider) -> Damage:
    """Up to ``MAX_CHANGES`` numbers, each in a sector of the container or of the guest that is in use."""
    content = bytearray(target.content)
    places = []
    for _ in range(dice.ConsumeIntInRange(1, MAX_CHANGES)):
        sectors = target.structures if dice.ConsumeBool() else target.rest
        at = sectors[dice.ConsumeIntInRange(0, len(sectors) - 1)] + dice.ConsumeIntInRange(0, 511)
        new = dice.ConsumeBytes((1, 2, 4, 8)[dice.ConsumeIntInRange(0, 3)])[: max(0, len(content) - at)]
        content[at : at + len(new)] = new
        places.append((at, len(new)))
    if dice.ConsumeBool():
        places += repair(content)
    return Damage(tuple((at, bytes(content[at : at + length])) for at, length in places))


if __name__ == "__main__":
    main()
