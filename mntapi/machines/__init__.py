"""Machine files: what names the disks of a virtual machine. A file in, the ordered names of its disks out.

What it is not: anything that opens a disk (``images``), or a reader of binary configurations (Hyper-V's ``.vmcx``, refused by
name). Start reading at ``model.py``, then ``detect.py``, then ``vmx.py``.
Always true: names are handed on as they are written, and nothing here opens them; XML is parsed without document types,
entities and external references; a disk that a machine has and that cannot be named as a file is an error or is listed in
``left_out``, never dropped.
"""

from mntapi.machines.detect import is_machine, read_machine
from mntapi.machines.model import Chunks, Machine, MachineDisk, Snapshot
from mntapi.machines.vmsd import read_snapshots

__all__ = ["Chunks", "Machine", "MachineDisk", "Snapshot", "is_machine", "read_machine", "read_snapshots"]
