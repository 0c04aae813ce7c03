"""``mntapi overlay``: what ``mntapi mount --overlay FILE`` wrote: told, or made a full disk of."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO

import click

from mntapi.cli.arguments import MAX_KEY, json_option
from mntapi.cli.output import complain, emit, emit_json, escape
from mntapi.cli.progress import progress_bar
from mntapi.errors import Invalid
from mntapi.remote import Url, is_url
from mntapi.session.overlay_file import closed_overlay, overlay_info
from mntapi.units import format_size

FORMAT_BY_SUFFIX = {".qcow2": "qcow2", ".vmdk": "vmdk-stream", ".raw": "raw", ".img": "raw", ".vhdx": "vhdx"}
_WHICH = "name the file that was given to mntapi mount --overlay; it knows its original"


@click.group("overlay", short_help="What was written to an overlay: tell, or make a full disk of it.")
def command() -> None:
    """Overlays are the files that mntapi mount --overlay FILE keeps changes in."""


@command.command("info", short_help="Tell what an overlay belongs to.")
@click.argument("overlay", metavar="OVERLAY")
@json_option
def info(overlay: str, as_json: bool) -> None:
    """Tell which disk OVERLAY was made for, how much it holds, and whether a mount uses it."""
    found = overlay_info(_of_this_host(overlay))
    if as_json:
        emit_json(asdict(found))
        return
    emit(f"original  {escape(found.original)} ({found.original_format or 'format not told'})")
    emit(f"disk      {format_size(found.size)}")
    emit(f"stored    {format_size(found.stored)}")
    emit(f"in use    {'yes' if found.in_use else 'no'}")


@command.command("commit", short_help="Write the disk with its changes to a new file.")
@click.argument("overlay", metavar="OVERLAY")
@click.option("--to", "out", metavar="NEW", required=True, help="NEW.qcow2, .vmdk, .raw, .img or .vhdx.")
@click.option("--overwrite", is_flag=True, help="Replace NEW if it is there already.")
@click.option("--parent", metavar="SET", help="The original, wherever the overlay says it is.")
@click.option(
    "--allow-outside", is_flag=True, help="Follow names in the overlay or its original that lead out of their folders."
)
@click.option("--ignore-cid", is_flag=True, help="Accept an original, or a parent of it, that was changed since.")
@click.option(
    "--key-file", "key_files", multiple=True, type=click.File("rb"), help="A file with the passphrase of an encrypted original."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def commit(
    overlay: str,
    out: str,
    overwrite: bool,
    parent: str | None,
    allow_outside: bool,
    ignore_cid: bool,
    key_files: tuple[IO[bytes], ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the original with the changes in OVERLAY to the new file NEW, a full disk that needs neither.

    The original and OVERLAY stay as they are. OVERLAY must not be in use by a mount. An original that is not what it was when
    OVERLAY was made is refused: the two together are a disk that never was. An original in another folder is found
    where mntapi mount found it, if the same user ran that; for an OVERLAY that was copied, or comes from another user or from
    elsewhere, say --parent or --allow-outside.
    """
    from mntapi.export import ConvertOptions, convert
    from mntapi.session.diskset import open_disks
    from mntapi.session.originals import opener_of
    from mntapi.types import DiskSpec, OpenOptions

    options = ConvertOptions(format=_format_of(out), overwrite=overwrite)
    with closed_overlay(_of_this_host(overlay)) as found, ExitStack() as opened:
        passphrases = _passphrases(key_files)
        how = OpenOptions(parent=parent, allow_outside=allow_outside, ignore_cid=ignore_cid, passphrases=passphrases)
        opener = opener_of(found.path, how)
        disk_set = opened.enter_context(open_disks(DiskSpec(found.path, format="qcow2"), options=how, opener=opener))
        disk = disk_set.disks[0]
        if "parent" in disk.details:
            complain(f"note: {disk.details['parent']}")
        originals = [link.file for link in disk.chain]
        with progress_bar(quiet, disk.blocks.size) as progress:
            done = convert(disk.blocks, out, options, originals=originals, progress=lambda count: progress(out, count))
    if as_json:
        emit_json(asdict(done))
    elif sys.stderr.isatty():
        complain(f"{format_size(done.virtual_size)} disk, {format_size(done.bytes_written)} written")


def _of_this_host(overlay: str) -> str:
    if is_url(overlay):
        raise Invalid("an overlay is a file of this host, not one on a server", path=Url.parse(overlay).display, hint=_WHICH)
    return overlay


def _passphrases(files: tuple[IO[bytes], ...]) -> tuple[str, ...]:
    return tuple(os.fsdecode(file.read(MAX_KEY).removesuffix(b"\n")) for file in files)


def _format_of(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMAT_BY_SUFFIX:
        known = ", ".join(FORMAT_BY_SUFFIX)
        raise click.BadParameter(f"{path!a} does not say which format: end it with {known}", param_hint="--to")
    return FORMAT_BY_SUFFIX[suffix]
