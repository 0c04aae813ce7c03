"""Disks that nbdkit and qemu-nbd serve. Oracles: the file they serve, nbdkit's pattern, nbdinfo for the extents, nbdcopy."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks, check_closed
from mntapi.blocks import merged, read
from mntapi.errors import Denied, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.kernel import sandbox
from mntapi.remote.dial import dial
from mntapi.remote.nbd import NbdBlocks
from mntapi.remote.opener import open_remote
from mntapi.remote.urls import Url
from mntapi.remote.wire import tls_context
from mntapi.types import Extent, ExtentKind
from mntapi.units import KIB, MIB, TIB
from real.network_servers import listen_tcp, listen_unix, serving

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("nbdkit", "nbdinfo", "nbdcopy", "bash")), reason="needs nbdkit and libnbd-bin"
)
needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-utils")

SIZE = 8 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 MiB of noise with holes and stored zeros in it."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    noise = random.Random(3)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, length in ((0, 70_000), (MIB, 512 * KIB), (3 * MIB + 4096, 4096), (6 * MIB, 1_234_567)):
            file.seek(offset)
            file.write(noise.randbytes(length))
        file.seek(2 * MIB)
        file.write(bytes(256 * KIB))
    return path


Serve = Callable[..., str]


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Serve]:
    """Start a server on a Unix socket; gives its URL."""
    with ExitStack() as stack:

        def serve(*argv: object, export: str = "", scheme: str = "nbd+unix", more: str = "") -> str:
            sock = stack.enter_context(listen_unix(tmp_path / "socket"))
            stack.enter_context(serving(sock, *argv))
            return f"{scheme}:///{export}?socket={tmp_path}/socket{more}"

        yield serve


def nbdinfo_map(url: str) -> list[Extent]:
    """What nbdinfo says of base:allocation: bit 1 is NBD_STATE_ZERO."""
    output = subprocess.run(["nbdinfo", "--map", "--json", url], check=True, capture_output=True).stdout
    kinds = (ExtentKind.DATA, ExtentKind.ZERO)
    return list(merged(Extent(one["offset"], one["length"], kinds[one["type"] >> 1 & 1]) for one in json.loads(output)))


def test_file_of_nbdkit(unix: Serve, disk: Path) -> None:
    url = unix("nbdkit", "file", disk)
    blocks = open_remote(url)
    check_blocks(blocks, disk.read_bytes())
    extents = list(blocks.extents(0, SIZE))
    assert extents == nbdinfo_map(url)
    assert {extent.kind for extent in extents} == {ExtentKind.DATA, ExtentKind.ZERO}
    check_closed(blocks)


def test_over_tcp(disk: Path) -> None:
    with listen_tcp() as sock, serving(sock, "nbdkit", "file", disk):
        blocks = open_remote(f"nbd://127.0.0.1:{sock.getsockname()[1]}")
        check_blocks(blocks, disk.read_bytes(), ranges=100)
        blocks.close()


@needs_qemu
@pytest.mark.parametrize("shared", [1, 2, 8])
def test_qcow2_of_qemu_nbd(unix: Serve, disk: Path, tmp_path: Path, shared: int) -> None:
    """Also where it takes fewer connections than we like to have. 2: one for us, one for nbdinfo and nbdcopy."""
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], check=True)
    url = unix("qemu-nbd", "--read-only", "--persistent", f"--shared={shared}", "-f", "qcow2", image)
    copied = subprocess.run(["nbdcopy", "--connections=1", url, "-"], check=True, capture_output=True).stdout
    assert copied == disk.read_bytes()
    expected = nbdinfo_map(url)
    blocks = NbdBlocks.open(url, connections=1 if shared == 2 else 4)
    check_blocks(blocks, copied, ranges=100)
    assert list(blocks.extents(0, SIZE)) == expected
    blocks.close()


@needs_qemu
def test_qemu_nbd_takes_fewer_connections_than_it_lets_on(unix: Serve, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that several are fine, and does not answer the third: reads go on over two."""
    monkeypatch.setattr("mntapi.remote.nbd.CONNECT_TIMEOUT_S", 0.3)
    blocks = open_remote(unix("qemu-nbd", "--read-only", "--persistent", "--shared=2", "-f", "raw", disk))
    check_blocks(blocks, disk.read_bytes(), ranges=50)
    blocks.close()


def test_62_tib(unix: Serve) -> None:
    """nbdkit's pattern: every 8 bytes are their own offset, big-endian."""

    def pattern(offset: int, length: int) -> bytes:
        start = offset - offset % 8
        words = b"".join(at.to_bytes(8, "big") for at in range(start, offset + length + 8, 8))
        return words[offset - start :][:length]

    blocks = open_remote(unix("nbdkit", "pattern", "size=62T"))
    assert blocks.size == 62 * TIB
    check_blocks(blocks, pattern, ranges=30)
    blocks.close()


