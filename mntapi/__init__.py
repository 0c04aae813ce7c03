"""Open the virtual disks of a machine, find their volumes, read files out of them truthfully, mount and unmount them safely.

    import mntapi
    with mntapi.open_disks("web01.vmdk", "web01_1.vmdk") as disk_set:
        for volume in disk_set.volumes:
            print(volume.name, volume.size, disk_set.content(volume).state)
        tree = mntapi.open_tree(disk_set)
        node = mntapi.resolve(tree, "/etc/hostname")
        print(mntapi.read(tree.open(node), 0, node.size))

Disks are only ever read. Importing this package costs little: everything heavy is imported when it is first used.
The layers, bottom up: ``types`` and ``errors``, ``blocks``, ``images`` | ``volumes`` | ``filesystems`` | ``kernel``,
``restore``, ``session``, and on top ``cli`` and ``mntapi_fuse``. ARCHITECTURE.md is the map.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes time to import, in which a Ctrl-C would print a traceback
if TYPE_CHECKING:
    from mntapi.blocks import read
    from mntapi.errors import MntapiError
    from mntapi.guests.types import Guest
    from mntapi.restore.copy import Copier, CopyOptions
    from mntapi.session.diskset import DiskSet, open_disks
    from mntapi.session.paths import resolve
    from mntapi.session.tree import VolumeTree, open_tree
    from mntapi.types import Blocks, DiskSpec, FileSystem, Image, Node, OpenOptions, Volume, VolumeState

_HOMES = {
    "Blocks": "mntapi.types",
    "Copier": "mntapi.restore.copy",
    "CopyOptions": "mntapi.restore.copy",
    "DiskSet": "mntapi.session.diskset",
    "DiskSpec": "mntapi.types",
    "FileSystem": "mntapi.types",
    "Guest": "mntapi.guests.types",
    "Image": "mntapi.types",
    "MntapiError": "mntapi.errors",
    "Node": "mntapi.types",
    "OpenOptions": "mntapi.types",
    "Volume": "mntapi.types",
    "VolumeState": "mntapi.types",
    "VolumeTree": "mntapi.session.tree",
    "open_disks": "mntapi.session.diskset",
    "open_tree": "mntapi.session.tree",
    "read": "mntapi.blocks",
    "resolve": "mntapi.session.paths",
}

__all__ = [
    "Blocks",
    "Copier",
    "CopyOptions",
    "DiskSet",
    "DiskSpec",
    "FileSystem",
    "Guest",
    "Image",
    "MntapiError",
    "Node",
    "OpenOptions",
    "Volume",
    "VolumeState",
    "VolumeTree",
    "open_disks",
    "open_tree",
    "read",
    "resolve",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mntapi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
