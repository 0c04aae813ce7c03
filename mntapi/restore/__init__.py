"""Files out of a guest, onto the host: a ``FileSystem`` in, files with their metadata out.

Not here: printing, progress bars, finding volumes. Start reading at ``copy.py``. Always true: nothing is written outside the
folder the user named, whatever names and links the guest holds; a file has its own name only when every byte of it is right.
"""
