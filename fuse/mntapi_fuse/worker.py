"""The worker: one process a disk set. It parses hostile bytes and serves what it finds, with no right to do anything else.

Started as ``python -m mntapi_fuse.worker FD``, FD being a socket to the command that wants the mount. The conversation:

    command  open    the disks and options; with disks on servers, sockets to a process that makes connections
    worker   file    ... asks for each file of the chains; the command opens it and sends the descriptor
    worker   keys    ... asks for those of each encrypted volume (``session/keybroker.py``)
    worker   overlay ... with --overlay FILE: asks for the file of each disk's changes, and gets it for reading and writing
    worker   opened  what was found, or error
    command  serve   layout, volume, backend, with the mounted /dev/fuse descriptor
    worker   ready   the kernel's INIT has been answered; the layout, where the command left it to us
    ... the command may go away now; the worker ends when its mount does.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

import mntapi.crypto
import mntapi.filesystems
import mntapi.guests
import mntapi.images
import mntapi.isal
import mntapi.machines
import mntapi.volumes
from mntapi.blocks.memory_overlay import MAX_MEMORY
from mntapi.errors import MntapiError, NotFound
from mntapi.kernel.sandbox import Confinement, confine
from mntapi.kernel.storage import become_io_flusher
from mntapi.keys import Keys
from mntapi.remote.opener import RemoteOpener
from mntapi.session.broker import BrokeredOpener, DialedConnector
from mntapi.session.channel import Channel, ChannelClosed, Message, pack_error
from mntapi.session.diskset import DiskSet, open_disks
from mntapi.session.guest_tree import ShownTree, assemble
from mntapi.session.keybroker import brokered_keys, brokered_passphrases
from mntapi.session.keys import usable_memory
from mntapi.session.overlay import MEMORY, overlays_from, overlays_in_memory, volume_blocks, why_read_only, with_overlays
from mntapi.session.tree import VolumeTree
from mntapi.session.witness import Witness
from mntapi.types import DiskSpec, Opener, OpenOptions, Volume
from mntapi.units import MIB
from mntapi_fuse.blockfs import BlockFs
from mntapi_fuse.operations import Operations
from mntapi_fuse.treefs import TreeFs

MEMORY_LIMIT = 1024 * MIB
"""Bytes of data the worker may allocate; it needs a few tens of MiB, so more means an image that lies about its sizes."""
_ENCODINGS = ("ascii", "cp1252", "gbk", "big5", "shift_jis", "euc_kr", "latin_1", "utf_8", "utf_16_le", "utf_16_be", "idna")
_NEVER_NEEDED = ("mntapi.images.checking",)
"""What only other commands use."""
_OPEN_FILES = 8192
"""Descriptors: a disk may lie in thousands of extents."""
_THREAD_STACK = MIB
"""Bytes of a thread's stack; they count towards the limit."""


