"""The blocks of a file last read over the network. One block is fetched once, however many threads wait for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future


class BlockCache:
    """At most ``count`` blocks, the least recently used given up first. ``load(index)`` fetches one; errors are not kept."""

    def __init__(self, load: Callable[[int], bytes], count: int) -> None:
        self._load = load
        self._count = count
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._loading: dict[int, Future[bytes]] = {}

    def block(self, index: int) -> bytes:
        """The block's bytes. Raises what ``load`` raises, in every thread that waits for it."""
        with self._lock:
            content = self._blocks.get(index)
            if content is not None:
                self._blocks.move_to_end(index)
                return content
            waited_for = self._loading.get(index)
            if waited_for is None:
                ours = self._loading[index] = Future()
        if waited_for is not None:
            return waited_for.result()
        return self._fetch(index, ours)

    def _fetch(self, index: int, promise: Future[bytes]) -> bytes:
        try:
            content = self._load(index)
        except BaseException as error:
            with self._lock:
                del self._loading[index]
            promise.set_exception(error)
            raise
        with self._lock:
            del self._loading[index]
            self._blocks[index] = content
            while len(self._blocks) > self._count:
                self._blocks.popitem(last=False)
        promise.set_result(content)
        return content

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._blocks.clear()
