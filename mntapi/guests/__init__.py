"""Guests: the systems installed on a set's volumes, and where each mounts them.

Not here: how a volume's files are read (``filesystems``), and the one tree a user sees (``session``). Start at ``types.py``,
then ``finder.py``; each family is a package with ``find(candidates) -> Iterator[Guest]``. Always true: nothing of a guest is
executed, no link leads out of its file system, every file read has a named limit, and what is not recorded is None, never a
guess.
"""
