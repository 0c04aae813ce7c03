"""btrfs on one device, read straight from its blocks, with every checksum verified.

Not here: several devices (``mntapi.volumes.named`` names them), the log tree (what was synced after the last commit is not
shown; the probe says so), writing, and fsverity. Start reading at ``filesystem.py``; ``superblock.py``, ``chunks.py``,
``tree.py``, ``items.py``, ``subvolumes.py`` and ``content.py`` are in the order a path is walked.

Always true:

* A tree node, or a sector of data, is shown only if it matches its checksum; if not, a second copy (profile DUP) is tried.
* The root is the top-level subvolume, as with ``mount -o subvolid=5``; other subvolumes are folders where they lie in it.
* Nothing is read ahead or kept but verified nodes and unpacked extents, both within limits: a file of a million extents costs
  no memory, and a damaged part of a tree hides only what is in it.
* Places are of three sorts: *logical* addresses, which trees use; bytes on the volume, which errors name; offsets in files.

Source: btrfs documentation, "On-disk Format"; Linux include/uapi/linux/btrfs_tree.h for the structures and
fs/btrfs/tree-checker.c for what a sound one is. Compared with the kernel's own mount in the tests.
"""
