"""Volume shadow copies (VSS): the earlier states that Windows keeps of an NTFS volume, each as a volume of its own.

A copy keeps the blocks that changed since in a store, on the volume itself or on another one of the set; the catalog of the
volume says which copies there are. Not here: copies that a hardware provider made. Known to differ from Windows: the stores
themselves (files in ``System Volume Information``) read in a copy as they are, where Windows shows zeros. Start reading at
``scheme.py``, then ``snapshot.py`` (which block comes from where) and ``store.py``.

Always true: the volume stays listed, and a copy is not a part of it; a copy whose store, or the store of a newer copy, is on a
volume that is not in the set is INCOMPLETE and reads as errors; copies of copies are not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.blocks import read_clipped
from mntapi.types import Volume
from mntapi.volumes.vss.structures import HEADER_AT, HEADER_SIZE, parse_header

name = "vss"

_SIGNATURE_AT = 3
_NTFS = b"NTFS    "


def claims(volume: Volume) -> bool:
    """Whether it is an NTFS volume with copies, or with the stores of copies of another. Its state is the scheme's own word."""
    if volume.kind == name or read_clipped(volume.blocks, _SIGNATURE_AT, len(_NTFS)) != _NTFS:
        return False
    header = parse_header(read_clipped(volume.blocks, HEADER_AT, HEADER_SIZE))
    return header is not None and header.catalog != 0


def volumes(claimed: Sequence[Volume]) -> Iterator[Volume]:
    """See ``Scheme.volumes``. What it takes is imported with the first claimed volume: other disks are not to pay for it."""
    from mntapi.volumes.vss.scheme import volumes

    return volumes(claimed)
