"""File systems in user space: a tree or a folder of disks, shown to the kernel over ``/dev/fuse``.

Speaks the kernel's protocol itself. Not here: mount(2) and fusermount3 (``mntapi.kernel``), and what is inside a file system
(``mntapi.filesystems``). Start reading at ``operations.py`` (what a tree must answer), then ``server.py`` (the loop),
``dispatch.py`` (each request; ``writing.py`` those that write), ``protocol.py`` (the layouts); ``treefs.py`` (with
``failures.py``, what it remembers of bad files) and ``blockfs.py`` are the two trees there are, ``fusepy_backend.py`` runs the
same trees on libfuse.

Always true: read-only but for the block files of an overlay; an answer is right or an errno; node numbers are stateless, so a
restarted worker goes on where its predecessor died; the serving process never touches a path of its own mount, for it would
wait for itself.
"""
