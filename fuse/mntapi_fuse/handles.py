"""What the server remembers between two requests: open files, and how far a folder has been read.

Both are only memories. Whatever is not in them (after a restart of the worker, or after a table was full) is opened or read
again from the node number that every request carries.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from mntapi.errors import Busy, MntapiError
from mntapi.types import Blocks
from mntapi_fuse.operations import DirEntry

MAX_FILES = 65536
"""Files open at once in one mount."""
MAX_LISTINGS = 64
"""Passes over folders that are remembered; one more costs its folder's reader a second pass."""


class Files:
    """Open files by node and handle. No handle is used twice, not even by a worker that follows this one on the same mount.

    ``get`` is the table's own: (node, handle) to ``Blocks`` or None.
    """

    def __init__(self, open_node: Callable[[int], Blocks]) -> None:
        self._open_node = open_node
        self._open: dict[tuple[int, int], Blocks] = {}
        self._handles = itertools.count(time.monotonic_ns())
        self.get = self._open.get

    def open(self, node: int) -> int:
        """Open the file and return its handle.

        Raises:
            Busy: ``MAX_FILES`` are open.
        """
        if len(self._open) >= MAX_FILES:
            raise Busy("too many open files in one mount", expected=f"at most {MAX_FILES}")
        blocks = self._open_node(node)
        handle = next(self._handles)
        self._open[node, handle] = blocks
        return handle

    def adopt(self, node: int, handle: int) -> Blocks:
        """Open once more what a worker before this one had open under ``handle``."""
        mine = self._open_node(node)
        kept = self._open.setdefault((node, handle), mine)
        if kept is not mine:
            mine.close()
        return kept

    def release(self, node: int, handle: int) -> None:
        """Close the file, if it is open here. The kernel sends this after the last read of the handle was answered."""
        blocks = self._open.pop((node, handle), None)
        if blocks is not None:
            blocks.close()

    def close(self) -> None:
        """Close all that is still open."""
        while self._open:
            self._open.popitem()[1].close()


class Listing:
    """One pass over a folder; entries that were read and may be asked for again are in a window. For one thread at a time."""

    def __init__(self, entries: Iterator[DirEntry]) -> None:
        self._entries = entries
        self._window: deque[DirEntry] = deque()
        self._start = 0
        self._ended = False
        self.broken = False
        """An error ended the pass, so its end is not the folder's: whoever wants more has to begin anew, and meets it again."""

    def covers(self, position: int) -> bool:
        """Whether the entry of that index comes next, or is in the window."""
        return self._start <= position <= self._start + len(self._window)

    def fill(self, position: int, put: Callable[[DirEntry, int], bool]) -> None:
        """Hand entries from index ``position`` on to ``put`` (entry, index of the next) until it says that it is full.

        What lies before ``position`` is forgotten: the kernel goes back at most to what it was given last.

        Raises:
            what reading the folder raises, unless there were entries to hand out before.
        """
        window = self._window
        while self._start < position and (window or self._read()):
            window.popleft()
            self._start += 1
        following = position
        for entry in window:
            following += 1
            if not put(entry, following):
                return
        while self._read(error_can_wait=following > position):
            following += 1
            if not put(window[-1], following):
                return

    def _read(self, *, error_can_wait: bool = False) -> bool:
        """Whether the next entry is now the last of the window; False at the end, or at an error that can wait."""
        if self._ended:
            return False
        self.broken = True  # until the entry is here, whatever the error
        try:
            entry = next(self._entries, None)
        except MntapiError:
            if error_can_wait:
                return False
            raise
        self.broken = False
        if entry is None:
            self._ended = True
            return False
        self._window.append(entry)
        return True


class Listings:
    """The passes over folders that are under way, the least recently used forgotten first.

    They are found by folder and position and not by a handle: the kernel then need not send OPENDIR and RELEASEDIR, and after a
    restart the position alone is enough.
    """

    def __init__(self, read_folder: Callable[[int], Iterator[DirEntry]]) -> None:
        self._read_folder = read_folder
        self._idle: deque[tuple[int, Listing]] = deque(maxlen=MAX_LISTINGS)
        self._lock = threading.Lock()

    def fill(self, node: int, position: int, put: Callable[[DirEntry, int], bool]) -> None:
        """``Listing.fill`` on a pass over the folder that can go on from ``position``, a new one if there is none."""
        listing = self._take(node, position) or Listing(self._read_folder(node))
        listing.fill(position, put)
        if not listing.broken:
            with self._lock:
                self._idle.append((node, listing))

    def _take(self, node: int, position: int) -> Listing | None:
        with self._lock:
            for place, (folder, listing) in enumerate(self._idle):
                if folder == node and listing.covers(position):
                    del self._idle[place]
                    return listing
        return None
