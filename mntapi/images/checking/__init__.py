"""What is wrong with the container of a disk: its headers, tables, checksums and chain, listed as ``Fault`` after ``Fault``.

Not here: what is inside (partitions, file systems), and any repair. Start reading at ``disk.py``: the table of formats and the
order in which a disk is checked; then at the module of one format. Always true: files are only read; memory is bounded however
large the tables are, and so is the number of faults told; what a format's module finds does not hide what the others find.
"""

from mntapi.images.checking.disk import CHECKERS, check_disk
from mntapi.images.checking.fault import Fault, Severity

__all__ = ["CHECKERS", "Fault", "Severity", "check_disk"]
