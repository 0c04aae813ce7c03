"""In what state the system was left: hibernated, waiting for a restart.

Source: for the signatures of ``hiberfil.sys``, the Volatility wiki, "Hiber Address Space". For file renames: Microsoft's
documentation of ``MoveFileEx``; the two keys are what administrators' scripts look for. Where the image says itself that it is
one of fast startup differs from release to release, so only the setting is told.
"""

from __future__ import annotations

from contextlib import closing

from mntapi.blocks import read_clipped
from mntapi.errors import MntapiError
from mntapi.guests.files import GuestFiles, open_file
from mntapi.guests.windows.registry import Registry

HIBERNATION_FILE = "/hiberfil.sys"
_WINDOWS = "Microsoft\\Windows\\CurrentVersion"
_IMAGE = frozenset({b"HIBR", b"hibr", b"RSTR", b"rstr"})
"""A memory image that was not resumed from, or was being resumed from. ``WAKE`` and zeros mean that there is none."""
_RESTART_KEYS = {
    "component-based servicing": f"{_WINDOWS}\\Component Based Servicing\\RebootPending",
    "windows update": f"{_WINDOWS}\\WindowsUpdate\\Auto Update\\RebootRequired",
}
_RENAMES = ("PendingFileRenameOperations", "PendingFileRenameOperations2")


def hibernation(files: GuestFiles, system: Registry, control_set: str) -> str | None:
    """Whether a memory image waits to be resumed; looked for on the system's own volume."""
    try:
        content = open_file(files.fs, HIBERNATION_FILE, fold=True)
        with closing(content):
            signature = read_clipped(content, 0, 4)
    except MntapiError as error:
        files.note(error, HIBERNATION_FILE)
        return None
    if signature not in _IMAGE:
        return None
    is_fast = system.number(f"{control_set}\\Control\\Session Manager\\Power", "HiberbootEnabled") == 1
    return "yes, or shut down with fast startup" if is_fast else "yes"


def pending_restart(software: Registry, system: Registry, control_set: str) -> str | None:
    """What waits for a restart, or None."""
    waiting = [what for what, path in _RESTART_KEYS.items() if software.key(path) is not None]
    for name in _RENAMES:
        if system.texts(f"{control_set}\\Control\\Session Manager", name):
            waiting.append("file renames")
            break
    return ", ".join(waiting) or None
