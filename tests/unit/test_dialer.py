"""Connections made by another process: what it may do, what it refuses, and when it ends. Oracle: sockets that listen."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mntapi.errors import Corrupt, Denied, Invalid, MntapiError, NotFound, ReadFailed
from mntapi.kernel import landlock
from mntapi.kernel.process import is_alive, wait_until_ended
from mntapi.remote.dial import Addresses, ConnectionLost, RememberedNames, dial
from mntapi.remote.patience import PATIENCE_S, PATIENCE_VARIABLE, patience_s
from mntapi.remote.retry import Retries
from mntapi.remote.urls import Endpoint, absolute
from mntapi.session.broker import DialedConnector
from mntapi.session.channel import Channel, Message, pack_error
from mntapi.session.dialer import Dialer, Permitted, servers
from mntapi.session.journal import ProcessId


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(8)
        yield sock


def endpoint_of(listener: socket.socket, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(host, listener.getsockname()[1])


def is_connected(sock: socket.socket, listener: socket.socket) -> bool:
    """Whether bytes go from one to the other."""
    listener.settimeout(10)
    peer, _ = listener.accept()
    with sock, peer:
        peer.settimeout(10)
        sock.sendall(b"hello")
        return peer.recv(5) == b"hello"


# --- the policy ---


def test_the_servers_of_urls_are_permitted() -> None:
    named = ["/a/file", "nbd://nas/disk", "nbd+unix:///?socket=/s", "http://web:8080/x", "https://shop/y"]
    permitted = servers(named, allow_outside=False)
    assert permitted is not None
    assert permitted.endpoints == {
        Endpoint("nas", 10809),
        Endpoint("", 0, "/s"),
        Endpoint("web", 8080),
        Endpoint("web", 443),
        Endpoint("shop", 443),
    }
    for other in (Endpoint("nas", 22), Endpoint("other", 443), Endpoint("", 0, "/run/docker.sock")):
        with pytest.raises(Denied, match="another one") as caught:
            permitted.check(other)
        assert caught.value.reason == "outside" and caught.value.hint is not None


def test_without_a_url_there_is_no_dialer() -> None:
    assert servers(["/a/file", "b.vmdk"], allow_outside=True) is None


def test_outside_means_hosts_and_no_sockets() -> None:
    permitted = servers(["nbd://nas/disk"], allow_outside=True)
    assert permitted is not None
    permitted.check(Endpoint("other", 80))
    with pytest.raises(Denied):
        permitted.check(Endpoint("", 0, "/run/docker.sock"))


def test_a_path_of_a_socket_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        absolute("nbd+unix:///a%20b?socket=s%20t&tls-hostname=h") == f"nbd+unix:///a%20b?socket={tmp_path}/s%20t&tls-hostname=h"
    )
    for text in ("nbd+unix:///?socket=/s", "http://u:p@h/x?y=z", "nbd://h:1/x"):
        assert absolute(text) == text


# --- the process ---


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., DialedConnector]]:
    """Start a dialer; gives the worker's side. Afterwards the dialer must end by itself."""
    started: list[tuple[ProcessId, DialedConnector]] = []

    def begin(*endpoints: Endpoint, any_host: bool = False) -> DialedConnector:
        dialer = Dialer.start(tmp_path / f"log{len(started)}")
        dialer.permit(Permitted(frozenset(endpoints), any_host))
        lines = [os.dup(line) for line in dialer.lines]
        dialer.close()
        connector = DialedConnector(lines)
        started.append((dialer.id, connector))
        connector.id, connector.lines = dialer.id, lines  # type: ignore[attr-defined]
        return connector

    yield begin
    for process_id, connector in started:
        while not connector._free.empty():
            connector._free.get().close()
        assert wait_until_ended(process_id.pid, process_id.start_ticks, timeout_s=20)
        os.waitpid(process_id.pid, 0)


