"""Keys through the command line to a mount: they open what they should, and are to be seen nowhere.

Oracle: the files an encrypted ext4 was made from, and cryptsetup.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from contract import luks_builder
from contract.luks_maker import ARGON2, PASSPHRASE, cryptsetup, needs_cryptsetup
from contract.luks_maker import encrypted as make_encrypted
from contract.make_disk import create_encrypted, need, run
from mntapi.crypto import gcrypt
from mntapi.units import MIB
from real.conftest import Mntapi

pytestmark = needs_cryptsetup
ROOT_FOLDER = Path(__file__).parents[2]
BITLOCKER = Path(__file__).parents[3] / "shared/images/cryptsetup/tests/bitlk-some.tar.xz"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 with one file, encrypted; its slot takes 64 MiB to try."""
    need("mkfs.ext4")
    folder = tmp_path_factory.mktemp("luks")
    (folder / "source").mkdir()
    (folder / "source" / "hello").write_text("hello\n")
    path = folder / "disk.raw"
    run("mkfs.ext4", "-q", "-F", "-d", folder / "source", path, "2M")
    os.truncate(path, 6 * MIB)
    kdf = ("--pbkdf", "argon2id", *ARGON2, "4", "--pbkdf-memory", "65536")
    how = (
        "--type",
        "luks2",
        "--force-offline-reencrypt",
        "--reduce-device-size",
        str(4 * MIB),
        "--luks2-keyslots-size",
        str(MIB),
    )
    cryptsetup("reencrypt", "--encrypt", *how, *kdf, "-c", "aes-xts-plain64", "-s", "512", "-d", "-", path)
    os.truncate(path, 4 * MIB)
    return path


@pytest.fixture
def uuid(encrypted: Path) -> str:
    return cryptsetup("luksUUID", encrypted).strip()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    return path


def test_info_without_and_with_a_key(mntapi: Mntapi, encrypted: Path, key_file: Path, uuid: str) -> None:
    (volume,) = mntapi.json("info", encrypted)["volumes"]
    assert (volume["state"], volume["name"]) == ("encrypted", "disk0")
    assert volume["reason"] == "luks2: wants a passphrase or key file; slot 0 argon2id 64.0 MiB x 4"
    for name in ("disk0", uuid.upper(), "*", f"luks-{uuid[:8]}"):
        volumes = mntapi.json("info", encrypted, "--key", f"{name}:{key_file}")["volumes"]
        assert [(one["id"], one["filesystem"]) for one in volumes if one["kind"] == "luks"] == [(f"luks:{uuid}", "ext4")]
    wrong = key_file.with_name("wrong")
    wrong.write_bytes(b"wrong")
    (volume,) = mntapi.json("info", encrypted, "--key", f"disk0:{wrong}")["volumes"]
    assert volume["state"] == "encrypted" and "wrong key (1 tried)" in volume["reason"]


def test_cat_with_the_folder_of_keys(mntapi: Mntapi, encrypted: Path, tmp_path: Path, uuid: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / f"{uuid}.key").write_bytes(PASSPHRASE)
    mntapi.environment["MNTAPI_KEYS"] = str(tmp_path / "keys")
    assert mntapi("cat", encrypted, f"/luks-{uuid[:8]}/hello").stdout == "hello\n"
    mntapi.environment["MNTAPI_KEYS"] = str(tmp_path / "none")
    assert "no such folder of keys" in mntapi("cat", encrypted, "/x", code=4).stderr


@pytest.mark.parametrize(
    ("argument", "code", "text"),
    [
        ("disk0", 2, "VOLUME:FILE"),
        (":x", 2, "VOLUME:FILE"),
        ("x:recovery= ", 2, "no recovery password"),
        ("x:/nowhere", 4, "no such key file"),
        ("x:startup=/", 2, "is a folder, not a key file"),
        ("x:header=/proc/self/cmdline", 2, "is no LUKS header"),
        ("x:/dev/null", 2, "is empty"),
    ],
)
def test_arguments_that_are_no_keys(mntapi: Mntapi, encrypted: Path, argument: str, code: int, text: str) -> None:
    assert text in mntapi("info", encrypted, "--key", argument, code=code).stderr


