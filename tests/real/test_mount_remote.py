"""Disks on servers, mounted. Oracles: the disk that qemu-nbd, nbdkit, nginx and our own web server serve; qemu-img.

Beside the fixture's own proof, no dialer may be left behind either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from contract.http_fake import FakeWeb, Fault, Handler
from contract.make_disk import RealDisk, need, run
from mntapi.remote.patience import PATIENCE_VARIABLE
from mntapi.units import KIB, MIB
from real.network_servers import listen_tcp, listen_unix, serving

pytestmark = pytest.mark.root


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_direct(path: Path, offset: int, length: int) -> bytes:
    """Past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        return subprocess.run(
            ["dd", f"bs={length}", f"skip={offset // length}", "count=1", "iflag=direct", "status=none"],
            stdin=fd,
            check=True,
            capture_output=True,
        ).stdout
    finally:
        os.close(fd)


def eio(path: Path, offset: int) -> bool:
    """Whether reading fails, with an I/O error."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.pread(fd, 4096, offset)
    except OSError as error:
        return error.errno == errno.EIO
    finally:
        os.close(fd)
    return False


def is_open(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Looking at links only: a stat() would wait for the server."""
    return str(path) in [os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()]


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def dialers(mntapi) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "mntapi.session.dialer" in (process.info["cmdline"] or []) and mntapi._is_ours(process):
                found.append(process)
        except psutil.Error:
            continue
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(autouse=True)
def _no_dialer_is_left(mntapi) -> Iterator[None]:
    yield
    left = dialers(mntapi)
    for one in left:
        one.kill()
    assert left == []


@pytest.fixture
def impatient(mntapi) -> None:
    """Reads of a mount are tried twice and no more."""
    mntapi.environment[PATIENCE_VARIABLE] = "0"


@pytest.fixture
def web(disk: RealDisk) -> Iterator[FakeWeb]:
    server = FakeWeb(disk.vmdk.read_bytes())
    yield server
    server.stop()


Serve = Callable[..., object]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def qemu_nbd(disk: RealDisk) -> tuple[object, ...]:
    need("qemu-nbd")
    return ("qemu-nbd", "--read-only", "--persistent", "--shared=8", "-f", "vmdk", disk.vmdk)


def nbdkit(disk: RealDisk, *more: object) -> tuple[object, ...]:
    need("nbdkit")
    return ("nbdkit", "--readonly", *more, "file", disk.raw)


# --- the same bytes ---


@pytest.mark.parametrize("kind", ["qemu-nbd unix", "nbdkit tcp", "http"])
def test_block_files(
    kind: str, mntapi, mounted, disk: RealDisk, tmp_path: Path, stack: ExitStack, request: pytest.FixtureRequest
) -> None:
    if kind == "qemu-nbd unix":
        stack.enter_context(serving(stack.enter_context(listen_unix(tmp_path / "socket")), *qemu_nbd(disk)))
        url = f"nbd+unix:///?socket={tmp_path}/socket"
    elif kind == "nbdkit tcp":
        sock = stack.enter_context(listen_tcp())
        stack.enter_context(serving(sock, *nbdkit(disk)))
        url = f"nbd://localhost:{sock.getsockname()[1]}"
    else:
        url = request.getfixturevalue("web").url("/dir/web01.vmdk")
    top = mounted(url, "--layout", "blocks")
    whole = top / "disks/disk0"
    with ThreadPoolExecutor(8) as threads:  # as many as it has connections, and more
        step = disk.raw.stat().st_size // 16 // MIB * MIB
        parts = [*threads.map(lambda number: read_direct(whole, number * step, step), range(16))]
    with disk.raw.open("rb") as file:
        assert [hashlib.sha256(part).digest() for part in parts] == [
            hashlib.sha256(file.read(step)).digest() for _ in range(16)
        ]
    assert digest(whole) == digest(disk.raw)
    [one] = mntapi.json("ps")
    assert (one["state"], one["disks"]) == ("ready", [url])
    assert one["memory"] < 64 * MIB
    [dialer] = dialers(mntapi)
    assert dialer.memory_info().rss < 32 * MIB


