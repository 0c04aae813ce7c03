"""Having what was written reach the overlays' files before a mount is taken away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mntapi.errors import Busy, Failed, MntapiError
from mntapi.kernel import loop, process
from mntapi.kernel.mountinfo import Mount, mount_at
from mntapi.kernel.run import run
from mntapi.session import journal
from mntapi.session.journal import ProcessId, Record, source_of

SYNC_S = 30.0
"""Seconds that writing out may take before a mount is taken away by force."""
FLUSH_S = 900.0
"""Seconds that writing out may take otherwise: an overlay may have gigabytes that are not on the medium yet."""


def flush(record: Record, kind: str, target: str, force: bool) -> Iterator[str]:
    """Have all that was written above a step reach the overlays' files, while there is somebody to tell if it does not.

    A process of its own waits for that: a worker that does not answer must not keep us waiting for ever.
    """
    mounted = mount_at(target)
    if record.worker is None or not is_alive(record.worker) or mounted is None:
        return
    if kind == "mount" and is_on_our_loop(mounted, record):
        what = ["-f", target]
    elif kind == "fuse" and mounted.source == source_of(record):
        what = [os.path.join(target, "disks", f"disk{index}") for index in range(len(record.overlays))]
    else:
        return
    if is_stopped(record.worker):
        yield from _not_flushed(record, record.worker, force)
        return
    try:
        run(["sync", *what], timeout_s=SYNC_S if force else FLUSH_S)
    except MntapiError as error:
        trouble = f"what was written last is not in the overlay: {error.what}"
        if not force:
            hint = "put that right and try again; --force gives up what was not written"
            raise Failed(trouble, path=record.mountpoint, hint=hint) from error
        yield trouble


def _not_flushed(record: Record, worker: ProcessId, force: bool) -> Iterator[str]:
    """What to say of a worker that is stopped, and would keep a sync waiting to its end. Raises Busy unless ``force``."""
    stopped = f"process {worker.pid}, which serves it, is stopped"
    if not force:
        hint = f"let it go on (kill -CONT {worker.pid}); --force gives up what was written and is not in the overlay yet"
        raise Busy(f"{stopped}, and cannot write out what was written", path=record.mountpoint, hint=hint, reason="stopped")
    yield f"{stopped}: what was written last may not be in the overlay"


def is_alive(one: ProcessId) -> bool:
    """Whether that very process still runs."""
    return process.is_alive(one.pid, one.start_ticks)


def is_stopped(worker: ProcessId) -> bool:
    """Whether somebody stopped it (SIGSTOP, a debugger). Source: proc(5), /proc/pid/stat field 3."""
    try:
        state = Path(f"/proc/{worker.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False  # it has ended
    return state in (b"T", b"t")


def is_on_our_loop(mounted: Mount, record: Record) -> bool:
    """Whether the kernel mounted it from a loop device over the record's block files."""
    folder = os.path.join(journal.run_dir(), record.id, "blocks")
    return any(device.path == mounted.source for device in loop.attached_below(folder))
