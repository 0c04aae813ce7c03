"""One tree as the guest's users knew it: a ``FileSystem`` that is a combinator over the file systems of the volumes.

    Linux      /etc/passwd, /home as fstab mounts it (a volume, or a subvolume of one), /volumes/disk0p3 (what nothing mounts)
    Windows    /C:/Users, /D:/, /volumes/...
    several    /guest0/etc/passwd, /guest1/C:/Users, /volumes/...
    snapshots  /@2026-11-01T02:00:00Z, /home/@2026-11-01T02:00:00Z, /C:/@2026-11-01T02:00:00Z: beside the live tree, at the root
               of each drive or mount point and nowhere else

Not here: which guests there are (``mntapi.guests``), and paths as users write them (``session/paths.py``). Start reading at
``places.py`` (what the tree is made of), then ``assembly.py`` (made from guests), ``tree.py`` (served), ``links.py`` and
``shown.py`` (where links lead: on the command line, and seen through FUSE).

Always true: a mount point hides the folder that it covers, as in a kernel; an inode number is computed from the place and the
number in its file system, so a file's is the same in every process that opens the same disks in the same order; a volume is
reached by its name (``/disk0p1/etc/passwd``, of btrfs the top-level subvolume) too, where the guest has nothing of that name;
nothing is left out: what cannot be read is a folder that says why.
"""

from mntapi.session.guest_tree.assembly import assemble
from mntapi.session.guest_tree.missing import advice_for, is_medium
from mntapi.session.guest_tree.shown import ShownTree
from mntapi.session.guest_tree.tree import GuestTree

__all__ = ["GuestTree", "ShownTree", "advice_for", "assemble", "is_medium"]
