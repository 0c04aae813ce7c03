"""The loop: read a request, answer it, and let no slow request hold up the others.

``serve`` is the whole interface; ``dispatch.py`` knows what a request means, ``connection.py`` the descriptor.

How many threads: one reads and answers, as long as answers are quick. A watch looks every ``PATIENCE_S`` whether all threads
are stuck in a request (a bad sector, a slow server, a megabyte to inflate), and then starts one more, up to the limit; helpers
that see nothing but quick requests leave again. So storage that is slow throughout gets many threads within a few ticks, and
quick storage never pays for them: Python's lock makes several readers slower than one. 4 KiB direct reads of a block file over
a raw image, in thousands a second, 1 deep / 16 deep, median of seven turns (2 processors kept awake, Linux 6.18, Python 3.11):

    one thread                     28 / 51
    one thread and the watch       41 / 53       (1 deep differs by 3x from turn to turn, whoever serves)
    2 or 4 threads reading         26 / 52       25 / 41
    2 or 4 taking turns to read    30 / 43       28 / 30

64 KiB reads came at 1.5 GB/s and 1 MiB reads at 4 to 5 GB/s in the same runs.
"""

from __future__ import annotations

import logging
import mmap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from mntapi.units import MIB
from mntapi_fuse import protocol
from mntapi_fuse.connection import Connection
from mntapi_fuse.dispatch import NO_REPLY, Dispatcher
from mntapi_fuse.operations import Operations
from mntapi_fuse.protocol import Opcode

PATIENCE_S = 0.005
"""A thread that is longer in one request is taken for stuck, and somebody else goes on reading."""
CALM = 64
"""So many quick requests in a row, and a thread that came to help leaves again."""
_HUGE_PAGE = 2 * MIB

log = logging.getLogger(__name__)


def serve(
    fd: int,
    operations: Operations,
    *,
    threads: int = 16,
    on_ready: Callable[[], None] | None = None,
    resume: bool = False,
) -> None:
    """Answer the kernel's requests on ``fd`` until the file system is unmounted.

    Args:
        fd: ``/dev/fuse``, opened for reading and writing and already mounted. Borrowed.
        operations: the tree. Borrowed; no longer used when this returns.
        threads: how many requests may be worked on at once, at least 1.
        on_ready: called once, by the serving thread, when the mount can be used.
        resume: a worker before this one served the same mount and died; what it took and never answered is asked again.

    Raises:
        Failed: ``fd`` is not a mounted ``/dev/fuse``, or ``resume`` was asked of a kernel before Linux 6.9.
    """
    connection = Connection(fd)
    dispatcher = Dispatcher(operations)
    crew = _Crew(connection, dispatcher, threads, on_ready)
    try:
        if resume:
            connection.ask_again()
            crew.ready()
        crew.work()
    finally:
        dispatcher.close()


class _Worker:
    """What the watch sees of a thread: since when it has been in a request (``monotonic`` seconds; 0.0: waiting for one)."""

    def __init__(self) -> None:
        self.busy_since = 0.0
        self.thread = threading.current_thread()

    def is_stuck(self, now: float) -> bool:
        return 0.0 < self.busy_since < now - PATIENCE_S


