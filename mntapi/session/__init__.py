"""What a user opened, and everything made on its behalf: composes all other layers and owns every lifetime.

``diskset.py`` opens disks and lists their volumes; ``tree.py`` makes one file system of them; ``mounts.py`` presents them in
the background and takes them away again, with ``journal.py`` as its memory. Not here: formats, kernel calls, printing.
Start reading at ``diskset.py``. Always true: what is opened is released through one ``ExitStack``; what is made outside this
process is in the journal before it is made.
"""