def test_files_and_kernel_mounts(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    need("ntfs-3g")
    with listen_unix(tmp_path / "socket") as sock, serving(sock, *qemu_nbd(disk)):
        for via in ("user", "kernel"):
            mntapi("mount", "--via", via, f"nbd+unix:///?socket={tmp_path}/socket", target)
            assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
            assert (target / "disk0p2/budget.csv").read_bytes() == disk.budget
            mntapi("umount", target)


def test_a_relative_socket_a_parent_and_a_disk_of_two_places(
    mntapi, mounted, disk: RealDisk, tmp_path: Path, web: FakeWeb
) -> None:
    """Disks from two servers, and a local child whose parent the user names by URL."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk.vmdk, "-F", "vmdk", tmp_path / "child.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", tmp_path / "child.qcow2")
    expected = bytearray(disk.raw.read_bytes()[: 2 * MIB])
    expected[MIB : MIB + 64 * KIB] = b"\7" * 64 * KIB
    top = mounted("--layout", "blocks", tmp_path / "child.qcow2", "--parent", web.url())
    with (top / "disks/disk0").open("rb") as file:
        assert file.read(2 * MIB) == expected


def test_a_path_of_a_socket_is_taken_from_here(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "socket") as sock, serving(sock, *nbdkit(disk)):
        argv = [*mntapi.argv, "mount", "nbd+unix:///?socket=socket", str(target)]
        subprocess.run(argv, env=mntapi.environment, cwd=tmp_path, check=True, timeout=60)
        assert mntapi.json("ps")[0]["disks"] == [f"nbd+unix:///?socket={tmp_path}/socket"]
        assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
        mntapi("umount", target)


@pytest.mark.parametrize("scheme", ["nbd", "http"])
def test_an_overlay(mntapi, disk: RealDisk, target: Path, tmp_path: Path, web: FakeWeb, stack: ExitStack, scheme: str) -> None:
    """What is written is in a QCOW2 file that qemu-img opens, original included, and that can be gone on with."""
    if scheme == "nbd":
        stack.enter_context(serving(stack.enter_context(listen_unix(tmp_path / "socket")), *nbdkit(disk)))
        url = f"nbd+unix:///?socket={tmp_path}/socket"
    else:
        web.content = disk.raw.read_bytes()
        url = web.url("/disk")
    overlay = tmp_path / "changes.qcow2"
    expected = bytearray(disk.raw.read_bytes())
    for number in (1, 2):
        mntapi("mount", "--layout", "blocks", "--overlay", overlay, url, target)
        with (target / "disks/disk0").open("r+b") as file:
            file.seek(number * 5 * MIB + 100)
            file.write(b"changed")
            file.flush()
            os.fsync(file.fileno())
        expected[number * 5 * MIB + 100 : number * 5 * MIB + 107] = b"changed"
        mntapi("umount", target)
    assert mntapi.json("overlay", "info", overlay)["original"] == url
    (tmp_path / "expected").write_bytes(expected)
    mntapi("overlay", "commit", "-q", "--allow-outside", "--to", tmp_path / "full.raw", overlay)
    assert digest(tmp_path / "full.raw") == hashlib.sha256(expected).hexdigest()
    if scheme == "nbd":
        run("qemu-img", "check", "-f", "qcow2", overlay)
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", overlay, tmp_path / "expected")


def test_an_overlay_in_memory_by_the_kernel(mounted, disk: RealDisk, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "socket") as sock, serving(sock, *nbdkit(disk)):
        top = mounted("--via", "kernel", "--overlay", "memory", "--volume", "disk0p1", f"nbd+unix:///?socket={tmp_path}/socket")
        (top / "new").write_text("written")
        os.sync()
        assert (top / "new").read_text() == "written" and (top / "etc/hostname").read_text() == "web01\n"
        subprocess.run(["umount", top], check=True)


# --- servers that go away ---


def hangs_up(handler: Handler, content: bytes, start: int, end: int) -> None:
    handler.part(content, start, end, {"Connection": "close"})
    handler.close_connection = True


def test_a_web_server_that_hangs_up_after_each_answer(mounted, disk: RealDisk, web: FakeWeb) -> None:
    web.always = hangs_up
    top = mounted("--layout", "blocks", web.url())
    assert digest(top / "disks/disk0") == digest(disk.raw)
    assert web.connections > 4


def test_an_nbd_server_that_is_restarted(mntapi, mounted, disk: RealDisk, tmp_path: Path) -> None:
    """A read waits for it; what was not read before it went is right afterwards."""
    path = tmp_path / "socket"
    with listen_unix(path) as sock, serving(sock, *nbdkit(disk)):
        top = mounted("--layout", "blocks", f"nbd+unix:///?socket={path}")
    path.unlink()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(digest, top / "disks/disk0")
        with listen_unix(path) as sock, serving(sock, *nbdkit(disk)):
            assert reading.result(60) == digest(disk.raw)


def test_a_server_that_stays_away_and_one_day_comes_back(mntapi, mounted, impatient, disk: RealDisk, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen_unix(path) as sock, serving(sock, *nbdkit(disk)):
        top = mounted("--layout", "blocks", f"nbd+unix:///?socket={path}")
    whole = top / "disks/disk0"
    assert eio(whole, 8 * MIB) and eio(whole, 8 * MIB)  # the socket is there and nobody listens
    path.unlink()
    assert eio(whole, 8 * MIB)
    with listen_unix(path) as sock, serving(sock, *nbdkit(disk)):
        assert read_direct(whole, 8 * MIB, 4096) == disk.raw.read_bytes()[8 * MIB :][:4096]
        assert digest(whole) == digest(disk.raw)


NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    keepalive_timeout 1s;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_killed_and_started_again(mntapi, mounted, impatient, disk: RealDisk, tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(_CONFIGURATION.format(folder=tmp_path, port=port, root=disk.vmdk.parent))
    nginx = start_nginx(tmp_path, port)
    try:
        top = mounted("--layout", "blocks", f"http://127.0.0.1:{port}/{disk.raw.name}")
        whole = top / "disks/disk0"
        nginx.kill()
        nginx.wait()
        assert eio(whole, 20 * MIB)
        nginx = start_nginx(tmp_path, port)
        assert digest(whole) == digest(disk.raw)
    finally:
        nginx.kill()
        nginx.wait()


def start_nginx(folder: Path, port: int) -> subprocess.Popen[bytes]:
    argv = [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_for(answers, "nginx")
    return process


def test_a_file_that_changes_on_the_server(mntapi, mounted, disk: RealDisk, web: FakeWeb) -> None:
    """An I/O error, and never a mixture; and it is seen from outside."""
    web.content = disk.raw.read_bytes()  # raw: each range is asked for
    top = mounted("--layout", "blocks", web.url("/disk"))
    whole = top / "disks/disk0"
    web.content, web.headers = bytes(len(web.content)), {"ETag": '"v2"'}
    assert eio(whole, 20 * MIB) and eio(whole, 24 * MIB)
    [told] = mntapi.json("ps")
    assert told["state"] == "impaired" and "changed on the server" in told["reason"] and web.url("/disk") in told["reason"]


def test_a_server_that_says_nothing_does_not_keep_a_mount(mntapi, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "socket") as sock, serving(sock, *nbdkit(disk)) as server:
        mntapi("mount", "--layout", "blocks", f"nbd+unix:///?socket={tmp_path}/socket", target)
        (target / "disks/disk0").stat()  # how much of it is stored, which is asked of the server once
        server.send_signal(signal.SIGSTOP)
        reader = subprocess.Popen(["cat", target / "disks/disk0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: is_open(reader, target / "disks/disk0"), "the reader")
            assert str(reader.pid) in mntapi("umount", target, code=5).stderr
            mntapi("umount", "--force", target)
        finally:
            reader.kill()
            reader.wait()
    assert mntapi.json("ps") == []


def test_a_server_that_accepts_and_says_nothing_is_seen(mntapi, mounted, impatient, disk: RealDisk, tmp_path: Path) -> None:
    with listen_unix(tmp_path / "socket") as sock, serving(sock, *nbdkit(disk)) as server:
        top = mounted("--layout", "blocks", f"nbd+unix:///?socket={tmp_path}/socket")
        server.send_signal(signal.SIGSTOP)
        try:
            assert eio(top / "disks/disk0", 40 * MIB)
            [told] = mntapi.json("ps")
            assert told["state"] == "impaired" and "did not answer" in told["reason"] and "/socket" in told["reason"]
        finally:
            server.send_signal(signal.SIGCONT)
        assert not eio(top / "disks/disk0", 40 * MIB)
        assert mntapi.json("ps")[0]["state"] == "ready"


# --- processes that go away ---


def test_a_worker_that_is_killed_takes_its_dialer_with_it(mntapi, disk: RealDisk, target: Path, web: FakeWeb) -> None:
    mntapi("mount", web.url(), target)
    [worker], [dialer] = mntapi.workers(), dialers(mntapi)
    worker.kill()
    wait_for(lambda: not dialers(mntapi), f"the end of {dialer}")
    assert mntapi.json("ps")[0]["state"] == "dead"
    mntapi("clean")
    assert mntapi.json("ps") == []


def test_a_dialer_that_is_killed(mntapi, mounted, impatient, disk: RealDisk, web: FakeWeb) -> None:
    """Reading goes on over the connections there are; a new one is an I/O error. umount works."""
    web.content = disk.raw.read_bytes()
    top = mounted("--layout", "blocks", web.url("/disk"))
    whole = top / "disks/disk0"
    [dialer] = dialers(mntapi)
    dialer.kill()
    wait_for(lambda: not dialers(mntapi), "the end of the dialer")
    [told] = mntapi.json("ps")
    assert told["state"] == "impaired" and f"dialer (pid {dialer.pid}) has ended" in told["reason"]
    assert told["reason"] in mntapi("ps").stdout
    assert read_direct(whole, 0, 4096) == disk.raw.read_bytes()[:4096]
    web.always = hangs_up
    read_direct(whole, 8 * MIB, MIB)
    assert eio(whole, 40 * MIB)
    log = (mntapi.run_dir / told["id"] / "worker.log").read_text()
    assert f"{web.url('/disk')}: the process that makes connections is gone (at byte {40 * MIB})" in log


def test_a_command_that_is_killed_leaves_what_clean_takes_away(mntapi, disk: RealDisk, target: Path, web: FakeWeb) -> None:
    """It waits for the worker, which waits for the server."""
    web.always = lambda handler, *_: time.sleep(5)
    command = mntapi.start("mount", web.url(), target, stderr=subprocess.DEVNULL)
    wait_for(lambda: dialers(mntapi) and web.requests, "the mount to begin")
    command.kill()
    command.wait()
    mntapi("clean")
    assert mntapi.json("ps") == []
    assert dialers(mntapi) == [] and mntapi.workers() == []


# --- what is refused ---


def test_a_redirect_to_another_server(mntapi, disk: RealDisk, target: Path, web: FakeWeb) -> None:
    other = FakeWeb(web.content)
    try:
        web.always = redirect(other.url())
        refused = mntapi("mount", web.url(), target, code=6).stderr
        assert f"127.0.0.1:{other.port}" in refused and "--allow-outside" in refused
        mntapi("mount", "--allow-outside", web.url(), target)
        assert (target / "disk0p1/etc/hostname").read_text() == "web01\n"
        mntapi("umount", target)
    finally:
        other.stop()


def redirect(target: str) -> Fault:
    return lambda handler, *_: handler.answer(302, b"", {"Location": target})


def test_a_local_disk_that_names_one_on_a_server(mntapi, disk: RealDisk, target: Path, tmp_path: Path, web: FakeWeb) -> None:
    child = tmp_path / "child.qcow2"
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", web.url(), "-F", "vmdk", child, "64M")
    assert "--parent" in mntapi("mount", child, target, code=6).stderr
    assert web.requests == []


def test_what_is_not_there(mntapi, target: Path, tmp_path: Path, web: FakeWeb) -> None:
    mntapi("mount", f"nbd+unix:///?socket={tmp_path}/absent", target, code=9)
    mntapi("mount", "http://no-such-host.invalid/disk", target, code=9)
    web.always = lambda handler, *_: handler.answer(404, b"")
    mntapi("mount", web.url(), target, code=4)
    mntapi("mount", "ftp://127.0.0.1/disk", target, code=7)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        refused = mntapi("mount", f"nbd://127.0.0.1:{sock.getsockname()[1]}", target, code=9).stderr
        assert "refused" in refused and "is the server running" in refused
    assert mntapi.json("ps") == []


# --- secrets and encryption ---


def test_a_password_is_nowhere_to_be_seen(mntapi, mounted, disk: RealDisk, web: FakeWeb) -> None:
    top = mounted("--layout", "blocks", web.url(user="ann:hush@"))
    assert web.requests[0][1]["Authorization"].startswith("Basic ")
    shown = [
        mntapi("ps").stdout,
        Path("/proc/self/mountinfo").read_text(),
        *(path.read_text() for path in mntapi.run_dir.glob("*/*")),
    ]
    shown += [" ".join(process.cmdline()) for process in (*mntapi.workers(), *dialers(mntapi))]
    assert not [text for text in shown if "hush" in text]
    assert (top / "disks/disk0").stat().st_size == disk.raw.stat().st_size


def test_https(mntapi, mounted, disk: RealDisk, target: Path, tmp_path: Path) -> None:
    need("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run(*make, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web = FakeWeb(disk.vmdk.read_bytes(), context)
    try:
        assert "SSL_CERT_FILE" in mntapi("mount", web.url(), target, code=6).stderr
        mntapi.environment["SSL_CERT_FILE"] = str(certificate)
        web.always = hangs_up
        top = mounted("--layout", "blocks", web.url())
        certificate.unlink()
        assert digest(top / "disks/disk0") == digest(disk.raw)
        [one] = mntapi.json("ps")
        assert one["memory"] < 64 * MIB
    finally:
        web.stop()
