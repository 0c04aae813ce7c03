"""QCOW2, QEMU's copy-on-write disk: versions 2 and 3, chains, snapshots, compression, encryption, and overlays to write to.

Not here: QCOW version 1 (said), dirty bitmaps (ignored), reference counts when reading (not needed). Start reading at
``image.py``, then ``mapping.py``; for writing at ``overlay.py``. Always true: a byte is the guest's or an error says where the
file is wrong; tables are read when they are needed and what is kept of them is bounded; backing and data files are opened
through the ``Chain`` alone; only files that ``create.py`` made are written.
"""

from mntapi.images.qcow2.image import list_snapshots, open_image
from mntapi.images.qcow2.snapshots import Snapshot

__all__ = ["Snapshot", "list_snapshots", "open_image"]
