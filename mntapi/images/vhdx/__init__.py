"""VHDX, the disk format of Hyper-V: fixed, dynamic and differencing disks, read-only, with the log replayed in memory.

Not here: writing, and so no flushing of the log: the file stays as it was found. Start reading at ``image.py``; then
``structures.py`` (headers, regions) and ``metadata.py``, ``log.py`` (which entries count) and ``replay.py`` (what they change),
``layout.py`` (block table and sector bitmaps). Always true: nothing but the headers is read before the log was replayed; every
structure has had its checksum verified; what the file says is required and we do not know is refused by name.

Source: [MS-VHDX], revision 7.0.
"""

from mntapi.images.vhdx.image import Structure, open_image, read_structure

__all__ = ["Structure", "open_image", "read_structure"]