class _Crew:
    """The threads of one mount: one that reads requests, helpers while all others are stuck, and a watch that notices."""

    def __init__(self, connection: Connection, dispatcher: Dispatcher, limit: int, on_ready: Callable[[], None] | None) -> None:
        self._connection = connection
        self._dispatcher = dispatcher
        self._limit = limit
        self._on_ready = on_ready
        self._workers = [_Worker()]
        self._ended = False
        self._alarm = threading.Event()
        self._watch_sleeps = False

    def work(self) -> None:
        """Serve in this thread, and in as many more as it takes, until the file system is unmounted."""
        watch = threading.Thread(target=self._watch, name="fuse-watch", daemon=True)
        if self._limit > 1:
            watch.start()
        try:
            self._serve(self._workers[0], is_helper=False)
        finally:
            self._ended = True
            self._alarm.set()
        if self._limit > 1:
            watch.join()
        for helper in self._workers[1:]:
            helper.thread.join()

    def ready(self) -> None:
        """Tell who waits for the mount, once."""
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    def _serve(self, worker: _Worker, *, is_helper: bool) -> None:
        """Answer requests until there are no more, or until a helper is no longer needed."""
        receive, send, answer = self._connection.receive, self._connection.send, self._dispatcher.answer
        unpack, pack, head = protocol.HEADER.unpack_from, protocol.REPLY.pack_into, protocol.REPLY.size
        request, reply = _buffers(self._dispatcher.max_request, huge=not is_helper)
        body = reply[head:]
        quick = 0
        while length := receive(request):
            if length < protocol.HEADER.size:
                continue  # no kernel sends such; there is nobody to answer
            worker.busy_since = began = monotonic()
            if self._watch_sleeps:
                self._watch_sleeps = False
                self._alarm.set()
            _length, opcode, unique, node, *_who = unpack(request)
            if opcode not in NO_REPLY:
                result = answer(opcode, node, request[:length], body)
                error, size = (0, result) if result >= 0 else (result, 0)
                pack(reply, 0, head + size, error, unique)
                send(reply[: head + size])
                if opcode == Opcode.INIT:
                    self.ready()
            worker.busy_since = 0.0
            if is_helper:
                quick = quick + 1 if monotonic() - began < PATIENCE_S else 0
                if quick >= CALM and self._others_read(worker):
                    return

    def _others_read(self, worker: _Worker) -> bool:
        """Whether somebody else goes on reading. Should two go because of each other, the watch soon sends for another."""
        now = monotonic()
        return any(other is not worker and not other.is_stuck(now) for other in self._workers)

    def _watch(self) -> None:
        """Start a helper whenever everybody is stuck. Costs nothing while no requests come."""
        while not self._ended:
            if any(worker.busy_since for worker in self._workers):
                time.sleep(PATIENCE_S)
                now = monotonic()
                if all(worker.is_stuck(now) for worker in self._workers):
                    self._help()
                continue
            self._watch_sleeps = True
            if self._ended or any(worker.busy_since for worker in self._workers):
                continue  # a request came between the look and the announcement
            self._alarm.wait()
            self._alarm.clear()

    def _help(self) -> None:
        if len(self._workers) >= self._limit:
            return
        worker = _Worker()
        worker.thread = threading.Thread(target=self._assist, args=(worker,), name="fuse-helper", daemon=True)
        self._workers.append(worker)
        try:
            worker.thread.start()
        except RuntimeError:  # the system gives no more threads: those there are go on
            self._workers.remove(worker)
            log.debug("no helper thread could be started", exc_info=True)

    def _assist(self, worker: _Worker) -> None:
        try:
            self._serve(worker, is_helper=True)
        finally:
            self._workers.remove(worker)


def _buffers(max_request: int, *, huge: bool) -> tuple[memoryview, memoryview]:
    """One thread's room for a request and for a reply. The reply's body begins on a page boundary: the kernel copies it page by
    page, and would otherwise touch each of its pages twice. On a huge page it finds and pins them all at once: a read of 64 KiB
    takes a fifth less processor time. Kernels before 6.7 may not align the mapping, and then give small pages."""
    length = protocol.PAGE + protocol.MAX_READ + max_request
    room = mmap.mmap(-1, -(-length // _HUGE_PAGE) * _HUGE_PAGE)
    if huge:
        with suppress(OSError):  # a kernel without huge pages
            room.madvise(mmap.MADV_HUGEPAGE)
    reply, request = protocol.PAGE - protocol.REPLY.size, protocol.PAGE + protocol.MAX_READ
    view = memoryview(room)
    return view[request : request + max_request], view[reply:request]
