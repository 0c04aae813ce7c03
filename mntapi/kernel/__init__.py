"""What only the kernel can do: loop devices, mounts, commands, processes, and giving up rights.

The one place with ctypes, ioctl, mount(2) and subprocess. Not here: anything that knows a disk format, or who owns a mount
and for how long (that is ``mntapi.session``). Start reading at ``loop.py``, then ``mount.py``, then ``sandbox.py``.
Always true: a failed system call is an error of ``mntapi.errors`` that says what to do; nothing is mounted writable; nothing is
unmounted lazily or by force unless that was asked for. Nothing is imported until it is used.
"""
