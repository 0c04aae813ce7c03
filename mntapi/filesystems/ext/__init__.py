"""ext2, ext3 and ext4, read straight from their blocks.

Not here: checksums (but for the journal's), fast commits, and pytsk3, which knows neither inode flags nor the years after 2038.
Start reading at ``filesystem.py``; ``superblock.py``, ``inode.py``, ``mapping.py``, ``directory.py`` and ``xattr.py`` are
parsers in the order a path is walked. ``recovery.py`` replays a journal that is not empty, in memory; ``journal.py`` parses it.
Always true: a hole, and a block that was allocated and never written, read as zeros, as in the kernel; whatever contradicts
the format raises Corrupt with its byte on the volume.

Source: Linux Documentation/filesystems/ext4 and fs/ext4/ext4.h; compared with the kernel's own mount in the tests.
"""