def test_a_recovery_password_is_hidden(mntapi: Mntapi, tmp_path: Path) -> None:
    """While the command waits for its disk, which is a pipe, /proc does not show the password."""
    os.mkfifo(tmp_path / "key")
    secret = "111111-222222-333333-444444-555555-666666-777777-888888"
    process = mntapi.start("info", tmp_path / "x", "--key", f"*:recovery={secret}", "--key", f"*:{tmp_path / 'key'}")
    with open(tmp_path / "key", "wb") as key:  # it is read after the password was taken
        key.write(b"x")
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert process.wait(60) == 4
    assert secret.encode() not in shown and b"*:recovery=*****" in shown


def in_memory(pid: int, content: bytes) -> bool:
    """Whether a process has the bytes anywhere in its memory."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            places, rights, *rest = line.split()
            start, end = (int(part, 16) for part in places.split("-"))
            is_program = "r" in rights and rest[-1] not in ("[vvar]", "[vsyscall]", "[vvar_vclock]")
            if is_program and content in os.pread(memory.fileno(), end - start, start):
                return True
    return False


@pytest.mark.root
def test_the_worker_forgets(mntapi: Mntapi, target: Path, tmp_path: Path, key_file: Path) -> None:
    """What opened a slot of PBKDF2 is nowhere in its memory afterwards. (OpenSSL's Argon2 leaves a copy where it worked.)"""
    from contract.luks_maker import encrypted

    encrypted(tmp_path / "disk", "-c", "aes-xts-plain64", "-s", "512")
    mntapi("mount", tmp_path / "disk", target, "--layout", "blocks", "--key", f"*:{key_file}")
    try:
        (worker,) = mntapi.workers()
        assert len(list((target / "volumes").glob("luks-*"))) == 1
        assert not in_memory(worker.pid, PASSPHRASE)
    finally:
        mntapi("umount", target)


@pytest.mark.root
@pytest.mark.parametrize("more", [(), ("--layout", "blocks", "--overlay", "memory"), ("--fuse-backend", "fusepy")], ids=str)
def test_a_mount(mntapi: Mntapi, encrypted: Path, target: Path, key_file: Path, uuid: str, more: tuple[str, ...]) -> None:
    """The worker derives with 64 MiB in its confinement; afterwards the passphrase is in no file or argument."""
    mntapi("mount", encrypted, target, "--key", f"{uuid}:{key_file}", *more)
    try:
        name = f"luks-{uuid[:8]}"
        if "blocks" in more:
            assert (target / "volumes" / name).read_bytes()[1080:1082] == b"\x53\xef"
        else:
            assert (target / name / "hello").read_text() == "hello\n"
        (worker,) = mntapi.workers()
        assert PASSPHRASE.decode() not in " ".join(worker.cmdline())
        assert str(key_file) not in " ".join(worker.cmdline())
        for path in mntapi.run_dir.rglob("*"):
            if path.is_file():
                assert PASSPHRASE not in path.read_bytes(), path
    finally:
        mntapi("umount", target)


@pytest.mark.root
def test_a_mount_without_the_key(mntapi: Mntapi, encrypted: Path, target: Path, key_file: Path) -> None:
    """Mounted all the same, with a note; a key for another volume is not used."""
    for more in ((), ("--key", f"disk7:{key_file}")):
        done = mntapi("mount", encrypted, target, *more)
        assert "wants a passphrase or key file" in done.stderr and "wrong key" not in done.stderr
        mntapi("umount", target)


@pytest.mark.root
def test_a_detached_header(mntapi: Mntapi, target: Path, tmp_path: Path, key_file: Path) -> None:
    from contract.luks_maker import encrypted_apart

    content = encrypted_apart(tmp_path / "disk", tmp_path / "header", "-c", "aes-xts-plain64", "-s", "512")
    header = ("--key", f"disk0:header={tmp_path / 'header'}")
    mntapi("mount", tmp_path / "disk", target, "--layout", "blocks", *header, "--key", f"*:{key_file}")
    try:
        (volume,) = (target / "volumes").iterdir()
        assert volume.read_bytes() == content
    finally:
        mntapi("umount", target)


@pytest.mark.root
def test_an_encrypted_image_in_a_worker(mntapi: Mntapi, target: Path, tmp_path: Path, key_file: Path) -> None:
    need("qemu-img")
    secret = ("--object", f"secret,id=s,data={PASSPHRASE.decode()}")
    options = ("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
    create_encrypted("-q", *secret, "-f", "qcow2", *options, tmp_path / "disk.qcow2", "1M")
    mntapi("mount", tmp_path / "disk.qcow2", target, "--key-file", key_file, "--layout", "blocks")
    try:
        assert (target / "disks" / "disk0").read_bytes() == bytes(MIB)
    finally:
        mntapi("umount", target)


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, mntapi: Mntapi, *arguments: object) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(sys.executable, [*mntapi.argv, *map(str, arguments)], mntapi.environment)
        self.shown = b""

    def wait_for(self, text: bytes, times: int = 1) -> None:
        """Until it has shown the text so often."""
        while self.shown.count(text) < times:
            assert self._read(), self.shown

    def answer(self, text: bytes, times: int = 1) -> None:
        """Type after its question was asked so often; what is typed before is thrown away."""
        self.wait_for(b"leave it locked): ", times)
        os.write(self.fd, text)

    def _read(self) -> bytes:
        """What it shows next; nothing when it has ended. A minute without anything ends it."""
        if not select.select([self.fd], [], [], 60)[0]:
            os.kill(self.pid, signal.SIGKILL)
        try:
            chunk = os.read(self.fd, 4096)
        except OSError:  # how the end of a terminal looks
            return b""
        self.shown += chunk
        return chunk

    def end(self) -> int:
        """Its exit code."""
        while self._read():
            continue
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_asked_at_the_terminal(mntapi: Mntapi, encrypted: Path, uuid: str) -> None:
    terminal = Terminal(mntapi, "cat", encrypted, f"/luks-{uuid[:8]}/hello")
    terminal.answer(b"wrong\n")
    assert b"disk0: luks2: wants a passphrase or key file; slot 0" in terminal.shown
    terminal.wait_for(b"wrong key; luks2: wants")
    terminal.answer(PASSPHRASE + b"\n", times=2)
    assert terminal.end() == 0
    assert b"hello" in terminal.shown and PASSPHRASE not in terminal.shown


def test_three_wrong_answers(mntapi: Mntapi, encrypted: Path) -> None:
    """The end of asking is told, and what is locked then."""
    terminal = Terminal(mntapi, "ls", encrypted)
    for times in (1, 2, 3):
        terminal.answer(b"wrong\n", times)
    assert terminal.end() == 0
    assert b"disk0: wrong key; it stays locked" in terminal.shown
    assert b"note: disk0 is encrypted and locked: --key disk0:FILE opens it" in terminal.shown


def test_ls_names_what_is_locked(mntapi: Mntapi, encrypted: Path, key_file: Path, uuid: str) -> None:
    done = mntapi("ls", encrypted, "--json")
    assert [(entry["name"], entry["reason"]) for entry in json.loads(done.stdout)] == [("disk0", "crypto_LUKS")]
    assert done.stderr == "note: disk0 is encrypted and locked: --key disk0:FILE opens it\n"
    assert mntapi("ls", encrypted, "--key", f"*:{key_file}").stderr == ""
    assert mntapi("ls", encrypted, f"/luks-{uuid[:8]}", "--key", f"*:{key_file}").stderr == ""


def test_ctrl_c_while_a_key_is_tried(mntapi: Mntapi, tmp_path: Path, key_file: Path) -> None:
    """A slot of Argon2 that takes minutes; nobody waits for it, and the process ends without a word of a library's."""
    fields = luks_builder.metadata()
    salt = base64.b64encode(bytes(16)).decode()
    fields["keyslots"]["0"]["kdf"] = {"type": "argon2id", "time": 1000, "memory": 65536, "cpus": 1, "salt": salt}
    (tmp_path / "slow").write_bytes(luks_builder.volume(fields))
    process = mntapi.start("info", tmp_path / "slow", "--key", f"*:{key_file}", stderr=subprocess.PIPE)
    while len(os.listdir(f"/proc/{process.pid}/task")) == 1:  # the key is tried in a thread of its own
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.decode().splitlines()[-1] == "error: interrupted"


HOLDER = """
import sys
import mntapi.keys
from mntapi.kernel.sandbox import confine
if sys.argv[1] == "confined":
    confine(memory_limit=1 << 30)
secret = mntapi.keys.Secret(bytes(16))
secret.view()[:] = sys.stdin.buffer.read(16)
print("held", flush=True)
sys.stdin.buffer.read(1)
secret.wipe()
print("wiped", flush=True)
sys.stdin.buffer.read(1)
"""


@pytest.mark.root
@pytest.mark.parametrize("how", ["free", "confined"])
def test_a_key_is_in_locked_memory(how: str) -> None:
    """In a worker too, which has no right to lock more than the limit: the kernel says what is locked, before and after."""
    secret = os.urandom(16)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER, how], stdin=pipe, stdout=pipe, cwd=ROOT_FOLDER) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(secret)
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        assert locked(process.pid) == os.sysconf("SC_PAGE_SIZE") and in_memory(process.pid, secret)
        process.stdin.write(b".")
        process.stdin.flush()
        assert process.stdout.readline() == b"wiped\n"
        assert locked(process.pid) == 0