def test_it_connects_where_it_may_and_nowhere_else(start, listener: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as other:
        unix.bind(path)
        unix.listen()
        other.bind(("127.0.0.1", 0))
        other.listen()
        connect = start(endpoint_of(listener), endpoint_of(listener, "localhost"), Endpoint("", 0, path))
        assert is_connected(connect(endpoint_of(listener)), listener)
        assert is_connected(connect(endpoint_of(listener, "localhost")), listener)
        assert is_connected(connect(Endpoint("", 0, path)), unix)
        with pytest.raises(Denied, match="another one"):
            connect(endpoint_of(other))
        os.unlink(path)
        with pytest.raises(ReadFailed, match="no socket") as caught:
            connect(Endpoint("", 0, path))
        assert caught.value.reason == "unreachable"


def test_any_host(start, listener: socket.socket) -> None:
    connect = start(Endpoint("127.0.0.1", 9), any_host=True)
    assert is_connected(connect(endpoint_of(listener)), listener)


def test_nobody_listens(start) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        connect = start(endpoint_of(sock))
        with pytest.raises(ConnectionLost, match="refused") as caught:
            connect(endpoint_of(sock))
    assert caught.value.reason == "unreachable" and caught.value.hint is not None


@pytest.mark.parametrize(
    "endpoint", [None, "nas", ["nas"], ["nas", "80", None], ["nas", 80, 1], [b"x".hex(), True, {}], {"host": "nas"}]
)
def test_what_is_no_endpoint(start, listener: socket.socket, endpoint: object) -> None:
    """It is refused, and the next one is answered."""
    connect = start(endpoint_of(listener))
    with pytest.raises(Corrupt, match="no endpoint"):
        connect(endpoint)
    assert is_connected(connect(endpoint_of(listener)), listener)


def test_garbage_ends_it(start, listener: socket.socket) -> None:
    connect = start(endpoint_of(listener))
    with socket.socket(fileno=os.dup(connect.lines[1])) as line:
        line.sendall(struct.pack("!I", 3) + b"{{{")
        assert wait_until_ended(connect.id.pid, connect.id.start_ticks, timeout_s=20)
    for _ in range(5):
        with pytest.raises(ConnectionLost, match="makes connections is gone") as caught:
            connect(endpoint_of(listener))
        assert caught.value.hint is not None


def test_descriptors_it_is_sent_are_closed(start, listener: socket.socket) -> None:
    connect = start(endpoint_of(listener))
    reading, writing = os.pipe()
    line = Channel(socket.socket(fileno=os.dup(connect.lines[2])))
    line.send({"op": "connect", "endpoint": None}, [writing])
    os.close(writing)
    assert line.receive()[0]["kind"] == "Corrupt"
    assert os.read(reading, 1) == b""  # nobody has the other end any more
    os.close(reading)
    line.close()


def test_it_ends_with_a_command_that_says_nothing(tmp_path: Path) -> None:
    dialer = Dialer.start(tmp_path / "log")
    assert is_alive(dialer.id.pid, dialer.id.start_ticks)
    dialer.close()
    assert wait_until_ended(dialer.id.pid, dialer.id.start_ticks, timeout_s=20)
    assert os.waitpid(dialer.id.pid, 0)[1] >> 8 == 1


def test_it_is_confined(start, listener: socket.socket) -> None:
    connect = start(endpoint_of(listener))
    connect(endpoint_of(listener)).close()
    status = Path(f"/proc/{connect.id.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


def test_a_start_that_fails_leaves_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("mntapi.session.dialer.PROGRAM", ("/no/such/program",))
    with pytest.raises(MntapiError, match="cannot be started"):
        Dialer.start(tmp_path / "log")
    assert len(os.listdir("/proc/self/fd")) == before


# --- what the confinement lets through ---

_TRIES = """
import errno, json, os, socket, sys
from mntapi.kernel.sandbox import Connecting, confine
ports, path, tries = json.loads(sys.argv[1])
connecting = Connecting(None if ports is None else tuple(ports), past_permissions=True)
socket.getaddrinfo("localhost", 80)
confinement = confine(connecting=connecting, keep_read_paths=["/etc"])
def outcome(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def tcp(port):
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", port))
def unix():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
def listens():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
print(json.dumps({
    **{str(port): outcome(lambda: tcp(port)) for port in tries},
    "unix": outcome(unix),
    "packet": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "listens": outcome(listens),
    "fork": outcome(os.fork),
    "write": outcome(lambda: open("/etc/hostname", "a")),
    "read": outcome(lambda: open("/etc/hosts").close()),
    "root": outcome(lambda: open("/bin/sh", "rb")),
    "name": outcome(lambda: socket.getaddrinfo("localhost", 80)),
    "missing": list(confinement.missing),
}))
"""


def tries(ports: list[int] | None, path: str, *tcp: int) -> dict[str, object]:
    argv = [sys.executable, "-c", _TRIES, json.dumps([ports, path, tcp])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif((landlock.abi() or 0) < 4, reason="needs Landlock with TCP, Linux 6.7")
def test_a_process_that_may_connect(listener: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as other:
        unix.bind(path)
        unix.listen()
        other.bind(("127.0.0.1", 0))
        other.listen()
        one, two = listener.getsockname()[1], other.getsockname()[1]
        found = tries([one], path, one, two)
        assert (found[str(one)], found[str(two)]) == ("done", "EACCES")
        assert {name: found[name] for name in ("unix", "read", "name")} == dict.fromkeys(("unix", "read", "name"), "done")
        for name in ("packet", "listens", "fork", "write", "root"):
            assert found[name] in ("EPERM", "EACCES"), name
        found = tries(None, path, one, two)
        assert (found[str(one)], found[str(two)]) == ("done", "done")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which may use what belongs to others")
def test_sockets_of_other_users(start, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "socket"))
        unix.listen()
        for path in (folder / "socket", folder):
            os.chown(path, 65534, 65534)
        connect = start(Endpoint("", 0, str(folder / "socket")))
        assert is_connected(connect(Endpoint("", 0, str(folder / "socket"))), unix)


# --- the worker's side ---


class Line:
    """The other end of a line, answering from a script."""

    def __init__(self, *answers: Message) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.connector = DialedConnector([theirs.detach()])
        for answer in answers:
            self.channel.send(answer)


def test_errors_keep_their_kind() -> None:
    for sent, kind in (
        (NotFound("no host"), NotFound),
        (Denied("no", hint="ask"), Denied),
        (ReadFailed("busy"), ConnectionLost),
    ):
        line = Line(pack_error(sent))
        with pytest.raises(kind) as caught:
            line.connector(Endpoint("nas", 1))
        assert (type(caught.value), caught.value.what, caught.value.hint) == (kind, sent.what, sent.hint)
        assert line.channel.receive()[0] == {"op": "connect", "endpoint": ["nas", 1, None]}


def test_a_line_that_ends() -> None:
    line = Line()
    line.channel.close()
    with pytest.raises(ConnectionLost, match="gone"):
        line.connector(Endpoint("nas", 1))


# --- names ---


def test_a_name_is_remembered_while_nobody_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Addresses | MntapiError] = []

    def ask(_: Endpoint) -> Addresses:
        answer = answers.pop(0)
        if isinstance(answer, MntapiError):
            raise answer
        return answer

    names, nas = RememberedNames(ask), Endpoint("nas", 1)
    one, two = [(socket.AF_INET, ("192.0.2.1", 1))], [(socket.AF_INET, ("192.0.2.2", 1))]
    answers[:] = [ConnectionLost("no name server"), one, ConnectionLost("no name server"), two, ReadFailed("no host")]
    with pytest.raises(ConnectionLost):
        names(nas)
    assert [names(nas) for _ in range(3)] == [one, one, two]
    with pytest.raises(ReadFailed, match="no host"):
        names(nas)


def test_the_first_address_that_answers(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        addresses: Addresses = [(socket.AF_INET, deaf.getsockname()), (socket.AF_INET, ("127.0.0.1", port))]
        assert is_connected(dial(Endpoint("two", port), look_up=lambda _: addresses), listener)
        with pytest.raises(ConnectionLost, match="refused"):
            dial(Endpoint("one", port), look_up=lambda _: addresses[:1])


# --- patience ---


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 0.0, []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def failing(times: int, asked: list[bool]) -> Callable[[bool], str]:
    def ask(fresh: bool) -> str:
        asked.append(fresh)
        if len(asked) <= times:
            raise ConnectionLost("away")
        return "answer"

    return ask


def test_ever_later_and_at_last_no_more(clock: Clock) -> None:
    retries = Retries(patience_s=30, backoff_s=0.25)
    asked: list[bool] = []
    with pytest.raises(ConnectionLost):
        retries.run(failing(1000, asked))
    assert clock.slept[:6] == [0.25, 0.5, 1, 2, 4, 4] and max(clock.slept) == 4 and sum(clock.slept) <= 30
    assert asked == [False] + [True] * (len(clock.slept) + 1)
    asked.clear()
    clock.slept.clear()
    for _ in range(3):  # it is away: one attempt each
        with pytest.raises(ConnectionLost):
            retries.run(failing(1000, asked))
    assert asked == [True] * 3 and not clock.slept
    assert retries.run(failing(0, [])) == "answer"
    asked.clear()
    assert retries.run(failing(3, asked)) == "answer"  # it was back, so the next time it is waited for
    assert asked == [False, True, True, True]


def test_no_patience_is_two_attempts(clock: Clock) -> None:
    asked: list[bool] = []
    with pytest.raises(ConnectionLost):
        Retries(patience_s=0, backoff_s=0.25).run(failing(1000, asked))
    assert asked == [False, True] and not clock.slept


def test_other_errors_are_told_at_once(clock: Clock) -> None:
    def ask(_: bool) -> None:
        raise ReadFailed("changed", reason="changed")

    with pytest.raises(ReadFailed, match="changed"):
        Retries(patience_s=30, backoff_s=0.25).run(ask)
    assert not clock.slept


def test_patience_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PATIENCE_VARIABLE, raising=False)
    assert patience_s() == PATIENCE_S
    monkeypatch.setenv(PATIENCE_VARIABLE, "2.5")
    assert patience_s() == 2.5
    for wrong in ("", "soon", "-1", "nan", "1e9"):
        monkeypatch.setenv(PATIENCE_VARIABLE, wrong)
        with pytest.raises(Invalid, match=PATIENCE_VARIABLE):
            patience_s()
