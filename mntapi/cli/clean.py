"""``mntapi clean``: remove what crashes left."""

from __future__ import annotations

import click

from mntapi.cli.arguments import json_option
from mntapi.cli.main import FAILED, OK
from mntapi.cli.output import complain, emit, emit_json, escape
from mntapi.session.teardown import clean


@click.command("clean", short_help="Remove what a crash left.")
@json_option
def command(as_json: bool) -> int:
    """Remove the mounts, loop devices, processes and run folders of mounts whose worker or command died.

    Mounts that serve are left alone. A file in a dead mount that a program holds open does not keep it.
    """
    done = clean()
    if as_json:
        failed = [{"mountpoint": record.mountpoint, "error": str(error)} for record, error in done.errors]
        emit_json({"cleaned": [record.mountpoint for record in done.records], "failed": failed})
    else:
        for record in done.records:
            emit(f"cleaned {escape(record.mountpoint)}")
    for record, error in done.errors:
        complain(f"error: {record.mountpoint}: {error}")
    return FAILED if done.errors else OK
