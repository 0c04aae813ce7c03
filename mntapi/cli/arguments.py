"""What the verbs take in common: a SET of disks and how to treat them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import IO, Any

import click

from mntapi.cli.keys import HELP as KEYS_HELP
from mntapi.cli.keys import gather
from mntapi.cli.output import complain
from mntapi.cli.selection import tell_overruled, tell_unreplayed
from mntapi.errors import Invalid
from mntapi.remote import is_url
from mntapi.session.diskset import DiskSet, open_disks
from mntapi.session.keys import check_opened, in_vain
from mntapi.types import DiskSpec, OpenOptions

MAX_KEY = 8192
"""Bytes of a passphrase, cryptsetup's limit."""
PARENT_HELP = "A file to take for the parent that the chain lacks; if it lacks none, for that of the disk itself (with a note)."


@dataclass(frozen=True, slots=True)
class SetArguments:
    """A SET as the user gave it."""

    specs: tuple[DiskSpec, ...]
    options: OpenOptions

    @contextmanager
    def reading(self) -> Iterator[DiskSet]:
        """The same for a verb that reads files: at its end it is told which volumes may lack their newest changes.

        Raises also as ``check_keys``.
        """
        with self.open() as disk_set:
            self.check_keys(disk_set)
            try:
                yield disk_set
            finally:
                tell_unreplayed(disk_set)

    def check_keys(self, disk_set: DiskSet) -> None:
        """Raise Denied, Unsupported or Corrupt for a volume that stays locked although the user gave a key for it."""
        check_opened(self.options.keys, disk_set.volumes)

    def open(self) -> DiskSet:
        """Open it in this process; its keys have then done their work. Raises what ``open_disks`` raises."""
        try:
            disk_set = open_disks(*self.specs, options=self.options)
        finally:
            self.options.keys.wipe()
        for line in in_vain(self.options.keys):
            complain(f"note: {line}")
        return disk_set


def takes_set(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the SET argument and its options; it receives one ``SetArguments`` as ``disks``."""
    return _takes_set(function, "--format")


def takes_source(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a verb whose ``--format`` says what it writes: the format of SET is ``--source-format``."""
    return _takes_set(function, "--source-format")


def _takes_set(function: Callable[..., Any], format_option: str) -> Callable[..., Any]:

    @click.argument("set_path", metavar="SET")
    @click.option("-d", "--disk", "more", metavar="DISK", multiple=True, help="Another disk of this machine.")
    @click.option(format_option, "format_", metavar="NAME", help="Take the disks for this format instead of looking.")
    @click.option("--snapshot", metavar="NAME", help="The state of this snapshot (QCOW2, .vmx) instead of the current one.")
    @click.option("--parent", metavar="FILE", help=PARENT_HELP)
    @click.option(
        "--key-file",
        "key_files",
        multiple=True,
        type=click.File("rb"),
        help="A file with the passphrase of the disk itself (an encrypted QCOW2).",
    )
    @click.option("--key", "keys", metavar="VOLUME:FILE", multiple=True, help=KEYS_HELP)
    @click.option("--sector-size", type=click.Choice(["512", "4096"]), help="Logical sector size in bytes of raw disks.")
    @click.option("--allow-outside", is_flag=True, help="Follow names in a disk that lead out of its folder.")
    @click.option("--ignore-cid", is_flag=True, help="Accept, with a note, a parent that was changed after its child was made.")
    @wraps(function)
    def with_set(
        *args: Any,
        set_path: str,
        more: tuple[str, ...],
        format_: str | None,
        sector_size: str | None,
        snapshot: str | None,
        parent: str | None,
        key_files: tuple[IO[bytes], ...],
        keys: tuple[str, ...],
        allow_outside: bool,
        ignore_cid: bool,
        **kwargs: Any,
    ) -> Any:
        _check_distinct((set_path, *more))
        size = int(sector_size) if sector_size else None
        specs = tuple(DiskSpec(path, format=format_, sector_size=size, snapshot=snapshot) for path in (set_path, *more))
        passphrases = tuple(os.fsdecode(file.read(MAX_KEY).removesuffix(b"\n")) for file in key_files)
        options = OpenOptions(
            allow_outside=allow_outside,
            ignore_cid=ignore_cid,
            parent=parent,
            passphrases=passphrases,
            keys=gather(keys, click.get_current_context().info_name),
        )
        try:
            tell_overruled(specs, options)
            return function(*args, disks=SetArguments(specs, options), **kwargs)
        finally:
            options.keys.wipe()

    return with_set


def _check_distinct(paths: tuple[str, ...]) -> None:
    """Raises Invalid if a disk was given twice: to volume managers that is a clone, and clones are set apart or refused."""
    seen: set[str] = set()
    for path in paths:
        place = path if is_url(path) else os.path.abspath(path)  # no realpath: its lstat hangs where a server is stuck
        if place in seen:
            raise Invalid("the disk is given twice", path=path)
        seen.add(place)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
