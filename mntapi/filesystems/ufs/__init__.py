"""UFS1 and UFS2 in either byte order (FreeBSD, NetBSD, OpenBSD, and old ones as far as they look the same).

Not here: the journals (what was not written back is not shown), extended attributes, and The Sleuth Kit, which loops for hours
over a damaged size, divides by a fragment size of 0 and looks for UFS2 in two of its four places. Start reading at
``filesystem.py``; ``superblock.py``, ``inode.py``, ``content.py`` and ``directory.py`` are in the order a path is walked.
Always true: a block map is followed as far as a read needs it and never as a whole, so that no size makes anything slow;
whatever contradicts the format raises Corrupt with its byte on the volume.

Sources: FreeBSD sys/ufs/ffs/fs.h, sys/ufs/ufs/dinode.h, sys/ufs/ufs/dir.h, sys/ufs/ffs/ffs_subr.c.
"""
