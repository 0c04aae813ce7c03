"""Volumes: whole disks in, the volumes on them out (``scan``), by a loop that ends when no scheme claims anything any more.

One scheme, one module, each with ``name``, ``claims`` and ``volumes`` (``mntapi.types.Scheme``); ``scan.py`` has the table of
them and the loop, ``disks.py`` gives disks their ids. Not here: what is inside a volume (``filesystems``), and any decision
about which volume a user wants. Not read, and listed as a disk or partition of unknown content: BSD disklabels, Solaris, Minix
and UnixWare slices, Sun, SGI, Mac, Amiga, Atari, AIX and DASD tables. Start reading at ``scan.py``, then ``mbr.py``.

Always true:

* Nothing is hidden: a volume is either in the result or a member of one that is.
* What a table says and the disk cannot give is a state with a reason, never zeros: a volume covers only bytes that exist.
* Damage on one disk changes nothing on another, and no bytes on a disk make ``scan`` raise.
* A scheme is a function of the volumes it claimed: asked again when members were added, it gives everything again.
* Partition tables are looked for on everything but partitions, as Linux does; all else nests in any order.
"""
