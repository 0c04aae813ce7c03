"""BitLocker: volumes of Windows Vista and later, and To Go drives, decrypted with what the user has.

Read: AES-CBC with and without diffuser, AES-XTS, with 128 and 256 bits; volumes that are being converted, also by
encrypt-on-write. Opened by: a password, a recovery password, a startup key file, a clear key (suspended protection). Not opened
by: a TPM, a smart card, a domain's key; such volumes have a recovery password. Start reading at ``volumes`` here, then
``metadata.py``, ``protectors.py``, ``layout.py``, ``ciphers.py``.

Always true: without its key a volume is listed as ENCRYPTED with what it wants; where it is not known whether a range is
encrypted, reading it is an error; a key is never in a message, and what it was made from is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mntapi.blocks import read_clipped
from mntapi.keys import Keys
from mntapi.types import Scheme, Volume
from mntapi.units import SECTOR
from mntapi.volumes.bitlocker.boot import is_bitlocker

if TYPE_CHECKING:
    from mntapi.volumes.bitlocker.scheme import Containers


def with_keys(keys: Keys) -> Scheme:
    """The scheme that tries these keys, and asks for more if they come with a way to."""
    return _BitLocker(keys)


class _BitLocker:
    """The scheme; what it takes to unlock is imported with the first volume: other disks are not to pay for it."""

    name = "bitlocker"

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._containers: Containers | None = None

    def claims(self, volume: Volume) -> bool:
        return is_bitlocker(read_clipped(volume.blocks, 0, SECTOR))

    def volumes(self, claimed: Sequence[Volume]) -> Iterator[Volume]:
        from mntapi.volumes.bitlocker.scheme import Containers

        self._containers = self._containers or Containers(self._keys)
        return self._containers.volumes(claimed)