def main() -> int:
    """Talk to the command on the descriptor in ``argv``, then serve until unmounted; returns the exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        request, lines = channel.receive()
        _preload(request, remote=bool(lines))
        threading.stack_size(_THREAD_STACK)
        key_memory = usable_memory() if request["keys"] else 0
        confined = _confine(request["overlay"], MEMORY_LIMIT + key_memory)
        return _work(channel, request, asdict(confined), lines, key_memory)
    except ChannelClosed:
        return 1  # the command went away before the mount was ready; it undoes what it made


def _confine(overlay: str | None, memory_limit: int) -> Confinement:
    """Give up all rights but those that the request needs. A worker with changes to lose flushes them when told to end."""
    if overlay is None:
        return confine(memory_limit=memory_limit, open_files=_OPEN_FILES)
    signal.signal(signal.SIGTERM, _end)
    become_io_flusher()
    if overlay == MEMORY:
        return confine(memory_limit=memory_limit + MAX_MEMORY, open_files=_OPEN_FILES)
    return confine(memory_limit=memory_limit, open_files=_OPEN_FILES, file_size_limit=None)


def _end(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _work(channel: Channel, request: Message, confined: Message, lines: list[int], key_memory: int) -> int:
    try:
        disk_set = _open(channel, request, lines, brokered_keys(channel, key_memory) if request["keys"] else Keys())
    except MntapiError as error:
        channel.send(pack_error(error))
        return 1
    with disk_set:
        channel.send({"op": "opened", "volumes": [_describe(disk_set, one) for one in disk_set.volumes], "confined": confined})
        order, fds = channel.receive()
        try:
            layout = _layout(disk_set, order)
            operations = _operations(disk_set, order, layout)
        except MntapiError as error:
            channel.send(pack_error(error))
            return 1
        try:
            _serve(order["backend"], fds[0], operations, lambda: _ready(channel, layout))
        finally:
            if request["overlay"] is not None:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do must not be cut short
    return 0


def _open(channel: Channel, request: Message, lines: list[int], keys: Keys) -> DiskSet:
    """Open the set. The keys are tried on the volumes that are served, and then overwritten."""
    passphrases = brokered_passphrases(channel) if request["passphrases"] else ()
    is_written = request["overlay"] is not None
    options = OpenOptions(**request["options"], passphrases=passphrases, keys=Keys() if is_written else keys)
    opener = Witness(_opener(channel, options, lines))
    try:
        disk_set = open_disks(*(DiskSpec(**spec) for spec in request["disks"]), options=options, opener=opener)
        if not is_written:
            return disk_set
        is_memory = request["overlay"] == MEMORY
        overlay_of = overlays_in_memory() if is_memory else overlays_from(channel, len(disk_set.disks), opener)
        return with_overlays(disk_set, overlay_of, keys)
    finally:
        keys.wipe()


def _opener(channel: Channel, options: OpenOptions, lines: list[int]) -> Opener:
    files = BrokeredOpener(channel)
    if not lines:
        return files
    return RemoteOpener(files, allow_outside=options.allow_outside, connect=DialedConnector(lines))


def _ready(channel: Channel, layout: str) -> None:
    channel.send({"op": "ready", "pid": os.getpid(), "layout": layout})
    channel.close()


def _preload(request: Message, *, remote: bool) -> None:
    """Import all that could be imported later: from ``confine`` on there is no opening of files."""
    packages = [mntapi.filesystems, mntapi.images, mntapi.machines, mntapi.volumes]
    for package in [*packages, mntapi.guests] if request["guests"] else packages:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.startswith(_NEVER_NEEDED):
                import_module(module.name)
    if request["guests"]:
        import_module("mntapi.session.guests")
    if request["keys"] or request["passphrases"]:
        mntapi.crypto.preload()
    if remote:
        for name in ("http", "nbd"):
            import_module(f"mntapi.remote.{name}")
        import_module("mntapi.remote.wire").tls_context()
    mntapi.isal.library()
    for encoding in _ENCODINGS:
        "".encode(encoding)
    import_module("mntapi_fuse.fusepy_backend" if request["backend"] == "fusepy" else "mntapi_fuse.server")


def _describe(disk_set: DiskSet, volume: Volume) -> dict[str, Any]:
    content = disk_set.content(volume)
    return {
        "name": volume.name,
        "id": volume.id,
        "size": volume.size,
        "sector_size": volume.blocks.sector_size,
        "filesystem": content.signature.kind if content.signature else None,
        "dirty": content.signature.dirty if content.signature else None,
        "state": content.state.value,
        "reason": content.reason,
        "read_only": why_read_only(volume),
    }


def _layout(disk_set: DiskSet, order: Message) -> str:
    """What to serve. Raises NotFound where a guest is wanted and there is none."""
    wanted: str | None = order["layout"]
    if order["volume"]:
        return wanted or "volumes"
    if wanted is None:
        return "guest" if disk_set.guests else "volumes"
    if wanted == "guest" and not disk_set.guests:
        raise NotFound("no system that is known is on these volumes", hint="--layout volumes shows the files of each")
    return wanted


def _operations(disk_set: DiskSet, order: Message, layout: str) -> Operations:
    wanted = [disk_set.volume(order["volume"])] if order["volume"] else list(disk_set.volumes)
    if layout == "blocks":
        disks = {f"disk{index}": disk.blocks for index, disk in enumerate(disk_set.disks)}
        readable = [
            volume for volume in wanted if volume.size or not volume.reason
        ]  # an empty file would pass for an empty volume
        return BlockFs({"disks": disks, "volumes": {volume.name: volume_blocks(volume) for volume in readable}})
    if not wanted:
        raise NotFound("there is no volume to mount")
    if order["volume"]:
        return TreeFs(disk_set.filesystem(wanted[0]))
    return TreeFs(ShownTree(assemble(disk_set, disk_set.guests)) if layout == "guest" else VolumeTree(disk_set))


def _serve(backend: str, fd: int, operations: Operations, on_ready: Callable[[], None]) -> None:
    serve = import_module("mntapi_fuse.fusepy_backend" if backend == "fusepy" else "mntapi_fuse.server").serve
    serve(fd, operations, on_ready=on_ready)


if __name__ == "__main__":
    sys.exit(main())