def locked(pid: int) -> int:
    """Bytes of its memory that are not swapped out."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmLck:"))
    return int(line.split()[1]) * 1024


READER = """
import sys
import mntapi
from mntapi.blocks import read
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.types import OpenOptions
keys = Keys((Key(KeyKind.PASSPHRASE, Secret(sys.argv[2].encode())),))
disk_set = mntapi.open_disks(sys.argv[1], options=OpenOptions(keys=keys))
keys.wipe()
read(disk_set.volumes[0].blocks, 0, 4096)
print("open", flush=True)
sys.stdin.buffer.read(1)
disk_set.close()
print("closed", flush=True)
sys.stdin.buffer.read(1)
"""


@pytest.mark.root
def test_no_key_is_left_in_memory_when_a_set_is_closed(tmp_path: Path) -> None:
    """Not the key that the sectors are encrypted with, nor the passphrase. Oracle: cryptsetup tells that key."""
    make_encrypted(tmp_path / "disk", "-c", "aes-xts-plain64", "-s", "512")
    dump = cryptsetup("luksDump", "--dump-volume-key", tmp_path / "disk")
    key = bytes.fromhex("".join(re.findall(r"^(?:MK dump:)?\s+((?:[0-9a-f]{2} ){16})", dump, re.MULTILINE)))
    assert len(key) == 64
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", READER, str(tmp_path / "disk"), PASSPHRASE.decode()]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT_FOLDER) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert in_memory(process.pid, key[:32]) and in_memory(process.pid, key[32:])
        assert gcrypt.library() is None or locked(process.pid) > 0
        process.stdin.write(b".")
        process.stdin.flush()
        assert process.stdout.readline() == b"closed\n"
        assert not in_memory(process.pid, key[:32]) and not in_memory(process.pid, key[32:])


def test_nothing_is_typed(mntapi: Mntapi, encrypted: Path) -> None:
    for answer in (b"\n", b"\x04"):
        terminal = Terminal(mntapi, "ls", encrypted)
        terminal.answer(answer)
        assert terminal.end() == 0


def test_info_asks_nobody(mntapi: Mntapi, encrypted: Path) -> None:
    terminal = Terminal(mntapi, "info", encrypted)
    assert terminal.end() == 0
    assert b"leave it locked" not in terminal.shown and b"encrypted" in terminal.shown


@pytest.mark.root
def test_a_mount_asks(mntapi: Mntapi, encrypted: Path, target: Path, uuid: str) -> None:
    terminal = Terminal(mntapi, "mount", encrypted, target)
    terminal.answer(PASSPHRASE + b"\n")
    try:
        assert terminal.end() == 0, terminal.shown
        assert (target / f"luks-{uuid[:8]}" / "hello").read_text() == "hello\n"
    finally:
        mntapi("umount", target)


@pytest.mark.root
def test_ctrl_c_at_the_question(mntapi: Mntapi, encrypted: Path, target: Path) -> None:
    """The mount is undone, which the fixture checks."""
    terminal = Terminal(mntapi, "mount", encrypted, target)
    terminal.answer(b"\x03")
    assert terminal.end() == 130


@pytest.mark.skipif(not BITLOCKER.exists(), reason="../shared/images is not here")
def test_bitlocker_in_a_confined_worker(mntapi: Mntapi, target: Path, tmp_path: Path) -> None:
    """The key file ends with a newline, as an editor leaves one. Oracle: cryptsetup's own sum."""
    with tarfile.open(BITLOCKER) as archive:
        archive.extractall(tmp_path, filter="data")
    facts = configparser.ConfigParser()
    facts.read(tmp_path / "images.conf")
    (tmp_path / "key").write_text(facts["bitlk-aes-xts-128"]["PW"] + "\n")
    mntapi("mount", "--layout", "blocks", "--key", f"*:{tmp_path / 'key'}", tmp_path / "bitlk-aes-xts-128.img", target)
    (file,) = (target / "volumes").iterdir()
    with file.open("rb") as served:
        assert hashlib.file_digest(served, "sha256").hexdigest() == facts["bitlk-aes-xts-128"]["SHA256SUM"]
    mntapi("umount", target)


