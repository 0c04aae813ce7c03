"""A web server on the loopback interface that knows Range, and misbehaves when told to."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes, int, int], None]
"""Answers one request for ``content[start:end]`` in its own way."""


class Handler(BaseHTTPRequestHandler):
    """Answers a GET by the next fault, or well."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeWeb  # type: ignore[assignment]

    def do_GET(self) -> None:
        web = self.server
        with web.lock:
            web.requests.append((self.path, dict(self.headers.items())))
            fault = web.faults.pop(0) if web.faults else web.always
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(match[1]), min(int(match[2]) + 1, len(web.content))) if match else (0, len(web.content))
        (fault or Handler.well)(self, web.content, start, end)

    def well(self, content: bytes, start: int, end: int) -> None:
        """As RFC 9110 says, If-Range included."""
        web = self.server
        wanted = self.headers.get("If-Range")
        if wanted is not None and wanted not in (web.headers.get("ETag"), web.headers.get("Last-Modified")):
            self.answer(200, content)
        elif start >= len(content):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            self.part(content, start, end)

    def part(self, content: bytes, start: int, end: int, headers: dict[str, str] | None = None) -> None:
        """206 with the bytes and these headers instead of the usual ones (an empty value leaves one out)."""
        self.answer(206, content[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", **(headers or {})})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Any answer."""
        every = {"Content-Length": str(len(body)), **self.server.headers, **(headers or {})}
        self.send_response(status)
        for name, value in every.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        """These bytes, and hang up."""
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the base class's)
        """Quiet."""


class FakeWeb(ThreadingHTTPServer):
    """Serves ``content`` under every path. ``faults`` are for the next requests, ``always`` is for all after them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, content: bytes, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.headers = {"ETag": '"v1"', "Last-Modified": "Wed, 01 May 2024 10:00:00 GMT"}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.lock = threading.Lock()
        self._scheme = "http"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str = "/dir/disk.raw", user: str = "") -> str:
        host = "localhost" if self._scheme == "https" else "127.0.0.1"
        return f"{self._scheme}://{user}{host}:{self.port}{path}"

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""

    def stop(self) -> None:
        """Stop listening; connections end with their clients."""
        self.shutdown()
        self.server_close()
        self._thread.join(10)