def test_a_sparse_1_tib(unix: Serve) -> None:
    blocks = open_remote(unix("nbdkit", "data", "@0xd000000000 1 2 3", "size=1T"))
    data = [extent for extent in blocks.extents(0, TIB) if extent.kind is ExtentKind.DATA]
    assert [(extent.offset, extent.length) for extent in data] == [(0xD000000000, 32768)]
    assert read(blocks, 0xD000000000 - 1, 5) == b"\0\1\2\3\0"
    blocks.close()


POLICY = "--filter=blocksize-policy", "blocksize-error-policy=error"
VARIANTS = {
    "4 KiB blocks": (*POLICY, "blocksize-minimum=4K", "blocksize-preferred=4K", "blocksize-maximum=64K"),
    "64 KiB blocks": (*POLICY, "blocksize-minimum=64K", "blocksize-preferred=64K", "blocksize-maximum=64K"),
    "simple replies": ("--no-sr",),
    "newstyle, not fixed": ("--mask-handshake=0",),
    "no zeroes masked": ("--mask-handshake=1",),
    "one connection": ("--filter=multi-conn", "multi-conn-mode=disable"),
    "slow": ("--filter=delay", "rdelay=1ms", "delay-extents=1ms"),
    "one at a time": ("--filter=noparallel",),
    "cached extents": ("--filter=cacheextents",),
    "no extents": ("--filter=noextents",),
    "ends with its last client": ("--filter=exitlast",),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_servers_of_all_kinds(unix: Serve, disk: Path, variant: str) -> None:
    filters = [argument for argument in VARIANTS[variant] if argument.startswith("--")]
    parameters = [argument for argument in VARIANTS[variant] if not argument.startswith("--")]
    blocks = open_remote(unix("nbdkit", *filters, "file", disk, *parameters))
    check_blocks(blocks, disk.read_bytes(), ranges=40)
    blocks.close()


def test_extents_of_a_range_are_exact(unix: Serve, disk: Path) -> None:
    """Clipped to any range, with blocks of 4 KiB as well. nbdkit's noise is what SEEK_DATA says of the file."""
    url = unix("nbdkit", *POLICY[:1], "file", disk, *POLICY[1:], "blocksize-minimum=4K", "blocksize-maximum=64K")
    whole = nbdinfo_map(url)
    blocks = open_remote(url)
    rng = random.Random(9)
    for _ in range(50):
        start = rng.randrange(SIZE)
        end = rng.randrange(start, SIZE) + 1
        clipped = (Extent(max(e.offset, start), min(e.end, end) - max(e.offset, start), e.kind) for e in whole)
        assert list(blocks.extents(start, end - start)) == [extent for extent in clipped if extent.length > 0]
    blocks.close()


def test_exports_by_name(unix: Serve, disk: Path) -> None:
    url = unix("nbdkit", "file", f"dir={disk.parent}", export="disk.raw")
    assert read(open_remote(url), 0, 4096) == disk.read_bytes()[:4096]
    with pytest.raises(NotFound) as caught:
        open_remote(url.replace("disk.raw", "none%20such"))
    assert "none%20such" in str(caught.value)


def test_oldstyle_is_refused(unix: Serve, disk: Path) -> None:
    with pytest.raises(Unsupported, match="old style"):
        open_remote(unix("nbdkit", "-o", "file", disk))


def test_a_bad_spot_and_a_healed_one(unix: Serve, disk: Path, tmp_path: Path) -> None:
    """nbdkit's error filter while a file exists: that read fails with its offset, and what comes after it is right."""
    trigger = tmp_path / "inject"
    blocks = open_remote(unix("nbdkit", "--filter=error", "file", disk, "error-pread-rate=100%", f"error-pread-file={trigger}"))
    trigger.touch()
    with pytest.raises(ReadFailed, match="Input/output error") as caught:
        read(blocks, 5 * 512, 512)
    assert caught.value.offset == 5 * 512
    trigger.unlink()
    check_blocks(blocks, disk.read_bytes(), ranges=20)
    blocks.close()


def test_a_server_that_cannot_tell_its_extents(unix: Serve, disk: Path) -> None:
    blocks = open_remote(unix("nbdkit", "--filter=error", "file", disk, "error-extents-rate=100%"))
    assert list(blocks.extents(100, SIZE - 100)) == [Extent(100, SIZE - 100, ExtentKind.DATA)]
    check_blocks(blocks, disk.read_bytes(), ranges=20)
    blocks.close()


def test_a_server_that_is_restarted(disk: Path, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "socket") as sock:
        with serving(sock, "nbdkit", "file", disk):
            blocks = NbdBlocks.open(f"nbd+unix:///?socket={tmp_path}/socket", patience=0)
            assert read(blocks, 0, 512) == disk.read_bytes()[:512]
        with serving(sock, "nbdkit", "file", disk):
            check_blocks(blocks, disk.read_bytes(), ranges=20)
    with pytest.raises(ReadFailed) as caught:
        read(blocks, 512, 512)
    assert caught.value.offset == 512
    assert caught.value.reason in ("dropped", "unreachable")  # over what is left, or over a new connection
    blocks.close()


# --- a confined process ---

_CONFINED = """
import hashlib, socket, sys
from concurrent.futures import ThreadPoolExecutor
from mntapi.blocks import read
from mntapi.kernel.sandbox import confine
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.nbd import NbdBlocks
from mntapi.remote.wire import tls_context
url, *fds = sys.argv[1:]
sockets = [socket.socket(fileno=int(fd)) for fd in fds]
if url.startswith("nbds"):
    tls_context()
confine(memory_limit=1 << 30)
try:
    socket.socket()
except PermissionError:
    pass
else:
    sys.exit("not confined")
def connect(endpoint):
    if not sockets:
        raise ConnectionLost("no more sockets")
    return sockets.pop()
blocks = NbdBlocks.open(url, connect=connect, connections=3, patience=0)
with ThreadPoolExecutor(8) as threads:
    parts = threads.map(lambda at: read(blocks, at, 65536), range(0, blocks.size, 65536))
    print(hashlib.sha256(b"".join(parts)).hexdigest(), blocks.size, len(list(blocks.extents(0, blocks.size))) > 1)
blocks.close()
"""


def confined(url: str) -> list[str]:
    """Read all over three connections in a process that gave up connecting."""
    sockets = [dial(Url.parse(url).endpoint) for _ in range(3)]
    fds = [sock.fileno() for sock in sockets]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CONFINED, url, *map(str, fds)], pass_fds=fds, capture_output=True, text=True, timeout=60
        )
    finally:
        for sock in sockets:
            sock.close()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _can_confine() -> bool:
    test = "from mntapi.kernel.sandbox import confine; confine(memory_limit=1 << 30)"
    return subprocess.run([sys.executable, "-c", test], capture_output=True).returncode == 0


