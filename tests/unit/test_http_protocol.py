"""Answers to range requests: the examples of RFC 9110, each check, and random text."""

from __future__ import annotations

from http.client import HTTPMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.remote.http_protocol import (
    ContentRange,
    ServerBusy,
    Version,
    first_version,
    parse_content_range,
    part_length,
    request_headers,
)
from mntapi.remote.urls import Url

VERSION = Version(1000, '"v1"', "Wed, 01 May 2024 10:00:00 GMT")


def message(headers: dict[str, str]) -> HTTPMessage:
    result = HTTPMessage()
    for name, value in headers.items():
        result[name] = value
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 42-1233/1234", ContentRange(42, 1234, 1234)),  # RFC 9110 section 14.4
        ("bytes 42-1233/*", ContentRange(42, 1234, None)),
        ("Bytes 0-0/1", ContentRange(0, 1, 1)),
    ],
)
def test_content_range(text: str, expected: ContentRange) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes */1234",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-9",
        "bytes -1-5/10",
        "bits 0-1/2",
        "bytes 0-0/" + "9" * 30,
        "bytes 0-\u0661/10",
        "bytes 0-9223372036854775807/9999999999999999999",
    ],
)
def test_bad_content_range(text: str | None) -> None:
    with pytest.raises(Corrupt):
        parse_content_range(text)


def test_first_answer() -> None:
    headers = message({"content-range": "bytes 0-0/1000", "etag": '"v1"', "last-modified": "x", "content-encoding": "identity"})
    assert first_version(206, headers) == Version(1000, '"v1"', "x")
    assert first_version(206, message({"Content-Range": "bytes 0-0/1000"})) == Version(1000, None, None)
    assert first_version(416, message({"Content-Range": "bytes */0"})).size == 0


@pytest.mark.parametrize(
    ("status", "headers", "error", "reason"),
    [
        (200, {}, Unsupported, "no-range"),
        (206, {"Content-Range": "bytes 0-0/*"}, Unsupported, None),
        (206, {"Content-Range": "bytes 0-1/9"}, Corrupt, None),
        (206, {"Content-Range": "bytes 1-1/9"}, Corrupt, None),
        (206, {}, Corrupt, None),
        (206, {"Content-Range": "bytes 0-0/9", "Content-Encoding": "gzip"}, Unsupported, "content-encoding"),
        (401, {}, Denied, None),
        (403, {}, Denied, None),
        (404, {}, NotFound, None),
        (410, {}, NotFound, None),
        (416, {"Content-Range": "bytes */9"}, ReadFailed, "server-refused"),
        (418, {}, ReadFailed, "server-refused"),
        (103, {}, ReadFailed, "server-refused"),
        (500, {}, ServerBusy, "server-busy"),
        (429, {}, ServerBusy, "server-busy"),
    ],
)
def test_first_answer_is_no(status: int, headers: dict[str, str], error: type[MntapiError], reason: str | None) -> None:
    with pytest.raises(error) as caught:
        first_version(status, message(headers))
    assert type(caught.value) is error
    assert caught.value.reason == reason


def later(**headers: str) -> HTTPMessage:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return message({"Content-Range": "bytes 100-199/1000", **names})


def test_part() -> None:
    assert part_length(206, later(ETag='"v1"'), VERSION, 100, 100) == 100
    assert part_length(206, later(), VERSION, 100, 300) == 100


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, later()),
        (301, later()),
        (404, later()),
        (410, later()),
        (412, later()),
        (416, later()),
        (206, later(ETag='"v2"')),
        (206, later(Last_Modified="Wed, 01 May 2024 10:00:01 GMT")),
        (206, message({"Content-Range": "bytes 100-199/1001"})),
    ],
)
def test_a_changed_file(status: int, headers: HTTPMessage) -> None:
    with pytest.raises(ReadFailed, match="changed") as caught:
        part_length(status, headers, VERSION, 100, 100)
    assert caught.value.reason == "changed"


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (206, message({"Content-Range": "bytes 100-199/*"}), Corrupt),
        (206, message({"Content-Range": "bytes 99-198/1000"}), Corrupt),
        (206, message({"Content-Range": "bytes 100-200/1000"}), Corrupt),
        (206, later(Content_Encoding="br"), Unsupported),
        (403, later(), Denied),
        (503, later(), ServerBusy),
    ],
)
def test_a_wrong_part(status: int, headers: HTTPMessage, error: type[MntapiError]) -> None:
    with pytest.raises(error):
        part_length(status, headers, VERSION, 100, 100)


def test_if_range_is_strong() -> None:
    """RFC 9110 section 13.1.5: no weak validator, and no date where there is an ETag."""
    assert VERSION.if_range == '"v1"'
    assert Version(1, 'W/"v1"', "date").if_range is None
    assert Version(1, None, "date").if_range == "date"
    assert Version(1, None, None).if_range is None


def test_request_headers() -> None:
    url = Url.parse("http://Aladdin:open%20sesame@h/disk")
    headers = request_headers(url, url, VERSION, 100, 50)
    assert headers["Range"] == "bytes=100-149"
    assert headers["If-Range"] == '"v1"'
    assert headers["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617 section 2
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("place", ["http://other/disk", "http://h:81/disk", "https://h/disk", "http://x:y@other/disk"])
def test_credentials_stay_with_their_server(place: str) -> None:
    assert "Authorization" not in request_headers(Url.parse(place), Url.parse("http://u:p@h/disk"), None, 0, 1)


def test_a_folded_validator_is_one_line() -> None:
    assert first_version(206, message({"Content-Range": "bytes 0-0/9", "ETag": '"a\r\n b"'})).etag == '"a b"'


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"bytes [0-9]{0,20}-[0-9]{0,20}/([0-9]{0,20}|\*)"))
def test_random_text(text: str) -> None:
    try:
        part = parse_content_range(text)
    except MntapiError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= part.start < part.end < 1 << 63
