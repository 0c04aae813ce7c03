"""XFS, versions 4 and 5, read straight from its blocks.

Not here: logs on another device, the realtime device, quotas, the free-space and reverse-mapping trees, and versions 1 to 3
with their old folders. Start reading at ``filesystem.py``; ``superblock.py``, ``inode.py``, ``extents.py``, ``directory.py``
and ``attributes.py`` are in the order a path is walked; ``described.py`` is where what a version 5 says of itself is verified,
``inode_table.py`` does so for many inodes at once, ``groups.py`` counts what is free. A log that is not empty is replayed in
memory, by ``recovery.py``: ``log.py`` finds the records that count, ``transactions.py`` puts together what is in them,
``items.py`` says what it means, ``logged_inode.py``, ``owners.py``, ``moves.py`` and ``stamps.py`` know the parts, and
``changes.py`` is the layer that the reader then reads.
Always true: in version 5 nothing is believed whose checksum, place, owner or UUID is wrong, which costs that object only;
holes and unwritten extents read as zeros, as in the kernel; whatever contradicts the format raises Corrupt with its byte on
the volume.

Source: XFS Algorithms & Data Structures, 3rd edition; Linux fs/xfs/libxfs/xfs_format.h and xfs_da_format.h; compared with the
kernel's own mount in the tests.
"""
