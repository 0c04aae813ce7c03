"""``mntapi cp SET PATH... DEST``: files and folders out of a guest onto the host."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import click

from mntapi.cli.arguments import SetArguments, json_option, takes_set
from mntapi.cli.main import OK, PARTIAL, report
from mntapi.cli.output import complain, emit_json
from mntapi.cli.progress import progress_bar
from mntapi.errors import MntapiError, NotFound
from mntapi.restore.copy import Copier, CopyOptions
from mntapi.session.paths import parts_of, resolve
from mntapi.session.tree import open_tree
from mntapi.units import format_size


@click.command("cp", short_help="Copy files and folders out.")
@takes_set
@click.argument("paths", metavar="PATH... DEST", nargs=-1, required=True)
@click.option("-r", "-R", "recursive", is_flag=True, help="Copy folders with everything in them.")
@click.option("-a", "--archive", is_flag=True, help="-r, and keep all: hard links, extended attributes, ACLs, devices, owners.")
@click.option("--overwrite", is_flag=True, help="Replace files that are at the destination already.")
@click.option("--owner", is_flag=True, help="Restore user, group and set-ID bits too (root).")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@json_option
def command(
    disks: SetArguments,
    paths: tuple[str, ...],
    recursive: bool,
    archive: bool,
    overwrite: bool,
    owner: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Copy each PATH of SET to the folder DEST, or one PATH to the new name DEST.

    Data, times, permissions and holes are kept; with -a everything else too, of the owner what the
    caller may give (all as root). A file with unreadable parts is saved as
    NAME.damaged, the copy goes on, and the exit code is 3. Earlier states (/home/@2026-11-01T02:00:00Z)
    are copied only where a PATH names one.

    Links keep the guest's own text, but junctions and links of Windows to a full path (C:\\Users) become
    relative ones, for nothing here knows drives; a target that is not copied too is named in a note.
    A mount point of a server's files is copied as an empty folder, with a note.
    """
    if len(paths) < 2:
        raise click.UsageError("cp needs at least one PATH and a DEST")
    *sources, destination = paths
    options = _options(archive, CopyOptions(recursive=recursive, overwrite=overwrite, owner=owner))
    with disks.reading() as disk_set, progress_bar(quiet) as progress:
        tree = open_tree(disk_set, snapshots=False)
        copier = Copier(tree, options, progress)
        missing = 0
        for source in sources:
            folder, name = _target(parts_of(source, tree), destination, alone=len(sources) == 1)
            try:
                copier.copy(source, resolve(tree, source), folder, name, place=tree.spelled(source))
            except MntapiError as error:
                if len(sources) == 1:
                    raise
                missing += 1
                report(error)
    return _summary(copier, missing, as_json)


def _options(archive: bool, options: CopyOptions) -> CopyOptions:
    if not archive:
        return options
    is_root = os.geteuid() == 0
    if not is_root:
        complain("note: only root gives files to other users and makes devices: the copies are yours")
    return replace(
        options, recursive=True, owner=options.owner or is_root, attributes=True, hard_links=True, special_files=True
    )


def _target(source: list[str], destination: str, *, alone: bool) -> tuple[str, str]:
    """Folder and name on the host, as cp(1) chooses them."""
    name = (source or [""])[-1]
    if os.path.isdir(destination):
        whole = not name and alone  # "/" into a folder: the volumes go straight into it
        return os.path.split(os.path.abspath(destination)) if whole else (destination, name)
    parent, new_name = os.path.split(os.path.abspath(destination))
    if not alone:
        raise NotFound("is not a folder", path=destination, hint="several files need a DEST that exists")
    if not os.path.isdir(parent):
        raise NotFound("no such folder", path=parent)
    return parent, new_name


def _summary(copier: Copier, missing: int, as_json: bool) -> int:
    done = copier.report
    for note in done.notes:
        complain(f"note: {note.path}: {note.text}")
    for failure in done.failures:
        complain(f"error: {failure.path}: {failure.error}")
        if failure.error.hint:
            complain(f"hint: {failure.error.hint}")
    if as_json:
        failures = [{"path": one.path, "error": str(one.error), "reason": one.error.reason} for one in done.failures]
        notes = [{"path": one.path, "text": one.text} for one in done.notes]
        counts = {"files": done.files, "folders": done.folders, "bytes": done.bytes}
        emit_json({**counts, "failures": failures, "notes": notes})
    elif sys.stderr.isatty():
        complain(f"{done.files} files, {done.folders} folders, {format_size(done.bytes)}, {len(done.failures)} failed")
    return PARTIAL if done.failures or missing else OK
