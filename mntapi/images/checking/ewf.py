"""EWF: whether each segment file goes on to its last section. What is in the sections is checked when it is read.

Source: as in ``mntapi.images.ewf``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mntapi.errors import Corrupt
from mntapi.images.checking.fault import Fault
from mntapi.images.ewf import walk_sections
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks


def faults(file: FileBlocks, chain: Chain) -> Iterator[Fault]:
    """That a segment ends too early: a set that lost nothing but its last sections, with the hashes, can still be read."""
    try:
        for _ in walk_sections(file):
            continue
    except Corrupt as error:
        yield Fault.of(error, file.path)
