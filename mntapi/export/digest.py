"""SHA-256 of a whole disk, on the way past: the zeros between its data count, and are not read."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from mntapi.export.batches import Batch
from mntapi.units import MIB

_ZEROS = bytes(MIB)


class Digest:
    """Computes in a thread of its own, beside the writing. A context manager; leaving it ends the thread."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._position = 0
        self._is_stopped = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")

    def add(self, batch: Batch) -> Future[None]:
        """Begin with the next data; the batch must stay valid until the result is there."""
        return self._thread.submit(self._add, batch)

    def finish(self, size: int) -> str:
        """The digest in hexadecimal of a disk of ``size`` bytes, all data of which was added."""
        self._thread.submit(self._add_zeros, size).result()
        return self._sum.hexdigest()

    def _add(self, batch: Batch) -> None:
        for piece in batch.pieces:
            self._add_zeros(piece.offset)
            self._sum.update(batch.view(piece))
            self._position += piece.length

    def _add_zeros(self, end: int) -> None:
        """Up to ``end``. A hole of terabytes takes hours, so it must be possible to give up."""
        while self._position < end and not self._is_stopped:
            count = min(len(_ZEROS), end - self._position)
            self._sum.update(memoryview(_ZEROS)[:count])
            self._position += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._is_stopped = True
        self._thread.shutdown(cancel_futures=True)
