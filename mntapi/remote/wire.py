"""A connected socket with a deadline over each exchange.

Only ``tls_context`` asks the system for anything new. All else sends and receives on a socket that exists, so that it also
works in a process that may no longer connect or open files.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import ssl
import time

from mntapi.errors import Corrupt, Denied, MntapiError, ReadFailed
from mntapi.remote.dial import ConnectionLost, described

_BUFFER = 8192
"""Bytes asked of the system when less is needed: a header and a small payload arrive in one call."""


@functools.cache
def tls_context() -> ssl.SSLContext:
    """How servers are authenticated: by the certificate authorities of the system, or of the file in ``SSL_CERT_FILE``.

    All of them are loaded now: OpenSSL would read a folder of them when a certificate is checked, and a confined process
    cannot. Call it once before confining; it is kept.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is not None:
        for name in sorted(os.listdir(paths.capath)):
            if re.fullmatch(r"[0-9a-f]{8}\.\d+", name):  # what OpenSSL itself would look for
                context.load_verify_locations(os.path.join(paths.capath, name))
    return context


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return described(error) if isinstance(error, OSError) else str(error)


class Wire:
    """One connection. Used by one thread at a time; owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending = memoryview(b"")
        self._deadline = 0.0
        self._timeout_s = 0.0
        self._left = 0
        self.is_ended = False
        """Whether the end of what the server sends was seen in this exchange."""

    def begin(self, timeout_s: float, *, limit: int) -> None:
        """Start an exchange: from now on ``timeout_s`` seconds in all, and at most ``limit`` bytes received."""
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._left = limit
        self.is_ended = False

    def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Encrypt from here on.

        Raises:
            Denied: the certificate is not to be trusted, or not of ``hostname`` (reason ``tls``).
            ReadFailed: it is not TLS, or no kind of it that is still safe (reason ``tls``). ConnectionLost: no answer.
            Corrupt: the server sent something between its consent and the encryption; an attacker may have.
        """
        if self._pending:
            raise Corrupt("the server goes on in clear text where encryption starts", reason="tls")
        try:
            self._sock.settimeout(self._remaining())
            self._sock = context.wrap_socket(self._sock, server_hostname=hostname)
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"the server's certificate is not accepted: {error.verify_message}",
                hint="the file that SSL_CERT_FILE names may hold the certificate authority of your own",
                reason="tls",
            ) from error
        except (ssl.SSLError, ValueError) as error:  # ValueError: a name no certificate can have
            raise ReadFailed(f"encryption cannot be agreed on: {_reason(error)}", reason="tls") from error
        except OSError as error:
            raise self._lost(error) from error

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises ConnectionLost."""
        try:
            self._sock.settimeout(self._remaining())
            self._sock.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, length: int) -> bytes:
        """Exactly ``length`` bytes; the caller has checked that it is small. Raises ConnectionLost."""
        content = bytearray(length)
        self.receive_into(memoryview(content))
        return bytes(content)

    def receive_into(self, view: memoryview) -> None:
        """Fill all of ``view``. Raises ConnectionLost; Corrupt beyond the limit of the exchange."""
        while len(view):
            if not self._pending and len(view) < _BUFFER:
                buffer = memoryview(bytearray(_BUFFER))
                self._pending = buffer[: self._receive_some(buffer)]
            if self._pending:
                count = min(len(view), len(self._pending))
                view[:count] = self._pending[:count]
                self._pending = self._pending[count:]
            else:
                count = self._receive_some(view)
            view = view[count:]

    def _receive_some(self, view: memoryview) -> int:
        count = self.receive_any(view)
        if count == 0:
            raise ConnectionLost("the server closed the connection", reason="dropped")
        return count

    def receive_any(self, view: memoryview) -> int:
        """What there is, at most ``len(view)`` bytes; 0 when the server hung up. Raises ConnectionLost, Corrupt."""
        try:
            self._sock.settimeout(self._remaining())
            count = self._sock.recv_into(view)
        except OSError as error:
            raise self._lost(error) from error
        self.is_ended = count == 0
        self._left -= count
        if self._left < 0:
            raise Corrupt("the server sends more than the answer can hold")
        return count

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def _lost(self, error: OSError) -> ConnectionLost:
        if isinstance(error, TimeoutError):
            return ConnectionLost(f"the server did not answer within {self._timeout_s:.3g} s", reason="timeout")
        return ConnectionLost(f"the connection broke: {_reason(error)}", reason="dropped")

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def lost_again(error: MntapiError) -> ConnectionLost:
    """What went wrong when a connection was to be replaced, as ConnectionLost: a disk in use that cannot be reached is an I/O
    error (EIO) and not a missing file, though its host name or socket file may be missing now."""
    if isinstance(error, ConnectionLost):
        return error
    return ConnectionLost(f"cannot be connected to again: {error.what}", hint=error.hint, reason="unreachable")


def placed(error: MntapiError, path: str, offset: int | None = None) -> MntapiError:
    """The error, with URL and byte offset where it has none. Nobody shall take a broken protocol for a damaged disk."""
    if isinstance(error, Corrupt) and error.hint is None:
        error.hint = "the server does not keep to its protocol, and its log may say why; the disk itself may be whole"
    if error.offset is None:
        error.offset = offset
    return error.located(path=path)
