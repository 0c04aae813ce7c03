"""Registry hives: the files that Windows keeps its settings in, and their transaction logs.

Not here: what the keys mean (``guests/windows``). Not read: hives of NT 3, security descriptors, class names, volatile keys
(which are never stored), layered keys of containers, and CLFS logs of transactional changes (``TxR``), which Windows applies at
the next boot. Start reading at ``hive.py``; ``base.py``, ``records.py`` and ``log.py`` are parsers, ``recovery.py`` puts a
hive and its logs together, ``marvin32.py`` is the checksum of log entries.

Always true: nothing is written and no hive is ever whole in memory: what is asked for is read, from the log where that is
newer. One hive gives a limited number of bytes of its cells, so that no circle of keys and no invented count leads far.

Source: M. Suhanov, "Windows registry file format specification", sections named in each module. Compared with regipy,
hivex and dissect.regf on hives of Windows 10 in the tests.
"""

from mntapi.guests.windows.regf.hive import Hive, Key, Value
from mntapi.guests.windows.regf.records import ValueKind

__all__ = ["Hive", "Key", "Value", "ValueKind"]
