"""Linux guests: what is installed, and what goes where.

Not here: other systems that have an ``/etc`` (``mntapi.guests.bsd``, ``.esxi``, ``.android``), which are asked first. Start at
``guest.py``: ``roots.py`` finds where a system is, ``fstab.py``, ``units.py`` and ``discoverable.py`` what it wants mounted,
``devices.py`` which volumes that are; ``joined.py`` puts them together, and ``release.py``, ``facts.py`` and the rest read it.

Always true: a mount point's volume is named only where the guest's word leads to one volume, and what is doubtful about that is
in its reason; what a guest refers to and the set has not is listed as missing.
"""

from mntapi.guests.linux.guest import find

__all__ = ["find"]
