"""``mntapi doctor``: what this host has and lacks."""

from __future__ import annotations

from dataclasses import asdict

import click

from mntapi.cli.arguments import json_option
from mntapi.cli.main import FAILED, OK
from mntapi.cli.output import emit, emit_json, escape, table
from mntapi.session.host import Finding, examine

_MARKS = {True: "ok", False: "MISSING", None: ""}


@click.command("doctor", short_help="What this host has and lacks.")
@json_option
def command(as_json: bool) -> int:
    """Check FUSE, loop devices, file systems of the kernel, confinement, libraries, memory; say how to get what is missing."""
    findings = list(examine())
    if as_json:
        emit_json([asdict(finding) for finding in findings])
    else:
        for line in table([("", "WHAT", "FOUND"), *map(_row, findings)]):
            emit(line)
        for finding in findings:
            if finding.remedy and finding.ok is not True:
                emit(f"\n{finding.topic}: {escape(finding.remedy)}")
    return FAILED if any(finding.ok is False for finding in findings) else OK


def _row(finding: Finding) -> tuple[str, str, str]:
    return (_MARKS[finding.ok], finding.topic, escape(finding.text))
