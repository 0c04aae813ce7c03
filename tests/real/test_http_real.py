"""Disks that nginx serves. Oracle: the file it serves."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.blocks_contract import check_blocks
from mntapi.blocks import read
from mntapi.errors import Denied, NotFound, ReadFailed
from mntapi.kernel import sandbox
from mntapi.remote import Endpoint, dial, open_remote
from mntapi.units import MIB
from real.network_servers import listen_tcp, serving

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
        listen 127.0.0.1:{port};
        root {folder}/www;
        keepalive_requests {requests};
        location /secret/ {{ auth_basic "x"; auth_basic_user_file {folder}/users; }}
        location /moved/ {{ return 302 /disk.raw; }}
        location /ranges/ {{ max_ranges 0; alias {folder}/www/; }}
    }}
}}
"""


@pytest.fixture(params=[1000, 3], ids=["keep-alive", "hangs up after three"])
def nginx(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Its URL. It takes a socket over as it does in an upgrade of itself: descriptors in the variable NGINX."""
    (tmp_path / "www" / "secret").mkdir(parents=True)
    (tmp_path / "www" / "disk.raw").write_bytes(CONTENT)
    (tmp_path / "www" / "secret" / "disk.raw").write_bytes(CONTENT)
    (tmp_path / "users").write_text("user:{PLAIN}pass word\n")
    with listen_tcp() as sock:
        sock.setblocking(False)  # as nginx itself would make it
        port = sock.getsockname()[1]
        configuration = _CONFIGURATION.format(folder=tmp_path, port=port, requests=request.param)
        (tmp_path / "nginx.conf").write_text(configuration)
        argv = (NGINX, "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log")
        with serving(sock, *argv, inherit=True, NGINX=f"{sock.fileno()};"):
            yield f"http://127.0.0.1:{port}"


def test_contract(nginx: str) -> None:
    blocks = open_remote(f"{nginx}/disk.raw")
    check_blocks(blocks, CONTENT, ranges=100)
    blocks.close()


def test_redirect_password_and_what_is_not_there(nginx: str) -> None:
    assert read(open_remote(f"{nginx}/moved/"), 10, 10) == CONTENT[10:20]
    with pytest.raises(NotFound):
        open_remote(f"{nginx}/none.raw")
    with pytest.raises(Denied):
        open_remote(f"{nginx}/secret/disk.raw")
    url = f"{nginx.replace('//', '//user:pass%20word@')}/secret/disk.raw"
    assert read(open_remote(url), 10, 10) == CONTENT[10:20]


def test_a_file_that_is_replaced(nginx: str, tmp_path: Path) -> None:
    """By another of the same size: its date is another, so its ETag is."""
    blocks = open_remote(f"{nginx}/disk.raw")
    assert read(blocks, 0, 10) == CONTENT[:10]
    disk = tmp_path / "www" / "disk.raw"
    (tmp_path / "new").write_bytes(CONTENT[::-1])
    os.utime(tmp_path / "new", (disk.stat().st_mtime + 10,) * 2)
    (tmp_path / "new").rename(disk)
    with pytest.raises(ReadFailed, match="changed") as caught:
        read(blocks, 2 * MIB, 10)
    assert caught.value.reason == "changed"


_CONFINED = """
import hashlib, socket, sys
from mntapi.blocks import read
from mntapi.kernel.sandbox import confine
from mntapi.remote import HttpBlocks, tls_context
from mntapi.remote.wire import ConnectionLost
url, *fds = sys.argv[1:]
sockets = [socket.socket(fileno=int(fd)) for fd in fds]
tls_context()
confine(memory_limit=1 << 30)
def connect(endpoint):
    if not sockets:
        raise ConnectionLost("no more sockets")
    return sockets.pop()
blocks = HttpBlocks.open(url, connect=connect, eager=True)
parts = [read(blocks, at, min(65536, blocks.size - at)) for at in range(0, blocks.size, 65536)]
print(hashlib.sha256(b"".join(parts)).hexdigest())
"""


def _can_confine() -> bool:
    test = "from mntapi.kernel.sandbox import confine; confine(memory_limit=1 << 30)"
    return subprocess.run([sys.executable, "-c", test], capture_output=True).returncode == 0


@pytest.mark.skipif(not hasattr(sandbox, "confine") or not _can_confine(), reason="needs a kernel that can confine")
def test_a_confined_process_with_sockets_from_outside(nginx: str) -> None:
    sockets: list[socket.socket] = [dial(Endpoint("127.0.0.1", int(nginx.rpartition(":")[2]))) for _ in range(4)]
    fds = [sock.fileno() for sock in sockets]
    argv = [sys.executable, "-c", _CONFINED, f"{nginx}/disk.raw", *map(str, fds)]
    done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, timeout=60)
    for sock in sockets:
        sock.close()
    assert done.stdout.strip() == hashlib.sha256(CONTENT).hexdigest(), done.stderr
