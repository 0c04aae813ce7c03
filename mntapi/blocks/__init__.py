"""Bytes at an offset. Every layer of this project reads one ``Blocks`` and offers another.

Not here: anything that knows a format. Start reading at ``mntapi.types.Blocks``, then ``file.py``, then ``slice.py``.
Always true: a read fills its whole buffer or raises; nothing keeps a position; nothing writes but
``writable.py`` and ``memory_overlay.py``, and those never an original.
"""

from mntapi.blocks.base import check_range, merged, read, read_clipped, shifted, whole
from mntapi.blocks.cache import Cache
from mntapi.blocks.concat import Concat
from mntapi.blocks.fault import Fault
from mntapi.blocks.file import HostFile
from mntapi.blocks.missing import Missing
from mntapi.blocks.slice import Slice
from mntapi.blocks.zero import Zero

__all__ = [
    "Cache",
    "Concat",
    "Fault",
    "HostFile",
    "Missing",
    "Slice",
    "Zero",
    "check_range",
    "merged",
    "read",
    "read_clipped",
    "shifted",
    "whole",
]
