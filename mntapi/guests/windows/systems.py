"""Which top folders of a volume hold a Windows: by its registry, whatever the folder is called."""

from __future__ import annotations

from mntapi.errors import MntapiError, Unsupported
from mntapi.guests.files import exists, listdir
from mntapi.types import FileKind, FileSystem

CONFIG = "System32/config"
"""Where the hives are."""
USUAL_FOLDERS = ("windows", "winnt")
MAX_FOLDERS = 24
"""Top folders with other names that are looked into for a system, which costs reading each of them."""
_NOT_A_GUEST = "windows.old"


def system_folders(filesystem: FileSystem) -> list[str]:
    """Names of the top folders with a registry in them, those that Windows uses first. Raises what reading the top raises."""
    try:
        names = [entry.name for entry in listdir(filesystem, "/") if entry.node.kind is FileKind.DIRECTORY]
    except Unsupported:
        names = [name for name in USUAL_FOLDERS if _is_there(filesystem, name)]
    usual = [name for name in names if name.lower() in USUAL_FOLDERS]
    others = [name for name in names if name.lower() not in (*USUAL_FOLDERS, _NOT_A_GUEST)]
    return [name for name in (*usual, *others[:MAX_FOLDERS]) if _has_registry(filesystem, name)]


def _is_there(filesystem: FileSystem, folder: str) -> bool:
    """Whether there is such a top folder; no where that cannot be told, for there are too many."""
    try:
        return exists(filesystem, f"/{folder}", fold=True)
    except MntapiError:
        return False


def _has_registry(filesystem: FileSystem, folder: str) -> bool:
    try:
        return any(exists(filesystem, f"/{folder}/{CONFIG}/{name}", fold=True) for name in ("SYSTEM", "SOFTWARE"))
    except MntapiError:
        return folder.lower() in USUAL_FOLDERS  # damaged, and told by what opening the hives says
