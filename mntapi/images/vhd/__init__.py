"""VHD, the disk format of Virtual PC, older Hyper-V, Azure and XenServer: fixed, dynamic and differencing disks, read-only.

Not here: VHDX, which shares nothing with it but the maker. Start reading at ``image.py``, then ``structures.py`` (footer,
header, parent locators) and ``layout.py`` (block table and sector bitmaps). Always true: the footer and the header that are
used had the right checksum; a block that the table places outside the file raises and never reads as zeros.

Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0, 2006; libvhdi's documentation of the format for what
writers do differently.
"""

from mntapi.images.vhd.image import open_image

__all__ = ["open_image"]
