"""LUKS, versions 1 and 2: an encrypted volume with its header in front, or stored away from it.

Start reading at ``scheme.py`` (what becomes of a volume), then ``header.py`` (what both versions come down to), ``luks2.py``.
The ciphers and key slots themselves are in ``mntapi.crypto``, which the LUKS inside QCOW2 files uses too.

Not read, and named: reencryption in progress, integrity tags (dm-integrity, authenticated ciphers), hardware encryption (OPAL),
and ciphers that no installed library has. Tokens are ignored: they tell how others would get a passphrase.

Always true: nothing is derived before there is a key to try, and for one volume not longer than a limit; a volume that stays
locked is listed, as ENCRYPTED, with what it wants. A header of version 2 that is spoilt is replaced by its second copy.
One stored elsewhere is for the volume that the user names, or else for what looks like ciphertext and is no noise by it.
"""

from mntapi.volumes.luks.scheme import with_keys

__all__ = ["with_keys"]
