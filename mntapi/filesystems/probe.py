"""What does this volume hold? One function over the visible table ``signatures.table.SIGNATURES``.

Costs few reads: one of the volume's start, one of its end, and some dozens of bytes at places further in. The module of a
family is imported only once one of its magics was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from mntapi.errors import MntapiError
from mntapi.filesystems.signatures.source import CutOff, Found, Source
from mntapi.filesystems.signatures.table import SIGNATURES, Row
from mntapi.types import Blocks, Signature, Usage

Probe = Callable[[Source, int], Found | None]
"""Reads the superblock at a byte offset, and says what it says or that it is none."""

MIN_SIZE = 1024
"""Bytes: nothing is looked for in a volume of this size or less (an extended partition's own sector or two)."""
FLOPPY = 1440 * 1024
"""Bytes: no RAID is looked for in a volume of this size or less."""


def probe(blocks: Blocks) -> Signature | None:
    """The first signature of the table that is there and makes sense, or None.

    RAID members come before encryption, and that before file systems, so that the file system seen through an unassembled
    mirror is told as its member. Kind, label and UUID are spelt as ``blkid -p`` spells them.

    A place that cannot be read does not hide a signature elsewhere; but with no signature found it is an error, not a no.

    Raises:
        MntapiError: no signature was found and part of where one could be is unreadable (the first such error).

    Source: the rules of order and size follow util-linux 2.38 libblkid, superblocks.c.
    """
    if blocks.size <= MIN_SIZE:
        return None
    source = Source(blocks)
    failures: list[MntapiError] = []
    for row in SIGNATURES:
        if blocks.size < row.min_size or (row.usage is Usage.RAID and blocks.size <= FLOPPY):
            continue
        found = _try(row, source, failures)
        if found is not None:
            return Signature(row.kind, row.usage, found.label, found.uuid, found.dirty)
    if failures:
        raise failures[0]
    return None


def _try(row: Row, source: Source, failures: list[MntapiError]) -> Found | None:
    """What the row's probe finds at the first place that has one of its magics; each place is tried once."""
    tried: set[int] = set()
    for magic in row.magics:
        base = magic.place(source.size)
        if base is None or base in tried:
            continue
        try:
            if not source.has(base + magic.within, magic.value):
                continue
            tried.add(base)
            found = _load(row.probe)(source, base)
        except CutOff:
            continue
        except MntapiError as error:
            failures.append(error)
            continue
        if found is not None:
            return found
    return None


def _load(name: str) -> Probe:
    """``linux.ext4``: the function ``ext4`` of the module ``linux`` beside the table, imported on first use."""
    module, _, function = name.partition(".")
    return cast(Probe, getattr(import_module(f"mntapi.filesystems.signatures.{module}"), function))
