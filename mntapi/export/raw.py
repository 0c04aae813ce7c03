"""A raw file: the bytes as they are, with holes where there are zeros."""

from __future__ import annotations

from mntapi.export.batches import Batch
from mntapi.export.writer import Target
from mntapi.units import KIB

UNIT = 4 * KIB
"""Bytes of zeros that make a hole: a block of most file systems."""


class RawWriter:
    """See ``mntapi.export.writer.Writer``."""

    unit = UNIT

    def __init__(self, target: Target) -> None:
        self._file = target.file
        self._file.resize(target.size)  # first: a file system that has no such files says so at once

    def write(self, batch: Batch) -> None:
        for run in batch.runs(UNIT):
            self._file.write(run.offset, batch.view(run))

    def finish(self) -> None:
        """Nothing leads to the data but its place."""
