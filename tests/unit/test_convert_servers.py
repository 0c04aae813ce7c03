"""Converting disks on servers: what takes the time is the way there and back, so several reads are under way at once."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.nbd_fake import URL, FakeNbd
from mntapi.cli import convert as verb
from mntapi.cli.main import run as mntapi
from mntapi.export import ConvertOptions, convert
from mntapi.export.batches import BATCH, SERVER_READERS
from mntapi.images.opener import DirectOpener
from mntapi.remote import nbd_protocol, opener
from mntapi.remote.opener import RemoteOpener
from mntapi.session.diskset import DiskSet, open_disks

CONTENT = random.Random(6).randbytes(4 * SERVER_READERS * BATCH)


@pytest.fixture
def server() -> Iterator[FakeNbd]:
    fake = FakeNbd(CONTENT)
    yield fake
    fake.stop()


def opened(server: FakeNbd) -> DiskSet:
    return open_disks(URL, opener=RemoteOpener(DirectOpener(), connect=server.connect))


def test_several_reads_are_under_way(server: FakeNbd, tmp_path: Path) -> None:
    """The server answers when as many reads as there are connections have come: one after the other they would never end."""
    together = threading.Barrier(SERVER_READERS, timeout=60)

    def read(connection: socket.socket, *request: int) -> None:
        together.wait()
        server.read(connection, *request)

    with opened(server) as disk_set:
        server.on_read = read
        convert(disk_set.disks[0].blocks, str(tmp_path / "out"), ConvertOptions("raw", readers=SERVER_READERS))
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_looking_for_volumes_reads_each_place_once(server: FakeNbd) -> None:
    """But for telling the format, which comes before: a sector at either end."""
    with opened(server) as disk_set:
        disk_set.content(disk_set.volumes[0])
    reads = [(offset, length) for kind, offset, length in server.requests if kind == nbd_protocol.CMD_READ]
    assert len(reads) == len(set(reads)) and len(reads) < 24


@pytest.mark.parametrize(("is_remote", "readers"), [(True, SERVER_READERS), (False, 1)])
def test_the_verb_knows_where_the_disk_is(
    is_remote: bool, readers: int, server: FakeNbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ConvertOptions] = []

    def watched(source: Any, path: str, options: ConvertOptions, **more: Any) -> Any:
        seen.append(options)
        return convert(source, path, options, **more)

    monkeypatch.setattr(verb, "convert", watched)
    monkeypatch.setattr(opener.open_remote, "__kwdefaults__", {"connect": server.connect})
    monkeypatch.setattr(RemoteOpener.__init__, "__kwdefaults__", {"allow_outside": False, "connect": server.connect})
    (tmp_path / "disk.raw").write_bytes(CONTENT)
    disk = URL if is_remote else tmp_path / "disk.raw"
    assert mntapi(["convert", str(disk), str(tmp_path / "out"), "--format", "raw", "--quiet"]) == 0
    assert [options.readers for options in seen] == [readers] and (tmp_path / "out").read_bytes() == CONTENT
