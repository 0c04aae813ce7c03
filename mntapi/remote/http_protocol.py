"""What a web server's answer to a range request says, as values. No I/O.

Source: RFC 9110 sections 8.8 (validators), 13.1.5 (If-Range), 14 (ranges), 15 (status codes); RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from http.client import HTTPMessage
from urllib.parse import unquote

from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.urls import Url

PARTIAL, OK = 206, 200
REDIRECTS = (301, 302, 303, 307, 308)
RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that may be gone the next time."""
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)
_EMPTY = re.compile(r"bytes \*/0", re.IGNORECASE)
_MAX_SIZE = (1 << 63) - 1


_OTHER_SERVER = "use a server that knows Range (nginx, Apache, nbdkit -- or download the file)"


class ServerBusy(ConnectionLost):
    """A status that may be gone the next time."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes of how many an answer holds; ``end`` is exclusive, ``size`` None where the server does not tell."""

    start: int
    end: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one state of a file from another. Without ETag and date only the size does."""

    size: int
    etag: str | None
    last_modified: str | None

    @property
    def if_range(self) -> str | None:
        """The validator to send: a strong ETag, or the date where there is no ETag (RFC 9110 section 13.1.5)."""
        if self.etag is not None:
            return None if self.etag.startswith("W/") else self.etag
        return self.last_modified

    def check(self, later: Version) -> None:
        """Raise ReadFailed (reason ``changed``) if ``later`` is of another state; a header left out says nothing."""
        pairs = (
            ("size", self.size, later.size),
            ("ETag", self.etag, later.etag),
            ("Last-Modified", self.last_modified, later.last_modified),
        )
        for name, before, after in pairs:
            if before is not None and after is not None and before != after:
                raise changed(f"its {name} is another", expected=before, found=after)


def parse_content_range(text: str | None) -> ContentRange:
    """The value of ``Content-Range``. Raises Corrupt."""
    match = _RANGE.fullmatch(text.strip()) if text is not None else None
    if match is None:
        raise Corrupt(
            "a partial answer does not say which part it is", expected="Content-Range: bytes A-B/SIZE", found=_cut(text)
        )
    start, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if not start <= last < (_MAX_SIZE if size is None else min(size, _MAX_SIZE)):
        raise Corrupt("a partial answer says an impossible range", found=match[0])
    return ContentRange(start, last + 1, size)


def parse_version(headers: HTTPMessage, size: int) -> Version:
    """The state of the file that an answer is about."""
    return Version(size, _one_line(headers.get("ETag")), _one_line(headers.get("Last-Modified")))


def _one_line(value: str | None) -> str | None:
    """A header that was folded over lines must not be sent back like that (RFC 9112 section 5.2)."""
    return None if value is None else " ".join(value.split())


def first_version(status: int, headers: HTTPMessage) -> Version:
    """The file's size and state, from the answer to a request for its first byte.

    Raises:
        Unsupported: the server cannot give parts of a file, or does not tell its size.
        Denied, NotFound, ReadFailed: as the status says. Corrupt: it contradicts itself.
    """
    if status == 416 and _EMPTY.fullmatch(headers.get("Content-Range") or ""):
        return parse_version(headers, 0)
    if status == OK:
        raise Unsupported(
            "the web server gives whole files only, and no ranges of them",
            hint=_OTHER_SERVER,
            reason="no-range",
        )
    if status != PARTIAL:
        raise refusal(status)
    check_encoding(headers)
    part = parse_content_range(headers.get("Content-Range"))
    if part.size is None:
        found = _cut(headers.get("Content-Range"))
        raise Unsupported("the web server does not tell the size of the file", found=found, hint=_OTHER_SERVER)
    if (part.start, part.end) != (0, 1):
        raise Corrupt("the answer is not what was asked for", expected="bytes 0-0", found=f"bytes {part.start}-{part.end - 1}")
    return parse_version(headers, part.size)


def part_length(status: int, headers: HTTPMessage, version: Version, offset: int, length: int) -> int:
    """How many bytes at ``offset`` the answer to a request for ``length`` of them holds: at least 1, perhaps fewer.

    Raises:
        ReadFailed: the file is not as it was (reason ``changed``).
        Denied, Unsupported, Corrupt: as the status or the headers say.
    """
    if status == OK:
        raise changed("it was sent whole instead of in part")
    if status in REDIRECTS or status in (404, 410, 412, 416):
        raise changed(f"the web server answered with status {status}")
    if status != PARTIAL:
        raise refusal(status)
    check_encoding(headers)
    part = parse_content_range(headers.get("Content-Range"))
    if part.size is None:
        raise Corrupt("a partial answer does not tell the size of the file any more", offset=offset)
    version.check(parse_version(headers, part.size))
    if part.start != offset or part.end > offset + length:
        raise Corrupt(
            "the answer is not of what was asked for",
            offset=offset,
            expected=f"bytes {offset}-{offset + length - 1}",
            found=f"bytes {part.start}-{part.end - 1}",
        )
    return part.end - part.start


def check_encoding(headers: HTTPMessage) -> None:
    """Raise Unsupported if the bytes sent are not the file's own."""
    encoding = headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        what = "the web server compresses what it was asked not to"
        raise Unsupported(what, found=_cut(encoding), hint=_OTHER_SERVER, reason="content-encoding")


def changed(how: str, *, expected: object = None, found: object = None) -> ReadFailed:
    """The error for a file that is not the one that was opened."""
    return ReadFailed(
        f"the file changed on the server while it was open: {how}",
        expected=None if expected is None else _cut(str(expected)),
        found=None if found is None else _cut(str(found)),
        hint="open it again",
        reason="changed",
    )


def refusal(status: int) -> MntapiError:
    """A status that means no, as an error to raise."""
    if status == 401:
        return Denied(
            "the web server wants a user and a password", hint="write http://USER:PASSWORD@HOST/...", found="status 401"
        )
    if status == 403:
        return Denied(
            "the web server forbids it",
            hint="the user, or the signature in the URL, may not read it; signatures expire",
            found="status 403",
        )
    if status in (404, 410):
        return NotFound("no such file on the web server", found=f"status {status}", hint="is the URL right?")
    what = f"the web server answered with status {status}"
    if status in RETRIED:
        return ServerBusy(what, hint="the server is too busy or broken just now; try again later", reason="server-busy")
    hint = "the file may be empty there" if status == 416 else "the server does not serve this; its log may say why"
    return ReadFailed(what, hint=hint, reason="server-refused")


def request_headers(url: Url, origin: Url, version: Version | None, offset: int, length: int) -> dict[str, str]:
    """The headers that ask for ``length`` bytes at ``offset`` of the file in the state ``version``.

    The credentials of ``origin``, the URL the user gave, go to its own server and to no other.
    """
    headers = {
        "Range": f"bytes={offset}-{offset + length - 1}",
        "Accept-Encoding": "identity",
        "User-Agent": "mntapi",
    }
    if version is not None and version.if_range is not None:
        headers["If-Range"] = version.if_range
    if origin.userinfo is not None and url.origin == origin.origin:
        headers["Authorization"] = _basic(origin.userinfo)
    return headers


def _basic(userinfo: str) -> str:
    user, _, password = userinfo.partition(":")
    secret = f"{unquote(user)}:{unquote(password)}".encode()
    return "Basic " + base64.b64encode(secret).decode("ascii")


def _cut(text: str | None) -> str:
    """What a server wrote, for our messages."""
    return "nothing" if text is None else ascii(text[:100])[1:-1]
