"""The pool of connections and the wire below them. Oracle: counting."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mntapi.errors import Corrupt, Denied, Invalid, NotFound
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.pool import Pool
from mntapi.remote.wire import Wire, lost_again


class Connection:
    def __init__(self) -> None:
        self.usable = True
        self.is_closed = False
        self.users = 0

    def close(self) -> None:
        self.is_closed = True


class Factory:
    """Makes connections until there are ``limit``."""

    def __init__(self, limit: int = 99) -> None:
        self.made: list[Connection] = []
        self.limit = limit
        self.refused = 0

    def __call__(self) -> Connection:
        if sum(not one.is_closed for one in self.made) >= self.limit:
            self.refused += 1
            raise NotFound("no more")
        self.made.append(Connection())
        return self.made[-1]


def test_connections_are_made_when_needed_and_used_again() -> None:
    factory = Factory()
    pool = Pool(factory, 4)
    for _ in range(3):
        with pool.borrow() as connection:
            assert connection is factory.made[0]
    with pool.borrow(), pool.borrow() as second:
        assert second is factory.made[1]
    assert len(factory.made) == 2


def test_one_user_at_a_time_and_never_more_than_the_limit() -> None:
    factory = Factory()
    pool = Pool(factory, 3)
    barrier = threading.Barrier(3)

    def use(_: int) -> None:
        with pool.borrow() as connection:
            connection.users += 1
            assert connection.users == 1
            connection.users -= 1

    def meet(_: int) -> None:
        with pool.borrow():
            barrier.wait(10)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(meet, range(3)))
        list(threads.map(use, range(500)))
    assert len(factory.made) == 3


def test_unusable_ones_are_closed_and_replaced() -> None:
    factory = Factory()
    pool = Pool(factory, 1)
    with pytest.raises(Corrupt), pool.borrow() as connection:
        connection.usable = False
        raise Corrupt("x")
    assert factory.made[0].is_closed
    with pool.borrow() as connection:
        assert connection is factory.made[1]


def test_a_fresh_one_rather_than_a_stale_one() -> None:
    factory = Factory()
    pool = Pool(factory, 2)
    with pool.borrow():
        pass
    with pool.borrow(fresh=True) as connection:
        assert connection is factory.made[1]
    with pool.borrow(fresh=True) as connection:
        assert connection in factory.made  # no place for another: whatever is free
    assert len(factory.made) == 2


def test_when_no_more_can_be_made_the_others_are_waited_for() -> None:
    factory = Factory(limit=2)
    pool = Pool(factory, 8)
    with ThreadPoolExecutor(8) as threads:
        done = threads.map(lambda _: _use(pool), range(200))
        assert sum(done) == 200
    assert len(factory.made) <= 2
    refused = factory.refused
    with pool.borrow(fresh=True):
        assert factory.refused <= refused + 1


def _use(pool: Pool[Connection]) -> int:
    with pool.borrow():
        return 1


def test_when_none_can_be_made_that_is_the_error() -> None:
    factory = Factory(limit=0)
    pool = Pool(factory, 4)
    for _ in range(2):
        with pytest.raises(NotFound), pool.borrow():
            pass
    factory.limit = 1
    with pool.borrow() as connection:
        assert connection.usable


def test_the_last_one_breaks_while_others_wait_for_it() -> None:
    """One holds the only connection and loses it; who waits for it gets the error of making another."""
    factory = Factory()
    pool = Pool(factory, 2)
    with ThreadPoolExecutor(1) as threads:
        with pool.borrow() as connection:
            factory.limit = 0
            waiting = threads.submit(_use, pool)
            while not factory.refused:
                threading.Event().wait(0.001)
            connection.usable = False
        with pytest.raises(NotFound):
            waiting.result(10)


def test_closing() -> None:
    factory = Factory()
    pool = Pool(factory, 1)
    with ThreadPoolExecutor(1) as threads:
        with pool.borrow() as connection:
            waiting = threads.submit(_use, pool)
            pool.close()
            pool.close()
            assert not connection.is_closed
        with pytest.raises(Invalid, match="is closed"):
            waiting.result(10)
    assert connection.is_closed
    with pytest.raises(Invalid, match="is closed"), pool.borrow():
        pass
    assert len(factory.made) == 1


def test_closing_while_one_waits_after_a_failure() -> None:
    factory = Factory(limit=1)
    pool = Pool(factory, 2)
    with ThreadPoolExecutor(1) as threads:
        with pool.borrow():
            waiting = threads.submit(_use, pool)
            while not factory.refused:
                threading.Event().wait(0.001)
            pool.close()
        with pytest.raises(Invalid, match="is closed"):
            waiting.result(10)


def test_an_interrupt_while_connecting_leaves_the_place_free() -> None:
    def interrupted() -> Connection:
        raise KeyboardInterrupt

    pool: Pool[Connection] = Pool(interrupted, 1)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), pool.borrow():
            pass


@pytest.fixture
def pair() -> tuple[Wire, socket.socket]:
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    wire.begin(10, limit=1 << 20)
    return wire, theirs


def test_small_and_large_pieces(pair: tuple[Wire, socket.socket]) -> None:
    wire, server = pair
    data = bytes(range(256)) * 400
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(server.sendall, data)
        buffer = bytearray(100_000 - 7)
        assert wire.receive(3) == data[:3]
        assert wire.receive(0) == b""
        assert wire.receive(4) == data[3:7]
        wire.receive_into(memoryview(buffer))
        assert buffer == data[7:100_000]
        assert wire.receive(2400) == data[100_000:]
        sent.result(10)
    wire.close()
    server.close()


def test_more_than_the_limit(pair: tuple[Wire, socket.socket]) -> None:
    wire, server = pair
    wire.begin(10, limit=10)
    server.sendall(bytes(11))
    with pytest.raises(Corrupt, match="more than"):
        wire.receive(11)
    wire.close()
    server.close()


def test_the_deadline_is_over_all_of_an_exchange(pair: tuple[Wire, socket.socket]) -> None:
    wire, server = pair
    wire.begin(-1, limit=10)
    server.sendall(b"x")
    for ask in (lambda: wire.receive(1), lambda: wire.send(b"x")):
        with pytest.raises(ConnectionLost) as caught:
            ask()
        assert caught.value.reason == "timeout"
    wire.close()
    server.close()


def test_a_broken_pipe(pair: tuple[Wire, socket.socket]) -> None:
    wire, server = pair
    server.close()
    with pytest.raises(ConnectionLost, match="broke"):
        wire.send(bytes(1 << 20))
    with pytest.raises(ConnectionLost, match="closed"):
        wire.receive(1)
    assert wire.is_ended
    wire.close()


def test_what_fails_while_reconnecting_is_an_io_error() -> None:
    error = lost_again(Denied("no", hint="ask"))
    assert isinstance(error, ConnectionLost)
    assert error.hint == "ask"
    assert lost_again(error) is error
