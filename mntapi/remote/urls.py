"""URLs of disks: taken apart, shown without secrets, and resolved for the files that a disk names.

Source: RFC 3986; "The NBD URI format" (doc/uri.md of the nbd project); RFC 9110 section 4.2 for http and https.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 (found by name when first used, which is too late in a confined process)
import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from mntapi.errors import Denied, Invalid, Unsupported

DEFAULT_PORTS = {"nbd": 10809, "nbds": 10809, "http": 80, "https": 443}
"""TCP ports by scheme; the ``+unix`` schemes have none."""
_UNIX = ("nbd+unix", "nbds+unix")
SCHEMES = (*DEFAULT_PORTS, *_UNIX)
MAX_EXPORT_NAME = 4096
"""Bytes of an NBD string (proto.md, "Conventions")."""
_NBD_PARAMETERS = ("socket", "tls-hostname", "tls-type", "tls-verify-peer")

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class Endpoint(NamedTuple):
    """Where to connect: a TCP host and port, or the path of a Unix socket. All that whoever connects has to know."""

    host: str
    port: int
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts. ``path`` is percent-encoded as given; ``userinfo`` is a secret and appears in no message."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(repr=False)
    userinfo: str | None = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take ``text`` apart.

        Raises:
            Invalid: it is no URL.
            Unsupported: its scheme, or a parameter, is none of those known here.
        """
        shown = redacted(text)
        if _CONTROL.search(text):
            raise Invalid("is no URL: it holds a control character", path=_CONTROL.sub("?", shown))
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")  # what a look-up would do, where it could not be told from other faults
        except ValueError:  # whose message may quote a part of the password
            raise Invalid("is no URL", path=shown, hint="special characters of a password are written as %XX") from None
        if parts.scheme not in SCHEMES:
            raise Unsupported(f"the scheme {parts.scheme!r} is not read", path=shown, expected=", ".join(SCHEMES))
        if parts.fragment:
            raise Invalid("has a fragment", path=shown, hint="a # that is part of the name is written as %23")
        url = cls(
            scheme=parts.scheme,
            host=host,
            port=DEFAULT_PORTS.get(parts.scheme, 0) if port is None else port,
            path=parts.path,
            query=parts.query,
            userinfo=parts.netloc.rpartition("@")[0] or None,
        )
        url._check(parts)
        return url

    def _check(self, parts: SplitResult) -> None:
        if self.scheme in _UNIX and parts.netloc:
            raise Invalid("a Unix socket has no host", path=self.display, hint="write nbd+unix:///EXPORT?socket=PATH")
        if self.scheme in DEFAULT_PORTS and not self.host:
            raise Invalid("has no host", path=self.display)
        if self.is_nbd:
            if self.userinfo is not None:
                raise Unsupported("a user name belongs to TLS with shared keys, which is not implemented", path=self.display)
            self._check_nbd()

    def _check_nbd(self) -> None:
        for name in self.parameters:
            if name not in _NBD_PARAMETERS:
                raise Unsupported(f"the parameter {name!r} is not known", path=self.display, expected=" ".join(_NBD_PARAMETERS))
        if self.scheme in _UNIX and not self.parameters.get("socket"):
            raise Invalid("does not say which socket", path=self.display, hint="write nbd+unix:///EXPORT?socket=PATH")
        if self.parameters.get("tls-type", "x509") != "x509" or self.parameters.get("tls-verify-peer", "1") != "1":
            raise Unsupported("TLS is done with certificates that are checked, and in no other way", path=self.display)
        if "\0" in self.export or len(self.export.encode(errors="surrogateescape")) > MAX_EXPORT_NAME:
            raise Invalid("no export can have this name", path=self.display)

    @property
    def is_nbd(self) -> bool:
        """Whether it speaks NBD."""
        return self.scheme.startswith("nbd")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is demanded."""
        return self.scheme in ("https", "nbds", "nbds+unix")

    @property
    def parameters(self) -> dict[str, str]:
        """The query as names and values; of a name given twice the last."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def export(self) -> str:
        """The NBD export name: the path after its first slash, decoded (uri.md, "NBD URI export name")."""
        return unquote(self.path[1:], errors="surrogateescape")

    @property
    def endpoint(self) -> Endpoint:
        """Where to connect."""
        if self.scheme in _UNIX:
            return Endpoint("", 0, self.parameters["socket"])
        return Endpoint(self.host, self.port)

    @property
    def tls_hostname(self) -> str:
        """The name the server's certificate must have."""
        return self.parameters.get("tls-hostname", self.host) if self.is_nbd else self.host

    @property
    def origin(self) -> tuple[str, str, int, str | None]:
        """What must be equal for two URLs to be on the same server; a secret for one origin is never sent to another."""
        return self.scheme, *self.endpoint

    @property
    def target(self) -> str:
        """Path and query as an HTTP request line has them."""
        return quote(self.path or "/", safe=_PATH_SAFE) + (f"?{quote(self.query, safe=_PATH_SAFE + '?')}" if self.query else "")

    @property
    def display(self) -> str:
        """The URL for messages: no user, no password, and of a query (which may be a signature) only the names."""
        if self.is_nbd:
            query = f"?{self.query}" if self.query else ""
        else:
            shown = (f"{name}=***" if value else "***" for name, value in self.parameters.items())
            query = f"?{'&'.join(shown)}" if self.query else ""
        return f"{self.scheme}://{self._authority}{self.path}{query}"

    @property
    def text(self) -> str:
        """The whole URL, secrets included."""
        user = f"{self.userinfo}@" if self.userinfo is not None else ""
        return f"{self.scheme}://{user}{self._authority}{self.path}{f'?{self.query}' if self.query else ''}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme, 0) else f"{host}:{self.port}"


