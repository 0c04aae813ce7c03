"""The command's side of a worker: start it, give it its files, hand it the FUSE descriptor, wait until it serves."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, Failed, MntapiError
from mntapi.kernel.process import start_time
from mntapi.kernel.spawn import spawn_detached
from mntapi.remote import Url, is_url
from mntapi.remote.patience import patience_s, told
from mntapi.session.broker import Broker
from mntapi.session.channel import Channel, ChannelClosed, Message, unpack_error
from mntapi.session.journal import ProcessId
from mntapi.session.keybroker import MAX_REQUESTS, KeyBroker
from mntapi.session.originals import remember
from mntapi.session.overlay import OriginalsOpener, OverlayFiles
from mntapi.types import DiskSpec, OpenOptions

_OPEN_TIMEOUT_S = 120.0
"""Longest silence of a worker that opens a set. It is far above what a slow share needs, and ends a wait that has no end."""
_KEY_TIMEOUT_S = 600.0
"""The same where it tries keys: for one volume that may take some minutes."""
_MAX_SHOWN = 2
"""Servers that are named to who waits."""
_MAX_FILES = 8192
"""Files a worker may ask for: 64 disks with 64 links each."""


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """What the worker says of a volume; sizes in bytes."""

    name: str
    id: str
    size: int
    sector_size: int
    filesystem: str | None
    dirty: str | None
    """Why the newest changes are not where they belong, whether or not our own readers make up for that."""
    state: str
    reason: str | None
    read_only: str | None
    """Why it cannot be written, None if it can. Sets without an overlay are never written, and say so as well."""


class Worker:
    """A running worker. Until ``serve`` returns it ends when this object is closed; from then on it ends with its mount."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, log: Path) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._timeout_s = _OPEN_TIMEOUT_S
        self.id = ProcessId(process.pid, start_time(process.pid))

    @classmethod
    def start(cls, command: Sequence[str], log: Path) -> Worker:
        """Start a worker program; ``command`` gets the descriptor of its socket as last argument."""
        ours, theirs = socket.socketpair()
        with theirs, closed_on_error(ours):
            process = spawn_detached([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], log=log)
        return cls(process, Channel(ours), log)

    def open(
        self,
        specs: Sequence[DiskSpec],
        options: OpenOptions,
        backend: str,
        overlay: OverlayFiles | str | None = None,
        lines: Sequence[int] = (),
        *,
        guests: bool = False,
    ) -> list[FoundVolume]:
        """Have it open the disks; the files it asks for are opened here, by the rules of ``options``.

        ``overlay``: where it puts what is written: files, ``MEMORY``, or None: nothing can be. ``lines``: descriptors to a
        dialer, for disks on servers; borrowed. ``guests``: it will be asked to show them. The keys of ``options`` are
        overwritten: they have then done their work.

        Raises:
            MntapiError: what opening raised there, or Failed if it died.
        """
        disks = [asdict(spec) for spec in specs]
        kind = "files" if isinstance(overlay, OverlayFiles) else overlay
        order: Message = {"op": "open", "disks": disks, "options": _as_fields(options), "backend": backend, "overlay": kind}
        order["guests"] = guests
        self._timeout_s = _KEY_TIMEOUT_S if options.keys.has_any else _OPEN_TIMEOUT_S
        try:
            self._send({**order, "keys": options.keys.has_any, "passphrases": len(options.passphrases)}, lines)
            with self._patience(specs, options):
                return self._answer(specs, options, overlay)
        finally:
            options.keys.wipe()

    @contextmanager
    def _patience(self, specs: Sequence[DiskSpec], options: OpenOptions) -> Iterator[None]:
        """Wait as long as the worker may wait for servers, and say for which, if it takes long. Raises as ``patience_s``."""
        servers = [Url.parse(name).display for name in named(specs, options) if is_url(name)]
        if not servers:
            yield
            return
        seconds = patience_s()
        self._timeout_s += 2 * seconds  # an attempt of its own, and those after it
        shown = ", ".join(servers[:_MAX_SHOWN]) + (
            f" and {len(servers) - _MAX_SHOWN} more" if len(servers) > _MAX_SHOWN else ""
        )
        with told(f"still opening; a server that does not answer is waited for at most {seconds:.3g} s: {shown}"):
            yield

    def _answer(self, specs: Sequence[DiskSpec], options: OpenOptions, overlay: OverlayFiles | str | None) -> list[FoundVolume]:
        """Give the worker what it asks for while it opens the set."""
        opener = OriginalsOpener(options)
        keys = KeyBroker(options)
        broker = Broker(self._channel, opener, named(specs, options))
        for _ in range(_MAX_FILES + MAX_REQUESTS):
            message = self._receive("opened", "file", "overlay", "keys", "ask", "passphrases")
            if message["op"] == "opened":
                if isinstance(overlay, OverlayFiles):
                    remember(overlay.paths, opener, named(specs, options))
                return [_found(one) for one in message["volumes"]]
            if message["op"] == "file":
                broker.answer(message)
            elif message["op"] != "overlay":
                keys.answer(self._channel, message)
            elif isinstance(overlay, OverlayFiles):
                overlay.answer(self._channel, message, opener)
            else:
                raise Corrupt("the worker wants a file to write, and nothing is to be written")
        raise Corrupt("the set wants too many files", expected=f"at most {_MAX_FILES}")

    def serve(self, fuse_fd: int, *, layout: str | None, volume: str | None, backend: str) -> str:
        """Hand it the mounted FUSE descriptor; returns when it has answered the kernel. Raises as ``open``.

        The layout is returned: None leaves the choice to the worker.
        """
        self._send({"op": "serve", "layout": layout, "volume": volume, "backend": backend}, [fuse_fd])
        chosen = self._receive("ready").get("layout")
        self._channel.close()
        if not isinstance(chosen, str):
            raise Corrupt("the worker does not say what it serves")
        return chosen

    def _send(self, message: Message, fds: Sequence[int] = ()) -> None:
        try:
            self._channel.send(message, fds)
        except ChannelClosed as error:
            raise self._died() from error

    def _receive(self, *expected: str) -> Message:
        try:
            message, _ = self._channel.receive(self._timeout_s)
        except ChannelClosed as error:
            raise self._died() from error
        if message.get("op") == "error":
            raise unpack_error(message)
        if message.get("op") not in expected:
            raise Corrupt("the worker says something else than it should", expected=" or ".join(expected))
        return message

    def _died(self) -> MntapiError:
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        status = self._process.poll()
        how = "does not answer" if status is None else f"ended with status {status}"
        return Failed(f"the worker process {how}" + (f"; its last words: {last[0]}" if last else ""))

    def wait(self) -> None:
        """Until it ends; it does when its mount is gone."""
        self._process.wait()

    def close(self) -> None:
        """Hang up: a worker that does not serve yet ends. Never blocks."""
        self._channel.close()
        self._process.poll()


def _as_fields(options: OpenOptions) -> Message:
    fields = {name: getattr(options, name) for name in OpenOptions.__slots__}
    del fields["keys"], fields["passphrases"]
    return fields


def named(specs: Sequence[DiskSpec], options: OpenOptions) -> Iterator[str]:
    """The files and URLs that the user named, which the worker may have."""
    yield from (spec.path for spec in specs)
    if options.parent is not None:
        yield options.parent


def _found(fields: dict[str, Any]) -> FoundVolume:
    try:
        return FoundVolume(**fields)
    except TypeError as error:
        raise Corrupt("the worker describes a volume in an unknown way") from error