def test_a_key_for_no_volume_is_told(mntapi: Mntapi, encrypted: Path, key_file: Path) -> None:
    assert "--key disk0p9" in mntapi("info", encrypted, "--key", f"disk0p9:{key_file}").stderr
    assert mntapi("info", encrypted, "--key", f"disk0:{key_file}").stderr == ""


def test_a_disk_given_twice(mntapi: Mntapi, encrypted: Path) -> None:
    assert "given twice" in mntapi("info", encrypted, "-d", encrypted, code=2).stderr


def test_secrets_of_the_command_line_are_hidden_before_anything_else(mntapi: Mntapi, tmp_path: Path) -> None:
    """Seen from outside while the command waits for a pipe nobody writes."""
    numbers = "042647-302313-590458-071500-554323-116567-412181-516978"
    code = (
        "import sys; from mntapi.cli.entry import _hide_secrets as hide\n"
        "hide(); print(flush=True); sys.stdin.read(); print(sys.argv)"
    )
    argv = [sys.executable, "-c", code, "--key", f"disk0:recovery={numbers}", "http://ann:hunter2@127.0.0.1/disk.raw"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        seen = Path(f"/proc/{process.pid}/cmdline").read_text()
        rest, _ = process.communicate()
    assert numbers not in seen and "hunter2" not in seen and "disk0:recovery=***" in seen and "http://ann:***" in seen
    assert numbers in rest and "hunter2" in rest  # the command itself still has them


@pytest.mark.parametrize("verb", [("ls",), ("cat", "/disk0/x"), ("convert", "--volume", "disk0", "--format", "raw", "OUT")])
def test_a_wrong_key_for_just_this_volume_is_an_error(
    mntapi: Mntapi, encrypted: Path, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    (tmp_path / "bad").write_text("wrong")
    rest = [tmp_path / "out" if word == "OUT" else word for word in verb[1:]]
    error = mntapi(verb[0], "--key", f"disk0:{tmp_path / 'bad'}", encrypted, *rest, code=6).stderr
    assert "disk0 stays locked" in error and "wrong key" in error and not (tmp_path / "out").exists()


@pytest.mark.root
@pytest.mark.parametrize("layout", ["blocks", "volumes"])
def test_a_wrong_key_and_a_mount(mntapi: Mntapi, encrypted: Path, tmp_path: Path, layout: str) -> None:
    """It is the same error as for a verb that reads, whether the key is for just this volume or for any."""
    (tmp_path / "bad").write_text("wrong")
    target = tmp_path / "target"
    target.mkdir()
    uuid = run("blkid", "-p", "-s", "UUID", "-o", "value", encrypted).strip()
    for volume in ("disk0", uuid, "*"):
        error = mntapi("mount", "--layout", layout, "--key", f"{volume}:{tmp_path / 'bad'}", encrypted, target, code=6).stderr
        assert "disk0 stays locked" in error and "wrong key" in error and mntapi.json("ps") == []
