"""Windows, from NT 5 (2000) on: what it is, who uses it, and where its volumes are mounted.

Not here: hives as a file format (``regf``), and the links of the tree that a user sees. Not told, because nothing stored tells
it for sure: the last boot, names of services and programs that are in the resources of a DLL. Start reading at ``guest.py``,
then ``drives.py`` (letters) and ``folders.py`` (mount points). ``release.py``, ``accounts.py``, ``state.py``, ``programs.py``
each answer one question from the ``registry.py`` of one system.

Always true: hives are read with their transaction logs replayed in memory; of the accounts only names and numbers are read;
what is damaged is a reason of the guest, and the rest is still told. ``Windows.old`` and other copies of a system are no
guests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.errors import MntapiError
from mntapi.guests.finder import readable
from mntapi.guests.types import Candidate, Guest
from mntapi.guests.windows.systems import system_folders
from mntapi.types import FileSystem

_KINDS = frozenset({"ntfs", "vfat", "exfat", "refs"})
"""File systems, by libblkid's names, that Windows starts from or may one day."""


def find(candidates: Sequence[Candidate]) -> Iterator[Guest]:
    """Every Windows on the volumes of a set; several on one volume too.

    Args:
        candidates: the volumes that can be read. A drive letter of what one lies in (``below``: the partition of a BitLocker
            volume) is a letter of that one.
    """
    found = [(*one, folder) for one in readable(candidates) for folder in _folders(one[1])]
    if not found:
        return
    from mntapi.guests.windows.drives import Places  # other sets are not to pay for these
    from mntapi.guests.windows.guest import inspect

    places = Places(candidates)
    for candidate, filesystem, folder in found:
        guest = inspect(candidate, filesystem, folder, places)
        if guest is not None:
            yield guest


def _folders(filesystem: FileSystem) -> list[str]:
    try:
        return system_folders(filesystem) if filesystem.kind in _KINDS else []
    except MntapiError:
        return []  # its top folder cannot be read: the volume itself is listed with the reason