def is_url(text: str) -> bool:
    """Whether a user who writes ``text`` means a URL, of whatever scheme, and not a path."""
    return _URL.match(text) is not None


def redacted(text: str) -> str:
    """``text``, which need not be a good URL, without what may be a password or a signature."""
    return re.sub(r"\?.*", "?***", re.sub(r"(?<=://).*@", "", text, flags=re.DOTALL), flags=re.DOTALL)


def absolute(text: str) -> str:
    """The URL for a process in another folder: the path of a Unix socket made absolute.

    Raises: as ``Url.parse``.
    """
    url = Url.parse(text)
    path = url.endpoint.socket
    if path is None or path.startswith("/"):
        return url.text
    parameters = {**url.parameters, "socket": posixpath.abspath(path)}
    query = "&".join(f"{name}={quote(value, safe='/', errors='surrogateescape')}" for name, value in parameters.items())
    return replace(url, query=query).text


def neighbour(url: str, name: str, *, allow_outside: bool = False) -> str:
    """The URL of the file that the disk at ``url`` calls ``name``: an extent, a parent.

    ``name`` is a file name and no reference: ``?``, ``#`` and ``%`` in it stand for themselves. It may also be a whole URL of
    the same server. The result is on the same server and below the folder of ``url`` unless ``allow_outside``; it has the same
    credentials and, for NBD, the same parameters. The query of an HTTP URL is not carried over (RFC 3986 section 5.3).

    Raises:
        Denied: the name leads out of the folder (reason ``outside``).
        Invalid: no file can have that name.
    """
    base = Url.parse(url)
    if not name or _CONTROL.search(name):
        raise Invalid("is not a file name", path=base.display, found=ascii(name))
    if is_url(name):
        other = Url.parse(name)
        if allow_outside:
            return other.text
        if other.origin != base.origin or (other.query and not other.is_nbd):
            raise _outside(base, redacted(name))
        name = unquote(other.path, errors="surrogateescape") or "/"
    return _beside(base, name, allow_outside=allow_outside).text


def _beside(base: Url, name: str, *, allow_outside: bool) -> Url:
    folder = posixpath.normpath(posixpath.dirname(unquote(base.path, errors="surrogateescape") or "/")).rstrip("/")
    path = posixpath.normpath(posixpath.join(folder or "/", name))
    if path.startswith(f"{folder}/") and not path.startswith("//") and path != f"{folder}/":
        encoded = base.path.rpartition("/")[0] + _quoted(path[len(folder) :])
    elif allow_outside:
        encoded = _quoted("/" + path.lstrip("/"))
    else:
        raise _outside(base, name)
    return replace(base, path=encoded, query=base.query if base.is_nbd else "")


def _quoted(path: str) -> str:
    return quote(path, safe="/", errors="surrogateescape")


def _outside(base: Url, name: str) -> Denied:
    return Denied(
        f"names the file {name!a}, which is outside its own folder",
        path=base.display,
        hint="if you trust where this disk came from, repeat with --allow-outside",
        reason="outside",
    )
