"""File systems: ``Blocks`` in, names and files out; and the probe that tells what a volume holds.

Not here: partitions and volume managers (``mntapi.volumes``). Start reading at ``probe.py``, then
``signatures/table.py``. Always true: nothing is written, and an unreadable sector raises instead of looking like an absence.
"""
