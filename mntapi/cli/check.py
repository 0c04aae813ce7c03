"""``mntapi check SET``: what is wrong with the containers of the disks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.output import complain, emit, emit_json, escape
from mntapi.cli.progress import progress_bar
from mntapi.images.checking import Fault, Severity
from mntapi.session.checks import check_set

FAULTY = 3
"""Exit code when a disk has faults."""


@click.command("check", short_help="Faults of the disks' containers: chains, tables, checksums.")
@takes_set
@click.option("--data", is_flag=True, help="Read every byte, too.")
@json_option
def command(disks: SetArguments, data: bool, as_json: bool) -> int:
    """Check the containers of SET: that every chain fits together, that tables name places inside their files and no
    place twice, that reference counts and checksums are right. Nothing is repaired.

    One line a fault: PATH: what (at byte N). Exit code 3 when there are faults. What begins with 'note:' or 'leak:'
    (space that nothing uses) puts no byte of the disk at risk, and leaves the exit code 0.

    Where a format has checksums of its data (compressed VMDK, EWF, DMG, cloop), all data is read to compare them. The
    compressed clusters of a QCOW2 have none: they are unpacked with --data only.
    """
    found: Counter[Severity] = Counter()
    listed: list[Fault] = []
    with progress_bar(as_json) as advance:
        for disk in check_set(disks.specs, disks.options, data=data, progress=_Advance(advance)):
            before = found[Severity.ERROR]
            for fault in disk.faults:
                found[fault.severity] += 1
                if as_json:
                    listed.append(fault)
                else:
                    emit(escape(str(fault)))
            if not as_json and found[Severity.ERROR] == before:
                emit(escape(f"{disk.path}: no faults"))
    if as_json:
        counts = {"errors": found[Severity.ERROR], "leaks": found[Severity.LEAK], "notes": found[Severity.NOTE]}
        emit_json({"faults": [asdict(fault) for fault in listed], **counts})
    elif found[Severity.ERROR]:
        count = found[Severity.ERROR]
        complain(f"{count} fault{'' if count == 1 else 's'}")
    return FAULTY if found[Severity.ERROR] else 0


class _Advance:
    """Positions in a disk as steps of a progress bar."""

    def __init__(self, advance: Callable[[str, int], None]) -> None:
        self._advance = advance
        self._last = 0

    def __call__(self, position: int, size: int) -> None:
        self._advance("", position - self._last if position > self._last else position)
        self._last = position
