"""Disks that are not files of this host: NBD exports and files on web servers, as ``Blocks``.

Not here: image formats (a qcow2 file on a web server is opened by ``images`` on top of ``HttpBlocks``), and anything that
writes. Start reading at ``opener.open_remote``, then ``nbd.py`` and ``http.py``; ``urls.py`` says what a URL may be,
``dial.py`` connects, ``wire.py`` says how long an answer may take and how long it may be, ``pool.py`` how many connections
there are, ``patience.py`` and ``retry.py`` how long a server may be away.

Always true: every length a server sends is checked against what was asked before it is used. Nothing waits without a deadline.
No message shows a password. Sockets are made by ``connect``, which the caller can give, and by nothing else: handshakes and
encryption included, all is done with ``send`` and ``recv`` on sockets that exist, so that it works in a confined process. Such
a process imports what it needs and calls ``wire.tls_context()`` before it is confined.

Only what is cheap to import is here: whoever has a path and no URL does not pay for HTTP and TLS.
"""

from mntapi.remote.urls import Endpoint, Url, absolute, is_url, neighbour

__all__ = ["Endpoint", "Url", "absolute", "is_url", "neighbour"]
