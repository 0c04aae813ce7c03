"""Opening disks by URL, and the files that such a disk names, by the rule that holds for files too."""

from __future__ import annotations

from mntapi.errors import Denied
from mntapi.remote.dial import Connector, dial
from mntapi.remote.urls import Url, is_url, neighbour
from mntapi.types import FileBlocks, Opener


def open_remote(url: str, *, connect: Connector = dial) -> FileBlocks:
    """Open what a URL names: ``nbd``, ``nbds``, ``nbd+unix``, ``nbds+unix``, ``http`` or ``https``.

    Args:
        connect: gives connected sockets; all that is said over them is said here.

    Raises: as ``NbdBlocks.open`` and ``HttpBlocks.open``. No message and no ``path`` holds a password or a query.
    """
    if Url.parse(url).is_nbd:
        from mntapi.remote.nbd import NbdBlocks  # TLS and HTTP take time to import, which who has only paths does not pay

        return NbdBlocks.open(url, connect=connect)
    from mntapi.remote.http import HttpBlocks

    return HttpBlocks.open(url, connect=connect)


class RemoteOpener:
    """An ``Opener`` for URLs that leaves paths to ``local``.

    A disk on a server may name files below its own folder on that server. A disk in a local file may name no URL, unless
    ``allow_outside``: a descriptor that arrives from elsewhere must not make a proxy call hosts.
    """

    def __init__(self, local: Opener, *, allow_outside: bool = False, connect: Connector = dial) -> None:
        self._local = local
        self._allow_outside = allow_outside
        self._connect = connect
        self._secrets: dict[str, str] = {}
        """URLs as given, by what ``path`` shows of them."""

    def open(self, name: str, *, relative_to: str | None = None) -> FileBlocks:
        """See ``mntapi.types.Opener``."""
        if relative_to is not None and is_url(relative_to):
            url = neighbour(self._secrets.get(relative_to, relative_to), name, allow_outside=self._allow_outside)
        elif not is_url(name):
            return self._local.open(name, relative_to=relative_to)
        elif relative_to is None or self._allow_outside:
            url = name
        else:
            raise Denied(
                "names a disk on a server",
                path=relative_to,
                hint="if you trust where this disk came from, repeat with --allow-outside",
                reason="outside",
            )
        self._secrets[Url.parse(url).display] = url
        return open_remote(url, connect=self._connect)
