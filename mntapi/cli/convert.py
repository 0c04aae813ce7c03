"""``mntapi convert SET OUT``: a disk, or one volume, into a new file of another format."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_source
from mntapi.cli.output import complain, emit, emit_json, shown
from mntapi.cli.progress import progress_bar
from mntapi.cli.selection import disk_at, disk_index_option, tell_ciphertext
from mntapi.errors import Corrupt
from mntapi.export import FORMATS, Converted, ConvertOptions, convert
from mntapi.export.batches import SERVER_READERS
from mntapi.remote import is_url
from mntapi.session.diskset import DiskSet
from mntapi.types import Blocks, Volume, VolumeState
from mntapi.units import format_size

_ASSEMBLED = frozenset({"ldm", "lvm", "md"})
"""Kinds of volumes of several parts, which have their full size whatever is missing."""


@click.command("convert", short_help="Write a disk to a new file: raw, qcow2, vmdk-stream, vhdx.")
@takes_source
@click.argument("out", metavar="OUT")  # no click.Path: its stat hangs where a server is stuck
@click.option("--format", "target", required=True, type=click.Choice([one.name for one in FORMATS]), help="What OUT will be.")
@disk_index_option
@click.option("--volume", metavar="NAME", help="Only this volume (disk0p1, or an id), without the disk around it.")
@click.option("--compress", type=click.Choice(["zlib", "zstd"]), help="Compress the clusters of a qcow2.")
@click.option("--sha256", is_flag=True, help="Print the SHA-256 of the new disk's contents, holes included.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is there already.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(
    disks: SetArguments,
    out: str,
    target: str,
    disk_index: int | None,
    volume: str | None,
    compress: str | None,
    sha256: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write what the disk SET, with all its chain, holds to the new file OUT.

    Holes are neither read nor written, and zeros become holes. OUT appears when it is
    complete; on any error, and on Ctrl-C, nothing of it is left. Anything in SET that cannot
    be read is an error. Files of SET are never replaced.
    """
    with disks.open() as disk_set:
        disks.check_keys(disk_set)
        source = _source(disk_set, disk_index, volume)
        originals = [link.file for disk in disk_set.disks for link in disk.chain]
        readers = SERVER_READERS if any(map(is_url, originals)) else 1
        options = ConvertOptions(target, compress, overwrite=overwrite, sha256=sha256, readers=readers)
        with progress_bar(quiet, source.size) as progress:
            done = convert(source, out, options, originals=originals, progress=lambda count: progress(out, count))
    _summary(done, as_json)


def _source(disk_set: DiskSet, disk_index: int | None, volume: str | None) -> Blocks:
    if volume is not None:
        if disk_index is not None:
            raise click.UsageError("--disk-index and --volume exclude each other")
        chosen = _whole(disk_set.volume(volume))
        tell_ciphertext(chosen)
        return chosen.blocks
    if disk_index is None and len(disk_set.disks) > 1:
        raise click.UsageError("SET has several disks: choose one with --disk-index, or a volume with --volume")
    return disk_at(disk_set, disk_index or 0).blocks


def _whole(volume: Volume) -> Volume:
    """The volume, unless it was cut off, or nobody knows how large it is: a copy would pass for a whole one. One that lacks a
    member fails where it is read."""
    if (volume.state is VolumeState.INCOMPLETE and volume.kind not in _ASSEMBLED) or (volume.reason and not volume.size):
        raise Corrupt(f"volume {volume.name} is not whole: {volume.reason}", hint="the disk it is on can be converted")
    return volume


def _summary(done: Converted, as_json: bool) -> None:
    if as_json:
        emit_json(asdict(done))
        return
    if done.sha256:
        emit(f"{done.sha256}  {shown(done.path)}")
    if sys.stderr.isatty():
        complain(f"{format_size(done.virtual_size)} disk, {format_size(done.bytes_written)} written")
