"""NTFS, read straight from its file records and index blocks.

Not here: ``$LogFile`` (the probe says when it was not empty), security descriptors, and whatever a filter driver of Windows
puts between a file and its bytes: WOF, deduplication and cloud files are named in ``Node.reason`` and refused.
Start reading at ``filesystem.py``; ``boot.py``, ``record.py``, ``attribute.py``, ``index.py``, ``reparse.py`` and ``lznt1.py``
are parsers in the order a file is reached; ``mft.py`` finds records.
Always true: what lies behind a stream's initialised size reads as zeros, as on Windows; a record, an index block or a run that
contradicts its format raises Corrupt; metadata files (records below 16, but for the root) are never among the names.

Source: the layout as documented by the Linux-NTFS project and by Microsoft's [MS-FSCC]; compared with ntfs-3g in the tests.
"""
