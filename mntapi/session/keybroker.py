"""How keys get from the command to its worker.

The worker may be in the hands of an image, so it gets a key when it asks for those of a volume, and no others:

    worker   keys    names of a volume, and a kind      command   keys, with a descriptor to a memory file that has the secrets
    worker   ask     a volume and what it wants         command   the same, with what a person answered; none if that person
                                                                  is only told that no answer was right (``is_last``), or that
                                                                  trying a key takes a while (``is_wait``)
    worker   passphrases                                command   the same, with those of the disks themselves

Always true: no key is in an argument, in the journal or in a message; the memory file is overwritten by its reader.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from mntapi.errors import Corrupt, MntapiError
from mntapi.keys import Key, KeyKind, Keys, Secret
from mntapi.session.channel import Channel, Message, pack_error, unpack_error
from mntapi.types import OpenOptions
from mntapi.units import MIB

MAX_REQUESTS = 2 * 8192
"""Times a worker may ask for keys: twice for each volume of a scan."""
MAX_ASKED = 64
"""Times a person is asked on behalf of one worker, and times that person is told to wait."""
_MAX_SENT = 256
_MAX_NAMES = 16
"""Names of one volume: id, name, UUIDs, in all the ways in which they are written."""
_MAX_TEXT = 1000


class KeyBroker:
    """The command's side: answers what the worker asks for."""

    def __init__(self, options: OpenOptions) -> None:
        self._keys = options.keys
        self._passphrases = options.passphrases
        self._requests = 0
        self._asked = 0
        self._announced = 0

    def answer(self, channel: Channel, message: Message) -> None:
        """Send the keys that ``message`` asks for, or the error."""
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise Corrupt("the worker wants too many keys", expected=f"at most {MAX_REQUESTS}")
        try:
            found = list(self._answers[message["op"]](self, message))
        except MntapiError as error:
            channel.send(pack_error(error))
            return
        send_keys(channel, found[:_MAX_SENT])

    def _find(self, message: Message) -> Iterable[Key]:
        names, kind = message.get("names"), message.get("kind")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Corrupt("the worker wants the keys of a volume without a name")
        if len(names) > _MAX_NAMES or any(len(name) > _MAX_TEXT for name in names):
            raise Corrupt("the worker wants the keys of a volume with too many names", expected=f"at most {_MAX_NAMES}")
        known = kind if kind is None else next((each for each in KeyKind if each == kind), None)
        return self._keys.of(*names, kind=known) if known is not None or kind is None else ()

    def _ask(self, message: Message) -> Iterable[Key]:
        volume, wants = str(message.get("volume"))[:_MAX_TEXT], str(message.get("wants"))[:_MAX_TEXT]
        if message.get("is_wait"):
            self._announced += 1
            if self._announced <= MAX_ASKED:
                self._keys.announce(volume, wants)
            return ()
        self._asked += 1
        if self._asked > MAX_ASKED:
            return ()
        if not message.get("is_last"):
            return self._keys.asked(volume, wants)
        if self._keys.tell is not None:
            self._keys.tell(volume, wants)
        return ()

    def _images(self, _message: Message) -> Iterable[Key]:
        return (Key(KeyKind.PASSPHRASE, Secret(os.fsencode(text))) for text in self._passphrases)

    _answers: ClassVar = {"keys": _find, "ask": _ask, "passphrases": _images}


def brokered_passphrases(channel: Channel) -> tuple[str, ...]:
    """The worker's side: the passphrases of encrypted images, for ``OpenOptions``."""
    channel.send({"op": "passphrases"})
    found = receive_keys(channel)
    passphrases = tuple(os.fsdecode(key.secret.reveal()) for key in found)
    for key in found:
        key.secret.wipe()
    return passphrases


def brokered_keys(channel: Channel, memory: int) -> Keys:
    """The worker's side: keys that come from the other side of ``channel`` when they are looked for."""

    def find(names: tuple[str, ...], kind: KeyKind | None) -> list[Key]:
        channel.send({"op": "keys", "names": list(names), "kind": kind})
        return receive_keys(channel)

    def ask(volume: str, wants: str) -> list[Key]:
        channel.send({"op": "ask", "volume": volume, "wants": wants})
        return receive_keys(channel)

    def tell(volume: str, why: str) -> None:
        channel.send({"op": "ask", "volume": volume, "wants": why, "is_last": True})
        receive_keys(channel)

    def wait(volume: str, what: str) -> None:
        channel.send({"op": "ask", "volume": volume, "wants": what, "is_wait": True})
        receive_keys(channel)

    return Keys(find=find, ask=ask, tell=tell, wait=wait, memory=memory)


def send_keys(channel: Channel, keys: Sequence[Key]) -> None:
    """Send keys, their secrets in a memory file that only its descriptor leads to."""
    views = [key.secret.view() for key in keys]
    described = [
        {"kind": key.kind.value, "volume": key.volume, "size": len(view)} for key, view in zip(keys, views, strict=True)
    ]
    fd = os.memfd_create("keys", os.MFD_CLOEXEC)
    try:
        for view in views:
            while view:
                view = view[os.write(fd, view) :]
        channel.send({"op": "keys", "keys": described}, [fd])
    finally:
        os.close(fd)


def receive_keys(channel: Channel) -> list[Key]:
    """The keys that ``send_keys`` sent. Raises what the other side answered instead."""
    message, fds = channel.receive()
    if message.get("op") == "error":
        raise unpack_error(message)
    if message.get("op") != "keys" or len(fds) != 1:
        raise Corrupt("keys were promised and did not come")
    try:
        return [_received(fields, fds[0], at) for fields, at in _places(message["keys"])]
    finally:
        _overwrite(fds[0])
        os.close(fds[0])


def _places(described: Sequence[Message]) -> Iterator[tuple[Message, int]]:
    at = 0
    for fields in described:
        yield fields, at
        at += fields["size"]


def _received(fields: Message, fd: int, offset: int) -> Key:
    secret = Secret(bytes(fields["size"]))
    with secret.view() as view:
        done = 0
        while done < len(view):
            count = os.preadv(fd, [view[done:]], offset + done)
            if not count:
                raise Corrupt("keys were promised and did not come whole")
            done += count
    return Key(KeyKind(fields["kind"]), secret, fields["volume"])


def _overwrite(fd: int) -> None:
    size = os.fstat(fd).st_size
    if size:
        with mmap.mmap(fd, size) as content:  # a write would be held to the limit on the size of files
            for at in range(0, size, MIB):
                content[at : at + MIB] = bytes(min(MIB, size - at))
