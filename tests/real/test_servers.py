"""Disks on servers as sets. Oracles: the disk that qemu-nbd and nginx serve."""

from __future__ import annotations

import http.server
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from contract.make_disk import RealDisk, need


@pytest.fixture
def nbd(disk: RealDisk, tmp_path: Path) -> Iterator[str]:
    need("qemu-nbd")
    socket = tmp_path / "nbd.sock"
    server = subprocess.Popen(
        ["qemu-nbd", "--read-only", "--persistent", "--shared=8", "-f", "vmdk", f"--socket={socket}", disk.vmdk]
    )
    while not socket.exists():
        assert server.poll() is None, "qemu-nbd ended"
        time.sleep(0.02)
    yield f"nbd+unix:///?socket={socket}"
    server.terminate()
    server.wait()


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Just enough of Range: one range, from a file that does not change."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        body = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def log_message(self, *_: object) -> None:
        """Nothing on the test's standard error."""


@pytest.fixture
def http_url(disk: RealDisk) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(disk.vmdk.parent))) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/web01.vmdk"
        server.shutdown()
        thread.join()


def test_an_nbd_export(mntapi, nbd: str, disk: RealDisk, tmp_path: Path) -> None:
    assert [volume["filesystem"] for volume in mntapi.json("info", nbd)["volumes"]] == ["ext4", "ntfs"]
    mntapi("cp", nbd, "/disk0p2/budget.csv", tmp_path)
    assert (tmp_path / "budget.csv").read_bytes() == disk.budget


def test_a_vmdk_on_a_web_server(mntapi, http_url: str) -> None:
    info = mntapi.json("info", http_url)
    assert (info["disks"][0]["format"], info["disks"][0]["path"]) == ("vmdk", http_url)
    assert mntapi("cat", http_url, "/disk0p1/etc/hostname").stdout == "web01\n"


def test_what_is_not_there_and_what_cannot_be_read(mntapi, tmp_path: Path) -> None:
    mntapi("info", f"nbd+unix:///?socket={tmp_path}/absent", code=9)
    mntapi("info", "ftp://127.0.0.1/disk.vmdk", code=7)
