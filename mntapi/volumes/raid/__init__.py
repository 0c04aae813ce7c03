"""RAID: ``Blocks`` out of the ``Blocks`` of several disks, for every volume manager that stripes, mirrors or computes parity.

Not here: metadata. Who the members are, in which order, and what they may be trusted for is the business of the schemes (MD,
LVM, LDM); a member whose end must not be believed is given as ``Concat`` of a ``Slice`` and ``Missing``. Start reading at
``striped.py``, then ``gather.py``; the parity is in ``parity.py`` and ``rebuild.py``, its layouts in ``layout.py``.

Always true:

* Offsets and sizes are bytes; members are in the array's own order; None is a member that is missing.
* A member that cannot be read at some place is treated there as missing; what redundancy cannot replace raises, never zeros.
* Members are borrowed: closing an array leaves them open.
"""

from mntapi.volumes.raid.layout import ParityLayout
from mntapi.volumes.raid.mirrored import Mirrored
from mntapi.volumes.raid.parity import ParityArray
from mntapi.volumes.raid.raid10 import Raid10
from mntapi.volumes.raid.striped import Striped

__all__ = ["Mirrored", "ParityArray", "ParityLayout", "Raid10", "Striped"]
