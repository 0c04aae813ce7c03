"""``mntapi overlay``: what ``mntapi mount --overlay FILE`` wrote: told, or made a full disk of."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import click

from mntapi.cli.arguments import json_option
from mntapi.cli.output import complain, emit, emit_json, shown
from mntapi.cli.progress import progress_bar
from mntapi.session.overlay import closed_overlay, overlay_info
from mntapi.units import format_size

FORMAT_BY_SUFFIX = {".qcow2": "qcow2", ".vmdk": "vmdk-stream", ".raw": "raw", ".img": "raw", ".vhdx": "vhdx"}


@click.group("overlay", short_help="What was written to an overlay: tell, or make a full disk of it.")
def command() -> None:
    """Overlays are the files that mntapi mount --overlay FILE keeps changes in."""


@command.command("info", short_help="Tell what an overlay belongs to.")
@click.argument("overlay", metavar="OVERLAY")
@json_option
def info(overlay: str, as_json: bool) -> None:
    """Tell which disk OVERLAY was made for, how much it holds, and whether a mount uses it."""
    found = overlay_info(overlay)
    if as_json:
        emit_json(asdict(found))
        return
    emit(f"original  {shown(found.original)} ({found.original_format or 'format not told'})")
    emit(f"disk      {format_size(found.size)}")
    emit(f"stored    {format_size(found.stored)}")
    emit(f"in use    {'yes' if found.in_use else 'no'}")


@command.command("commit", short_help="Write the disk with its changes to a new file.")
@click.argument("overlay", metavar="OVERLAY")
@click.option("--to", "out", metavar="NEW", required=True, help="NEW.qcow2, .vmdk, .raw, .img or .vhdx.")
@click.option("--overwrite", is_flag=True, help="Replace NEW if it is there already.")
@click.option(
    "--allow-outside", is_flag=True, help="Follow names in the overlay or its original that lead out of their folders."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def commit(overlay: str, out: str, overwrite: bool, allow_outside: bool, quiet: bool, as_json: bool) -> None:
    """Write the original with the changes in OVERLAY to the new file NEW, a full disk that needs neither.

    The original and OVERLAY stay as they are. OVERLAY must not be in use by a mount.
    """
    from mntapi.export import ConvertOptions, convert
    from mntapi.session.diskset import open_disks
    from mntapi.types import DiskSpec, OpenOptions

    options = ConvertOptions(format=_format_of(out), overwrite=overwrite)
    with (
        closed_overlay(overlay) as found,
        open_disks(DiskSpec(found.path, format="qcow2"), options=OpenOptions(allow_outside=allow_outside)) as disk_set,
    ):
        disk = disk_set.disks[0]
        originals = [link.file for link in disk.chain]
        with progress_bar(quiet, disk.blocks.size) as progress:
            done = convert(disk.blocks, out, options, originals=originals, progress=lambda count: progress(out, count))
    if as_json:
        emit_json(asdict(done))
    elif sys.stderr.isatty():
        complain(f"{format_size(done.virtual_size)} disk, {format_size(done.bytes_written)} written")


def _format_of(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMAT_BY_SUFFIX:
        known = ", ".join(FORMAT_BY_SUFFIX)
        raise click.BadParameter(f"{path!a} does not say which format: end it with {known}", param_hint="--to")
    return FORMAT_BY_SUFFIX[suffix]
