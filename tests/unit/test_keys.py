"""Keys: which are tried on which volume, that a secret shows itself nowhere, and how keys travel to a worker."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mntapi.errors import Corrupt, Denied, Invalid, IsADirectory, MntapiError, NotADirectory, NotFound
from mntapi.kernel import arguments, memory
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session import keybroker
from mntapi.session import keys as session_keys
from mntapi.session.channel import Channel
from mntapi.session.keybroker import KeyBroker, brokered_keys, brokered_passphrases, receive_keys, send_keys
from mntapi.session.keys import KeyFolder, read_key_file, typed_keys, usable_memory
from mntapi.types import OpenOptions


def passphrase(content: bytes, volume: str | None = None) -> Key:
    return Key(KeyKind.PASSPHRASE, Secret(content), volume)


def revealed(keys: Iterator[Key] | list[Key]) -> list[tuple[str, bytes, str | None]]:
    return [(key.kind.value, key.secret.reveal(), key.volume) for key in keys]


def test_a_volumes_own_keys_come_first() -> None:
    spare = Key(KeyKind.PASSPHRASE, Secret(b"spare"))
    own = Key(KeyKind.PASSPHRASE, Secret(b"own"), "disk0p2")
    other = Key(KeyKind.RECOVERY, Secret(b"other"), "disk0p3")
    keys = Keys((spare, other, own))
    assert list(keys.of("gpt:1", "disk0p2", None)) == [own, spare]
    assert list(keys.of("DISK0P2")) == [own, spare]
    assert list(keys.of("disk0p3", kind=KeyKind.RECOVERY)) == [other]
    assert list(keys.of("disk0p3", kind=KeyKind.HEADER)) == []
    assert list(keys.of()) == [spare]
    assert keys.has_any and not Keys().has_any


def test_a_secret_is_not_shown_and_can_be_wiped() -> None:
    secret = Secret(b"hunter2")
    keys = Keys((Key(KeyKind.PASSPHRASE, secret, "disk0p2"),))
    options = replace(OpenOptions(), keys=keys)
    for shown in (repr(secret), str(secret), repr(keys), repr(options), f"{keys.keys[0]}"):
        assert "hunter2" not in shown
    assert secret.reveal() == b"hunter2" and not secret.is_wiped
    view = secret.view()
    keys.wipe()
    assert secret.reveal() == b"" and secret.is_wiped
    assert bytes(view) == bytes(7)  # who still looks sees zeros
    keys.wipe()
    with Secret(b"x").view() as seen:
        assert bytes(seen) == b"x"
    empty = Secret(b"")
    assert empty.reveal() == b"" and empty.is_wiped


def flags_of(content: bytes) -> str:
    """VmFlags of the mapping that begins with ``content``."""
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        start, end = (int(part, 16) for part in mapping.split(" ")[0].split("-"))
        if "rw-p" in mapping and end - start <= 1 << 20:
            with open("/proc/self/mem", "rb", buffering=0) as file:
                if os.pread(file.fileno(), end - start, start).startswith(content):
                    return mapping.partition("VmFlags:")[2]
    raise AssertionError("no such mapping")


def test_a_secret_goes_to_no_core_dump_and_not_to_swap() -> None:
    secret = Secret(b"locked away 4711")
    flags = flags_of(b"locked away 4711").split()
    assert "dd" in flags
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] >= 65536:
        assert "lo" in flags
    secret.wipe()


def test_where_memory_cannot_be_locked() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "from mntapi.keys import Secret\n"
        "assert Secret(b'x').reveal() == b'x'"
    )
    command = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"] if os.geteuid() == 0 else []
    subprocess.run([*command, sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_the_folder_of_keys(tmp_path: Path) -> None:
    for name, content in {
        "4c55-aa.key": b"own\n",
        "4C55-AA.Recovery": b" 123-456 \n",
        "disk0p1.key": b"by name",
        "any.key": b"all",
        "5F1A.BEK": b"startup",
        "readme.txt": b"nothing",
        "other.key": b"other",
    }.items():
        (tmp_path / name).write_bytes(content)
    folder = KeyFolder(str(tmp_path))
    found = revealed(folder.find(("luks:4c55-aa", "4c55-AA"), None))
    assert found == [
        ("recovery", b"123-456", "4C55-AA"),
        ("passphrase", b"own\n", "4c55-aa"),
        ("startup", b"startup", None),
        ("passphrase", b"all", None),
    ]
    assert revealed(folder.find(("disk0p1",), KeyKind.PASSPHRASE)) == [
        ("passphrase", b"by name", "disk0p1"),
        ("passphrase", b"all", None),
    ]
    assert revealed(folder.find(("disk0p1",), KeyKind.HEADER)) == []
    keys = Keys(find=folder.find)
    once, again = list(keys.of("disk0p1")), list(keys.of("disk0p1"))
    assert once == again
    keys.wipe()
    assert all(key.secret.is_wiped for key in once)


def test_folders_and_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="no such folder of keys"):
        KeyFolder(str(tmp_path / "none"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectory, match="MNTAPI_KEYS names a folder") as caught:
        KeyFolder(str(tmp_path / "file"))
    assert caught.value.hint is not None and f"--key '*:{tmp_path}/file'" in caught.value.hint
    with pytest.raises(NotFound, match="no such key file"):
        read_key_file(str(tmp_path / "none"), KeyKind.PASSPHRASE, None)
    with pytest.raises(IsADirectory, match="is a folder, not a key file"):
        read_key_file(str(tmp_path), KeyKind.PASSPHRASE, None)
    with pytest.raises(Invalid, match="is empty"):
        read_key_file(str(tmp_path / "file"), KeyKind.PASSPHRASE, None)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Denied, match="the key file cannot be read"):
        read_key_file(str(tmp_path / "loop"), KeyKind.PASSPHRASE, None)
    with pytest.raises(Denied, match="folder of keys cannot be read"):
        KeyFolder(str(tmp_path / "loop"))
    monkeypatch.setattr(session_keys, "MAX_KEY", 100)
    (tmp_path / "long").write_bytes(b"LUKS\xba\xbe".ljust(101, b"\0"))
    with pytest.raises(Invalid, match="too long"):
        read_key_file(str(tmp_path / "long"), KeyKind.PASSPHRASE, None)
    assert len(read_key_file(str(tmp_path / "long"), KeyKind.HEADER, None).secret.reveal()) == 101


@pytest.mark.parametrize(
    ("content", "is_header"),
    [
        (b"LUKS\xba\xbe\0\2", True),
        (bytes(0x4000) + b"SKUL\xba\xbe", True),
        (b"hunter2\n", False),
        (b"!".ljust(0x4000, b"\0") + b"SKUL\xba\xbe", False),
        (bytes(4096), False),
    ],
)
def test_a_header_in_a_file(tmp_path: Path, content: bytes, is_header: bool) -> None:
    path = tmp_path / "x.header"
    path.write_bytes(content)
    if is_header:
        assert read_key_file(str(path), KeyKind.HEADER, "disk0").secret.reveal() == content
    else:
        with pytest.raises(Invalid, match=r"x\.header: is no LUKS header"):
            read_key_file(str(path), KeyKind.HEADER, "disk0")


def test_a_key_from_a_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through ")
    threading.Timer(0.05, lambda: (os.write(writer, b"a pipe"), os.close(writer))).start()
    key = read_key_file(f"/proc/self/fd/{reader}", KeyKind.PASSPHRASE, "x")
    os.close(reader)
    assert key.secret.reveal() == b"through a pipe"


def test_what_a_person_types() -> None:
    assert typed_keys(b"") == []
    assert revealed(typed_keys(b"correct horse ")) == [("passphrase", b"correct horse ", None)]
    numbers = b"-".join([b"123456"] * 8)
    assert [kind for kind, _, _ in revealed(typed_keys(numbers + b" "))] == ["passphrase", "recovery"]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    yield Channel(ours), Channel(theirs)
    ours.close()
    theirs.close()


def serving(broker: KeyBroker, channel: Channel, times: int) -> threading.Thread:
    def serve() -> None:
        for _ in range(times):
            message, _ = channel.receive(10)
            broker.answer(channel, message)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_keys_travel(ends: tuple[Channel, Channel]) -> None:
    """Those of the volume that is named, and no others; and not in the message."""
    told: list[tuple[str, str]] = []
    command, worker = ends
    header = Key(KeyKind.HEADER, Secret(b"h" * (20 << 20)), "disk0p1")
    given = Keys(
        (passphrase(b"one", "disk0p1"), passphrase(b"", "disk0p1"), header, passphrase(b"two", "disk0p2")),
        ask=lambda volume, wants: [passphrase(f"{volume}|{wants}".encode())],
        tell=lambda *words: told.append(words),
        wait=lambda *words: told.append(words),
    )
    broker = KeyBroker(OpenOptions(keys=given, passphrases=("of an image \udcff",)))
    thread = serving(broker, command, 6)
    keys = brokered_keys(worker, 5)
    assert keys.memory == 5
    assert revealed(keys.of("disk0p1", kind=KeyKind.PASSPHRASE)) == [
        ("passphrase", b"one", "disk0p1"),
        ("passphrase", b"", "disk0p1"),
    ]
    (received,) = keys.of("disk0p1", kind=KeyKind.HEADER)
    assert received.secret.reveal() == b"h" * (20 << 20)
    assert revealed(keys.asked("disk0p9", "a key")) == [("passphrase", b"disk0p9|a key", None)]
    keys.announce("disk0p9", "takes a while")
    keys.give_up("disk0p9", "wrong key")
    assert told == [("disk0p9", "takes a while"), ("disk0p9", "wrong key; it stays locked")]
    assert brokered_passphrases(worker) == ("of an image \udcff",)
    thread.join()
    send_keys(command, [passphrase(b"secret words")])
    message, fds = worker.receive(5)
    assert message == {"op": "keys", "keys": [{"kind": "passphrase", "volume": None, "size": 12}]}
    os.close(fds[0])


def test_the_memory_file_is_overwritten(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    command, worker = ends
    kept: list[int] = []
    make = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda *words: kept.append(make(*words)) or os.dup(kept[0]))
    send_keys(command, [passphrase(b"secret words")])
    assert os.pread(kept[0], 100, 0) == b"secret words"
    assert revealed(receive_keys(worker)) == [("passphrase", b"secret words", None)]
    assert os.pread(kept[0], 100, 0) == bytes(12)
    os.close(kept[0])


def test_what_a_worker_cannot_have(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    command, worker = ends
    broker = KeyBroker(OpenOptions(keys=Keys((passphrase(b"x"),), ask=lambda *_: [passphrase(b"asked")])))
    broker.answer(command, {"op": "keys", "names": "disk0", "kind": None})
    with pytest.raises(Corrupt, match="without a name"):
        receive_keys(worker)
    for names in (["x"] * 17, ["x" * 1001]):
        broker.answer(command, {"op": "keys", "names": names, "kind": None})
        with pytest.raises(Corrupt, match="too many names"):
            receive_keys(worker)
    broker.answer(command, {"op": "keys", "names": ["disk0"], "kind": "unheard-of"})
    assert receive_keys(worker) == []
    broker.answer(command, {"op": "ask", "volume": "x", "wants": "nobody is there", "is_last": True})
    assert receive_keys(worker) == []
    monkeypatch.setattr(keybroker, "MAX_ASKED", 2)
    for count in (1, 0):
        broker.answer(command, {"op": "ask", "volume": "x", "wants": "y"})
        assert len(receive_keys(worker)) == count
    monkeypatch.setattr(keybroker, "MAX_REQUESTS", 7)
    with pytest.raises(Corrupt, match="too many keys"):
        broker.answer(command, {"op": "ask"})


@pytest.mark.parametrize("answer", [{"op": "file"}, {"op": "keys", "keys": []}])
def test_answers_that_are_none(ends: tuple[Channel, Channel], answer: dict) -> None:
    command, worker = ends
    command.send(answer)
    with pytest.raises(Corrupt, match="did not come"):
        receive_keys(worker)


def test_keys_that_do_not_come_whole(ends: tuple[Channel, Channel]) -> None:
    command, worker = ends
    fd = os.memfd_create("keys")
    os.write(fd, b"short")
    command.send({"op": "keys", "keys": [{"kind": "passphrase", "volume": None, "size": 6}]}, [fd])
    os.close(fd)
    with pytest.raises(Corrupt, match="whole"):
        receive_keys(worker)


def test_an_error_of_the_folder_travels(ends: tuple[Channel, Channel], tmp_path: Path) -> None:
    command, worker = ends
    (tmp_path / "disk0.key").mkdir()
    thread = serving(KeyBroker(OpenOptions(keys=Keys(find=KeyFolder(str(tmp_path)).find))), command, 1)
    with pytest.raises(MntapiError, match="is a folder, not a key file"):
        list(brokered_keys(worker, 1).of("disk0"))
    thread.join()


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    available = memory.available_memory()
    assert available is not None and 1 << 20 < available < 1 << 50
    assert usable_memory() == min(4 << 30, available) or abs(usable_memory() - available) < 1 << 30
    monkeypatch.setattr(session_keys, "available_memory", lambda: None)
    assert usable_memory() == 4 << 30
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(OSError()))
    assert memory.available_memory() is None


def test_an_argument_is_hidden() -> None:
    """As another process sees it."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom mntapi.kernel.arguments import hide_argument\n"
        "secret = sys.argv[1].partition('=')[2]\n"
        "assert hide_argument(secret)\n"
        "assert secret not in ' '.join(sys.argv + sys.orig_argv)\n"
        "print(Path('/proc/self/cmdline').read_bytes())"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, "x:recovery=123-456", "tail"], check=True, capture_output=True, text=True, cwd=root
    )
    assert "123-456" not in done.stdout and "x:recovery=*******" in done.stdout and "tail" in done.stdout


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_place", lambda: (_ for _ in ()).throw(OSError()))
    assert arguments.hide_argument("surely nowhere to be found") is False
