"""btrfs on one device or several, read straight from the blocks, with every checksum verified.

Not here: finding the devices on the disks (``mntapi.volumes.named.btrfs`` puts them end to end), seed devices, writing, and
fsverity. Start reading at ``filesystem.py``; ``superblock.py``, ``devices.py``, ``chunks.py``, ``storage.py``, ``tree.py``,
``items.py``, ``subvolumes.py`` and ``content.py`` are in the order a path is walked; ``logtree.py`` replays what was synced
after the last commit, as a layer over the trees (``patched.py``), or says why not.

Always true:

* A tree node, or a sector of data, is shown only if it matches its checksum; if not, it is had in another way: from a copy, or
  computed from parity.
* A device that has missed a commit is asked last, and never for what has no checksum.
* The root is the top-level subvolume, as with ``mount -o subvolid=5``; other subvolumes are folders where they lie in it.
* Nothing is read ahead or kept but verified nodes and unpacked extents, both within limits: a file of a million extents costs
  no memory, and a damaged part of a tree hides only what is in it.
* Places are of four sorts: *logical* addresses, which trees use; bytes on a device, which chunks use; bytes on the volume,
  which errors name; offsets in files.

Source: btrfs documentation, "On-disk Format"; Linux include/uapi/linux/btrfs_tree.h for the structures and
fs/btrfs/tree-checker.c for what a sound one is. Compared with the kernel's own mount in the tests.
"""
