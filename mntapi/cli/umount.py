"""``mntapi umount DIR``: end a mount, and everything it took."""

from __future__ import annotations

import click

from mntapi.cli.output import complain
from mntapi.session.teardown import unmount


@click.command("umount", short_help="End a mount and everything it took.")
@click.argument("directory", metavar="DIR")  # no click.Path: its stat hangs where a server is stuck
@click.option("--force", is_flag=True, help="Even if files in it are open; their readers get errors.")
def command(directory: str, force: bool) -> None:
    """Unmount DIR: the file systems, their loop devices, the FUSE mount and the worker process."""
    for given_up in unmount(directory, force=force):
        complain(f"note: {given_up}")
