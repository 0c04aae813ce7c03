"""URLs of disks: the examples of the NBD URI document and of RFC 3986, secrets, and which files a disk may name."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.nbd_fake import FakeNbd
from mntapi.blocks import HostFile, read
from mntapi.errors import Denied, Invalid, MntapiError, ReadFailed, Unsupported
from mntapi.remote.dial import dial
from mntapi.remote.opener import RemoteOpener, open_remote
from mntapi.remote.urls import Endpoint, Url, is_url, neighbour, redacted
from mntapi.types import FileBlocks


@pytest.mark.parametrize(
    ("text", "export"),
    [
        ("nbd://example.com/disk", "disk"),
        ("nbd+unix:///disk?socket=sock", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
    ],
)
def test_export_names_of_the_nbd_uri_document(text: str, export: str) -> None:
    assert Url.parse(text).export == export


@pytest.mark.parametrize(
    ("text", "endpoint", "encrypted"),
    [
        ("nbd://example.com", Endpoint("example.com", 10809), False),
        ("NBD://Example.COM:99/x", Endpoint("example.com", 99), False),
        ("nbds://[::1]/x", Endpoint("::1", 10809), True),
        ("nbd+unix:///?socket=%00/abstract", Endpoint("", 0, "\0/abstract"), False),
        ("nbds+unix:///x?socket=/run/nbd.sock&tls-hostname=h", Endpoint("", 0, "/run/nbd.sock"), True),
        ("http://example.com/d", Endpoint("example.com", 80), False),
        ("https://example.com/d", Endpoint("example.com", 443), True),
        ("https://u:p@example.com:8443/d", Endpoint("example.com", 8443), True),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint, encrypted: bool) -> None:
    url = Url.parse(text)
    assert (url.endpoint, url.is_encrypted) == (endpoint, encrypted)


def test_tls_hostname() -> None:
    assert Url.parse("nbds+unix:///x?socket=/s&tls-hostname=h.example").tls_hostname == "h.example"
    assert Url.parse("nbds://h.example").tls_hostname == "h.example"
    assert Url.parse("https://h.example/?tls-hostname=other").tls_hostname == "h.example"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("http://", Invalid),
        ("nbd:///disk", Invalid),
        ("http://[::1/disk", Invalid),
        ("http://h:99999/disk", Invalid),
        ("http://h:x/disk", Invalid),
        ("http://" + "a" * 64 + ".example/disk", Invalid),
        ("http://h/a\nb", Invalid),
        ("http://h/a b\0", Invalid),
        ("http://h/disk#1.vmdk", Invalid),
        ("ftp://h/disk", Unsupported),
        ("file:///disk", Unsupported),
        ("nbd+unix:///disk", Invalid),
        ("nbd+unix://h/disk?socket=/s", Invalid),
        ("nbd://h/disk?sokcet=/s", Unsupported),
        ("nbds://h/disk?tls-type=psk", Unsupported),
        ("nbds://h/disk?tls-verify-peer=0", Unsupported),
        ("nbd://user@h/disk", Unsupported),
        ("nbd://h/a%00b", Invalid),
        ("nbd://h/" + "x" * 4097, Invalid),
    ],
)
def test_what_is_no_url_of_a_disk(text: str, error: type[MntapiError]) -> None:
    with pytest.raises(error) as caught:
        Url.parse(text)
    assert caught.value.path is not None
    assert str(caught.value).isprintable()


def test_is_url() -> None:
    assert all(map(is_url, ("nbd://h", "HTTPS://h/x", "nbd+unix:///x?socket=s", "ftp://h", "s3://bucket/x")))
    assert not any(map(is_url, ("disk.vmdk", "/disk", "C:/disk", "http:/x", "a b://c", "", "://x", "[datastore] http://")))


@pytest.mark.parametrize(
    "text",
    [
        "http://user:secret@h.example:8080/dir/disk.vmdk?sig=secret&X-Amz-Signature=secret",
        "http://user:sec@ret@h.example/disk?secret",
        "https://secret@h.example/",
        "http://user:secret/secret@h.example/disk",
        "http://user:secret@h.example:port/disk",
        "http://user:secret@[::1/disk?token=secret",
        "http://user:secret\n@h.example/disk",
        "ftp://user:secret@h.example/disk",
        "nbd://user:secret@h.example/disk",
        "http://user:secret@h.example/disk#1",
    ],
)
def test_no_message_holds_a_secret(text: str) -> None:
    try:
        url = Url.parse(text)
        shown = url.display + repr(url)
    except MntapiError as error:
        shown = str(error) + repr(error) + repr(error.__cause__) + str(error.hint)
    assert "secret" not in shown
    assert "secret" not in redacted(text)


def test_display_is_what_tells_disks_apart() -> None:
    assert Url.parse("http://u:p@h:8080/a%20b/d.vmdk?id=7&sig=x").display == "http://h:8080/a%20b/d.vmdk?id=***&sig=***"
    assert Url.parse("nbd+unix:///d?socket=/run/x.sock").display == "nbd+unix:///d?socket=/run/x.sock"
    assert Url.parse("https://[::1]:443/d").display == "https://[::1]/d"
    assert Url.parse("http://u:p%40@h/d?x=1").text == "http://u:p%40@h/d?x=1"


def test_request_targets() -> None:
    assert Url.parse("http://h").target == "/"
    assert Url.parse("http://h/a b/\u00e4%20c?q=1&r=a b").target == "/a%20b/%C3%A4%20c?q=1&r=a%20b"


# --- neighbours ---


@pytest.mark.parametrize(
    ("url", "name", "expected"),
    [
        ("http://h/dir/disk.vmdk", "disk-flat.vmdk", "http://h/dir/disk-flat.vmdk"),
        ("http://h/dir/disk.vmdk", "sub/x.vmdk", "http://h/dir/sub/x.vmdk"),
        ("http://h/dir/disk.vmdk", "./x/../disk-flat.vmdk", "http://h/dir/disk-flat.vmdk"),
        ("http://h/dir/disk.vmdk", "/dir/base.vmdk", "http://h/dir/base.vmdk"),
        ("http://h/dir/disk.vmdk", "http://h:80/dir/base.qcow2", "http://h/dir/base.qcow2"),
        ("http://u:p@h:81/my%20dir/disk.vmdk?sig=1", "a b#1?%.vmdk", "http://u:p@h:81/my%20dir/a%20b%231%3F%25.vmdk"),
        ("http://h/disk.vmdk", "..disk.vmdk", "http://h/..disk.vmdk"),
        ("http://h", "disk.vmdk", "http://h/disk.vmdk"),
        ("http://h/disk.vmdk", "../x", "http://h/x"),  # RFC 3986 section 5.2.4: nothing is above the top
        ("http://h/a%2Fb/disk", "x", "http://h/a%2Fb/x"),
        ("nbd://h/disk.vmdk", "disk-flat.vmdk", "nbd://h/disk-flat.vmdk"),
        ("nbd+unix:///d/a.vmdk?socket=/s", "b.vmdk", "nbd+unix:///d/b.vmdk?socket=/s"),
    ],
)
def test_neighbours(url: str, name: str, expected: str) -> None:
    assert neighbour(url, name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "x/../../secret",
        "/secret",
        "//evil.example/secret",
        "/directory",
        ".",
        "..",
        "/",
        "sub/..",
        "http://evil.example/dir/x",
        "https://h/dir/x",
        "http://h:8080/dir/x",
        "http://h/x",
        "http://h/dir/../x",
        "http://h/dir/%2e%2e/x",
        "http://h/dir/x?query",
        "nbd://h/dir/x",
        "nbd+unix:///dir/x?socket=/run/secret.sock",
    ],
)
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(Denied, match="outside") as caught:
        neighbour("http://u:hush@h/dir/disk.vmdk", name)
    assert caught.value.reason == "outside"
    assert "hush" not in str(caught.value)


def test_names_that_lead_out_when_allowed() -> None:
    base = "http://u:p@h/dir/disk.vmdk"
    assert neighbour(base, "../x", allow_outside=True) == "http://u:p@h/x"
    assert neighbour(base, "/x/y", allow_outside=True) == "http://u:p@h/x/y"
    assert neighbour(base, "//x", allow_outside=True) == "http://u:p@h/x"
    assert neighbour(base, "nbd://other.example/x", allow_outside=True) == "nbd://other.example/x"


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb"])
def test_names_no_file_can_have(name: str) -> None:
    with pytest.raises(Invalid):
        neighbour("http://h/d", name)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="./%2eEfF\\:ah?#@", max_size=20))
def test_no_name_leads_out(name: str) -> None:
    try:
        result = neighbour("http://u:p@h.example/dir/disk.vmdk", name)
    except MntapiError:
        return
    url = Url.parse(result)
    assert url.endpoint == Endpoint("h.example", 80)
    assert url.path.startswith("/dir/")
    assert ".." not in url.export.split("/")


# --- opening ---


class _Local:
    """Stands for the opener of files."""

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        return HostFile.open(name)


def test_opener(tmp_path: Path) -> None:
    server = FakeNbd()
    asked: list[Endpoint] = []

    def connect(endpoint: Endpoint) -> socket.socket:
        asked.append(endpoint)
        return server.connect(endpoint)

    (tmp_path / "file").write_bytes(b"local")
    opener = RemoteOpener(_Local(), connect=connect)
    try:
        assert read(opener.open(str(tmp_path / "file")), 0, 5) == b"local"
        assert not asked
        disk = opener.open("nbd://h.example/dir/disk.vmdk")
        assert disk.path == "nbd://h.example/dir/disk.vmdk"
        extent = opener.open("disk-flat.vmdk", relative_to=disk.path)
        assert extent.path == "nbd://h.example/dir/disk-flat.vmdk"
        assert read(extent, 0, 10) == server.content[:10]
        assert asked == [Endpoint("h.example", 10809)] * 2
        with pytest.raises(Denied, match="outside"):
            opener.open("/etc/shadow", relative_to=disk.path)
        with pytest.raises(Denied, match="names a disk on a server") as caught:
            opener.open("nbd://h.example/x", relative_to=str(tmp_path / "file"))
        assert caught.value.reason == "outside"
        trusting = RemoteOpener(_Local(), connect=connect, allow_outside=True)
        assert trusting.open("nbd://h.example/x", relative_to=str(tmp_path / "file")).size == server.size
    finally:
        server.stop()


def test_the_opener_remembers_what_it_does_not_show() -> None:
    """A neighbour is asked for with the credentials of the disk that names it."""
    opener = RemoteOpener(_Local())
    opener._secrets["http://h.example/dir/disk.vmdk"] = "http://u:p@h.example/dir/disk.vmdk"
    with pytest.raises(Denied, match="outside"):
        opener.open("../x", relative_to="http://h.example/dir/disk.vmdk")


# --- connecting ---


def test_where_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ReadFailed, match="no socket"):
        open_remote(f"nbd+unix:///?socket={tmp_path}/none")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/deaf")
        with pytest.raises(MntapiError, match="Connection refused") as caught:
            open_remote(f"nbd+unix:///?socket={tmp_path}/deaf")
        assert caught.value.reason == "unreachable"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(MntapiError, match="Connection refused"):
            open_remote(f"nbd://127.0.0.1:{sock.getsockname()[1]}")


def test_what_the_system_says_when_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault, error, words in (
        (socket.gaierror(socket.EAI_NONAME, "unknown"), ReadFailed, "no host 'h.example'"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), MntapiError, "cannot be looked up: try again"),
        (PermissionError(1, "no"), Denied, "not permitted"),
        (TimeoutError("timed out"), MntapiError, "no answer in time"),
    ):

        def fail(*_: object, fault: Exception = fault, **__: object) -> None:
            raise fault

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(error, match=words) as caught:
            dial(Endpoint("h.example", 80))
        assert caught.value.reason == ("unreachable" if error is not Denied else None)


def test_a_failed_setting_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fussy(socket.socket):
        made: list[socket.socket] = []  # noqa: RUF012 (of this test only)

        def connect(self, *_: object) -> None:
            self.made.append(self)

        def setsockopt(self, *_: object) -> None:
            raise OSError(92, "Protocol not available")

    monkeypatch.setattr(socket, "socket", Fussy)
    with pytest.raises(MntapiError, match="Protocol not available"):
        dial(Endpoint("h.example", 80), look_up=lambda _: [(socket.AF_INET, ("192.0.2.1", 80))])
    assert [sock.fileno() for sock in Fussy.made] == [-1]
