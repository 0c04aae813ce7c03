"""Disks that nginx serves. Oracle: the file it serves."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from mntapi.blocks import read
from mntapi.errors import Denied, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.images.formats import open_image
from mntapi.images.opener import DirectOpener
from mntapi.kernel import sandbox
from mntapi.remote.dial import Connector, dial
from mntapi.remote.opener import RemoteOpener, open_remote
from mntapi.remote.urls import Endpoint
from mntapi.types import DiskSpec
from mntapi.units import MIB

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")

CONTENT = random.Random(4).randbytes(4 * MIB + 777)
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{
        listen unix:{folder}/socket;
        root {folder}/www;
        keepalive_requests {requests};
        location /secret/ {{ auth_basic "x"; auth_basic_user_file {folder}/users; }}
        location /moved/ {{ return 302 /disk.raw; }}
        location /whole/ {{ max_ranges 0; alias {folder}/www/; }}
    }}
}}
"""


@pytest.fixture(params=[1000, 3], ids=["keep-alive", "hangs up after three"])
def nginx(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Connector]:
    """How to connect to it: it listens on a Unix socket, whatever host the URL names."""
    (tmp_path / "www" / "secret").mkdir(parents=True)
    (tmp_path / "www" / "disk.raw").write_bytes(CONTENT)
    (tmp_path / "www" / "secret" / "disk.raw").write_bytes(CONTENT)
    (tmp_path / "users").write_text("user:{PLAIN}pass word\n")
    (tmp_path / "nginx.conf").write_text(_CONFIGURATION.format(folder=tmp_path, requests=request.param))
    argv = (NGINX, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log")
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connect(endpoint: Endpoint) -> socket.socket:
        return dial(Endpoint("", 0, f"{tmp_path}/socket"))

    try:
        _wait_for(connect, process)
        yield connect
    finally:
        process.kill()
        process.wait()


def _wait_for(connect: Connector, process: subprocess.Popen[bytes]) -> None:
    """Until it listens; it cannot be given a listening socket."""
    while process.poll() is None:
        try:
            connect(Endpoint("", 0)).close()
            return
        except MntapiError:
            time.sleep(0.01)
    pytest.fail("nginx ended")


def test_contract(nginx: Connector) -> None:
    blocks = open_remote("http://nginx.example/disk.raw", connect=nginx)
    check_blocks(blocks, CONTENT, ranges=100)
    blocks.close()


def test_redirect_password_and_what_is_not_there(nginx: Connector) -> None:
    assert read(open_remote("http://nginx.example/moved/", connect=nginx), 10, 10) == CONTENT[10:20]
    with pytest.raises(NotFound):
        open_remote("http://nginx.example/none.raw", connect=nginx)
    with pytest.raises(Denied):
        open_remote("http://nginx.example/secret/disk.raw", connect=nginx)
    with pytest.raises(Unsupported, match="whole files only"):
        open_remote("http://nginx.example/whole/disk.raw", connect=nginx)
    url = "http://user:pass%20word@nginx.example/secret/disk.raw"
    assert read(open_remote(url, connect=nginx), 10, 10) == CONTENT[10:20]


def test_a_file_that_is_replaced(nginx: Connector, tmp_path: Path) -> None:
    """By another of the same size: its date is another, so its ETag is."""
    blocks = open_remote("http://nginx.example/disk.raw", connect=nginx)
    assert read(blocks, 0, 10) == CONTENT[:10]
    disk = tmp_path / "www" / "disk.raw"
    (tmp_path / "new").write_bytes(CONTENT[::-1])
    os.utime(tmp_path / "new", (disk.stat().st_mtime + 10,) * 2)
    (tmp_path / "new").rename(disk)
    with pytest.raises(ReadFailed, match="changed") as caught:
        read(blocks, 2 * MIB, 10)
    assert caught.value.reason == "changed"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
def test_a_disk_of_two_files(nginx: Connector, tmp_path: Path) -> None:
    """A VMDK whose descriptor names its extent, which is fetched from beside it."""
    (tmp_path / "raw").write_bytes(CONTENT[: 2 * MIB])
    vmdk = tmp_path / "www" / "vm" / "two files.vmdk"
    vmdk.parent.mkdir()
    subset = ("-O", "vmdk", "-o", "subformat=monolithicFlat")
    subprocess.run(["qemu-img", "convert", "-f", "raw", *subset, tmp_path / "raw", vmdk], check=True)
    opener = RemoteOpener(DirectOpener(), connect=nginx)
    image = open_image(DiskSpec("http://nginx.example/vm/two%20files.vmdk"), opener)
    check_blocks(image.blocks, CONTENT[: 2 * MIB], ranges=20)
    assert image.chain[0].file == "http://nginx.example/vm/two%20files.vmdk"
    image.blocks.close()
    vmdk.write_text(vmdk.read_text().replace("two files-flat.vmdk", "../disk.raw"))
    with pytest.raises(Denied, match="outside"):
        open_image(DiskSpec("http://nginx.example/vm/two%20files.vmdk"), opener)


_CONFINED = """
import hashlib, socket, sys
from mntapi.blocks import read
from mntapi.kernel.sandbox import confine
from mntapi.remote.http import HttpBlocks
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.wire import tls_context
url, *fds = sys.argv[1:]
sockets = [socket.socket(fileno=int(fd)) for fd in fds]
tls_context()
confine(memory_limit=1 << 30)
def connect(endpoint):
    if not sockets:
        raise ConnectionLost("no more sockets")
    return sockets.pop()
blocks = HttpBlocks.open(url, connect=connect)
parts = [read(blocks, at, min(65536, blocks.size - at)) for at in range(0, blocks.size, 65536)]
print(hashlib.sha256(b"".join(parts)).hexdigest())
"""


def _can_confine() -> bool:
    test = "from mntapi.kernel.sandbox import confine; confine(memory_limit=1 << 30)"
    return subprocess.run([sys.executable, "-c", test], capture_output=True).returncode == 0


@pytest.mark.skipif(not hasattr(sandbox, "confine") or not _can_confine(), reason="needs a kernel that can confine")
def test_a_confined_process_with_sockets_from_outside(nginx: Connector, request: pytest.FixtureRequest) -> None:
    if "keep-alive" not in request.node.name:
        pytest.skip("four sockets are too few where one serves three requests")
    sockets = [nginx(Endpoint("", 0)) for _ in range(4)]
    fds = [sock.fileno() for sock in sockets]
    argv = [sys.executable, "-c", _CONFINED, "http://nginx.example/disk.raw", *map(str, fds)]
    done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, timeout=60)
    for sock in sockets:
        sock.close()
    assert done.stdout.strip() == hashlib.sha256(CONTENT).hexdigest(), done.stderr
