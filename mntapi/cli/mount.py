"""``mntapi mount SET DIR``: the guest's files, the volumes as folders, or the disks as files, until ``mntapi umount DIR``."""

from __future__ import annotations

import os
import signal
import sys

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.output import complain, emit_json
from mntapi.session.mounts import Mounted, MountRequest, mount
from mntapi.session.teardown import unmount_if_there

MAX_NOTES = 12
WORKER = (sys.executable, "-m", "mntapi_fuse.worker")
"""The program that serves a mount."""


@click.command("mount", short_help="Mount on a folder, or present block files.")
@takes_set
@click.argument("directory", metavar="DIR")  # no click.Path: its stat hangs where a server is stuck
@click.option(
    "--layout",
    type=click.Choice(["guest", "volumes", "blocks"]),
    help="Files as the guest has them (default if there is one), files of each volume, or disks and volumes as files.",
)
@click.option("--via", type=click.Choice(["user", "kernel"]), default="user", help="Who reads the file systems.")
@click.option("--volume", metavar="NAME", help="Only this volume; its files lie directly in DIR.")
@click.option(
    "--overlay",
    metavar="FILE|memory",
    help="Make it writable: changes go to FILE (QCOW2; FILE.diskN for several disks), or are forgotten at umount.",
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C or umount.")
@click.option("--allow-other", is_flag=True, help="Let other users in, by the permissions the guest's files have.")
@click.option("--fuse-backend", type=click.Choice(["kernel", "fusepy"]), default="kernel", help="Who speaks FUSE.")
@json_option
def command(
    disks: SetArguments,
    directory: str,
    layout: str | None,
    via: str,
    volume: str | None,
    overlay: str | None,
    foreground: bool,
    allow_other: bool,
    fuse_backend: str,
    as_json: bool,
) -> None:
    """Mount SET on the empty folder DIR; returns when it is ready. Read-only, unless there is an --overlay.

    DIR shows what the guest's users knew: DIR/etc/passwd, DIR/home/ann, or DIR/C:/Users/ann, and below DIR/volumes what
    the guest does not mount. Links that lead to /etc/x in the guest lead to DIR/etc/x. With --layout volumes, and where there
    is no guest, every volume is a folder of DIR: DIR/disk0p1/etc/passwd. With --layout blocks, DIR/disks/disk0 and
    DIR/volumes/disk0p1 are files for losetup, fsck, qemu-img and others.

    With --overlay these files, or with --via kernel the file systems, can be written; the disks of SET never are. FILE is made,
    or gone on with if it was made for the same disk. mntapi overlay commit makes a full disk of it.
    """
    request = MountRequest(
        specs=disks.specs,
        mountpoint=directory,
        worker=WORKER,
        options=disks.options,
        layout=layout,
        via=via,
        volume=volume,
        allow_other=allow_other,
        backend=fuse_backend,
        overlay=overlay,
    )
    mounted = mount(request)
    if not foreground:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is done: 'interrupted' would say that nothing is mounted
    _tell(mounted, as_json)
    if foreground:
        _stay(mounted)


def _tell(mounted: Mounted, as_json: bool) -> None:
    """Notes, and where it is mounted. A caller that cannot be told will not unmount it: then it is undone."""
    for note in mounted.notes[:MAX_NOTES]:
        complain(f"note: {note}")
    if len(mounted.notes) > MAX_NOTES:
        complain(f"note: {len(mounted.notes) - MAX_NOTES} more; mntapi info shows all")
    if not as_json:
        return
    try:
        emit_json({"id": mounted.record.id, "mountpoint": mounted.record.mountpoint, "pid": mounted.worker.id.pid})
        sys.stdout.flush()
    except OSError:
        unmount_if_there(mounted.record.id)
        raise


def _stay(mounted: Mounted) -> None:
    """Wait for the mount to end; a Ctrl-C ends it."""
    if sys.stderr.isatty():
        complain(f"mounted on {os.path.relpath(mounted.record.mountpoint)}; Ctrl-C ends it")
    try:
        mounted.worker.wait()
    except KeyboardInterrupt:
        unmount_if_there(mounted.record.id)
        return
    unmount_if_there(mounted.record.id)