@pytest.mark.skipif(not hasattr(sandbox, "confine") or not _can_confine(), reason="needs a kernel that can confine")
def test_a_confined_process_with_sockets_from_outside(unix: Serve, disk: Path) -> None:
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    lines = confined(unix("nbdkit", "file", disk))
    assert lines == [f"{digest} {SIZE} True"]


# --- encryption ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("pki")
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", folder / "server-key.pem", "-out", folder / "server-cert.pem")
    subprocess.run([*make, *name, *files], check=True, capture_output=True)
    shutil.copy(folder / "server-cert.pem", folder / "ca-cert.pem")
    return folder


@pytest.fixture
def trusted(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca-cert.pem"))
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


def tls_server(unix: Serve, certificates: Path, disk: Path, mode: str = "require") -> str:
    argv = ("nbdkit", f"--tls={mode}", f"--tls-certificates={certificates}", "file", disk)
    return unix(*argv, scheme="nbds+unix", more="&tls-hostname=localhost")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("mode", ["on", "require"])
def test_encrypted(unix: Serve, certificates: Path, disk: Path, mode: str) -> None:
    url = tls_server(unix, certificates, disk, mode)
    blocks = open_remote(url)
    assert isinstance(blocks, NbdBlocks)
    with blocks._pool.borrow() as connection:
        assert isinstance(connection._wire._sock, ssl.SSLSocket)
    check_blocks(blocks, disk.read_bytes(), ranges=40)
    blocks.close()


@pytest.mark.usefixtures("trusted")
@pytest.mark.skipif(not hasattr(sandbox, "confine") or not _can_confine(), reason="needs a kernel that can confine")
def test_encrypted_in_a_confined_process(unix: Serve, certificates: Path, disk: Path) -> None:
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert confined(tls_server(unix, certificates, disk))[0] == f"{digest} {SIZE} True"


def test_a_server_that_demands_encryption(unix: Serve, certificates: Path, disk: Path) -> None:
    url = tls_server(unix, certificates, disk).replace("nbds+unix", "nbd+unix").partition("&")[0]
    with pytest.raises(Denied, match="demands encryption") as caught:
        open_remote(url)
    assert caught.value.reason == "tls"


def test_a_certificate_nobody_vouches_for(unix: Serve, certificates: Path, disk: Path) -> None:
    tls_context.cache_clear()
    with pytest.raises(Denied, match="not accepted"):
        open_remote(tls_server(unix, certificates, disk))


def test_nothing_is_ever_written(disk: Path, tmp_path: Path) -> None:
    """nbdkit's own log of what a session asked for."""
    log = tmp_path / "log"
    with listen_unix(tmp_path / "socket") as sock, serving(sock, "nbdkit", "--filter=log", "file", disk, f"logfile={log}"):
        blocks = open_remote(f"nbd+unix:///?socket={tmp_path}/socket")
        check_blocks(blocks, disk.read_bytes(), ranges=20)
        blocks.close()
    lines = log.read_text().splitlines()
    calls = {
        word
        for line in lines
        for word in line.split()
        if word in ("Read", "Write", "Trim", "Zero", "Flush", "Cache", "Extents")
    }
    assert calls == {"Read", "Extents"}


def test_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    """It accepts by itself, and nobody ever says a word."""
    with listen_unix(tmp_path / "socket"), pytest.raises(MntapiError, match="did not answer within") as caught:
        NbdBlocks.open(f"nbd+unix:///?socket={tmp_path}/socket", timeout_s=0.1)
    assert caught.value.path == f"nbd+unix:///?socket={tmp_path}/socket"
