"""A few connections for many threads: each request takes a free one, or one more is made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from mntapi.errors import Invalid, MntapiError


class Pooled(Protocol):
    """A connection. ``usable`` is False from the first byte of a request until the last of its answer, and after a fault."""

    usable: bool

    def close(self) -> None:
        """Hang up."""


T = TypeVar("T", bound=Pooled)


class Pool(Generic[T]):
    """At most ``limit`` connections made by ``connect``. Thread-safe.

    A server that takes fewer connections than ``limit`` is used with as many as it takes: one that cannot be made is an error
    only when there is no other.
    """

    def __init__(self, connect: Callable[[], T], limit: int) -> None:
        self._connect = connect
        self._limit = limit
        self._idle: list[T] = []
        self._open = 0
        """Connections there are, and those being made."""
        self._made = self._peak = 0
        self._closed = False
        self._state = threading.Condition()

    @contextmanager
    def borrow(self, *, fresh: bool = False) -> Iterator[T]:
        """A connection for one request; afterwards it is free again if ``usable`` and closed if not.

        Args:
            fresh: a new one rather than one that may have gone stale, if one can be made.

        Raises:
            Invalid: the pool is closed.
            MntapiError: what ``connect`` raises.
        """
        connection = self._take(fresh)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def add(self, connection: T) -> None:
        """One that was made elsewhere."""
        with self._state:
            self._open += 1
            self._count_made()
        self._give_back(connection)

    def _take(self, fresh: bool) -> T:
        try:
            return self._next(fresh) or self._make()
        except MntapiError as error:
            with self._state:
                if self._closed:
                    raise
            return self._wait(error)

    def _next(self, fresh: bool) -> T | None:
        """A free connection, or None with the place for a new one reserved."""
        with self._state:
            while True:
                self._check_open()
                can_grow = self._open < self._limit
                if self._idle and not (fresh and can_grow):
                    return self._idle.pop()
                if can_grow:
                    self._open += 1
                    return None
                self._state.wait()

    def _wait(self, failure: MntapiError) -> T:
        """The next free connection after one more could not be made; ``failure`` if there is none at all."""
        with self._state:
            while not self._idle:
                if self._open == 0:
                    raise failure
                self._state.wait()
                self._check_open()
            return self._idle.pop()

    def _make(self) -> T:
        try:
            connection = self._connect()
        except BaseException:
            with self._state:
                self._open -= 1
                self._limit = max(1, self._peak)
                self._state.notify_all()
            raise
        with self._state:
            self._count_made()
        return connection

    def _count_made(self) -> None:
        self._made += 1
        self._peak = max(self._peak, self._made)

    def _give_back(self, connection: T) -> None:
        with self._state:
            kept = connection.usable and not self._closed
            if kept:
                self._idle.append(connection)
            else:
                self._open -= 1
                self._made -= 1
            self._state.notify_all()
        if not kept:
            connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Invalid("is closed")

    def close(self) -> None:
        """Hang up all; those in use when their request is done."""
        with self._state:
            self._closed = True
            idle, self._idle = self._idle, []
            self._state.notify_all()
        for connection in idle:
            connection.close()
