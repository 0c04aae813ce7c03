"""What is stored in chunks, read from whichever stripe has it: copies, and what can be computed from parity.

Whoever can tell right bytes from wrong ones takes ``versions``, one after the other; who cannot takes ``read``, which believes
no device that has missed a commit.

Source: fs/btrfs/volumes.c ``btrfs_map_block``, fs/btrfs/raid56.c; the kernel calls a version "mirror".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mntapi.errors import Corrupt, MntapiError, ReadFailed
from mntapi.filesystems.btrfs.chunks import Chunk, Piece, Stripe
from mntapi.filesystems.btrfs.devices import Device, Devices, name_of
from mntapi.filesystems.btrfs.parity import Source
from mntapi.galois import combine
from mntapi.types import Blocks

MISSING = "device-missing"
"""The slug of errors for what only a device that is not here holds."""


class Version:
    """One way to have a range of a chunk."""

    def __init__(self, storage: Storage, chunk: Chunk, parts: Sequence[tuple[Piece, Source]]) -> None:
        self._storage = storage
        self._chunk = chunk
        self._parts = parts

    @property
    def at(self) -> int:
        """The byte on the volume where it begins, for errors; of what is computed, where the first of what it is computed from
        does; 0 if that is not here."""
        piece, source = self._parts[0]
        return self._storage.place(self._chunk.stripes[source.stripes[0]], piece) or 0

    @property
    def device(self) -> int | None:
        """The device that has seen the last commit and stores it as it is; None if it is computed, or there is no such."""
        if len(self._parts) > 1 or len(self._parts[0][1].stripes) > 1:
            return None
        return self._storage.current_device(self._chunk.stripes[self._parts[0][1].stripes[0]])

    def readinto(self, buffer: memoryview) -> None:
        """Fill the buffer, which is as long as the range. Raises ReadFailed, Corrupt: it cannot be had in this way."""
        for piece, source in self._parts:
            self._storage.fill(self._chunk, piece, source, buffer[piece.position : piece.position + piece.length])


class Storage:
    """Reads chunks. Thread-safe; borrows the volume."""

    def __init__(self, volume: Blocks, devices: Devices) -> None:
        self._volume = volume
        self._devices = devices

    def read(self, chunk: Chunk, logical: int, buffer: memoryview, *, is_verified: bool) -> None:
        """Fill the buffer, each piece from the first source that can be read.

        Args:
            chunk: what all of the range lies in.
            logical: the first byte.
            buffer: as for ``Blocks.readinto``.
            is_verified: the caller compares checksums, so that a device that missed a commit may be read.

        Raises:
            ReadFailed, Corrupt: a piece has no such source; says what is wrong with the first.
        """
        for piece in chunk.pieces(logical, len(buffer)):
            part = buffer[piece.position : piece.position + piece.length]
            self._first(chunk, piece, part, is_verified=is_verified)

    def versions(self, chunk: Chunk, logical: int, length: int) -> Iterator[Version]:
        """All ways to have a range of the chunk, the best first: what devices hold that have seen the last commit."""
        pieces = list(chunk.pieces(logical, length))
        sources = [self._sources(chunk, piece) for piece in pieces]
        taken = [next(each) for each in sources]
        more = True
        while more:
            yield Version(self, chunk, list(zip(pieces, taken, strict=True)))
            following = [next(each, None) for each in sources]
            more = any(following)
            taken = [source or old for source, old in zip(following, taken, strict=True)]

    def _first(self, chunk: Chunk, piece: Piece, part: memoryview, *, is_verified: bool) -> None:
        failures: list[MntapiError] = []
        for source in self._sources(chunk, piece):
            try:
                if not is_verified:
                    self._check_current(chunk, source)
                self.fill(chunk, piece, source, part)
            except (Corrupt, ReadFailed) as error:
                failures.append(error)
            else:
                return
        raise most_telling(failures)

    def _sources(self, chunk: Chunk, piece: Piece) -> Iterator[Source]:
        """Those of the piece, the ones that need an old device after all others."""
        for is_current in (True, False):
            for source in chunk.sources(piece):
                if self._is_current(chunk, source) is is_current:
                    yield source

    def _is_current(self, chunk: Chunk, source: Source) -> bool:
        return all(self.current_device(chunk.stripes[index]) is not None for index in source.stripes)

    def _check_current(self, chunk: Chunk, source: Source) -> None:
        for index in source.stripes:
            stripe = chunk.stripes[index]
            device = self._device(stripe)
            if device is not None and not device.is_current:
                name = name_of(stripe.device, stripe.uuid)
                raise Corrupt(
                    f"has no checksum, and lies on {name}, which has missed changes",
                    offset=device.start + stripe.start,
                    reason="device-old",
                )

    def _device(self, stripe: Stripe) -> Device | None:
        return self._devices.find(stripe.device, stripe.uuid)

    def current_device(self, stripe: Stripe) -> int | None:
        """The stripe's device if it is here and has seen the last commit."""
        device = self._device(stripe)
        return stripe.device if device is not None and device.is_current else None

    def place(self, stripe: Stripe, piece: Piece) -> int | None:
        """The byte on the volume where a stripe has the piece, None if the device is not here."""
        device = self._device(stripe)
        return None if device is None else device.start + stripe.start + piece.offset

    def fill(self, chunk: Chunk, piece: Piece, source: Source, part: memoryview) -> None:
        """Fill ``part`` with a piece, from this source. Raises ReadFailed, Corrupt."""
        if len(source.stripes) == 1 and source.factors == (1,):
            at = self._checked(chunk.stripes[source.stripes[0]], piece)
            self._volume.readinto(at, part)
            return
        places = [self._checked(chunk.stripes[index], piece) for index in source.stripes]
        columns = [memoryview(bytearray(len(part))) for _ in places]
        for at, column in zip(places, columns, strict=True):
            self._volume.readinto(at, column)
        combine(source.factors, columns, part)

    def _checked(self, stripe: Stripe, piece: Piece) -> int:
        """The byte on the volume where a stripe has the piece. Raises ReadFailed, Corrupt: it is not there."""
        device = self._device(stripe)
        if device is None:
            raise ReadFailed(
                f"cannot be read: {name_of(stripe.device, stripe.uuid)} is missing",
                hint="add the disk that holds it; seed devices are not read",
                reason=MISSING,
            )
        end = device.start + device.size
        at = device.start + stripe.start + piece.offset
        if at + piece.length > end:
            raise Corrupt(
                "a chunk goes past the end of its device", offset=at, expected=f"at most {end}", reason="run-outside-volume"
            )
        return at


def most_telling(failures: Sequence[MntapiError]) -> MntapiError:
    """The first of them, or that which names a missing device, for it says what to do."""
    return next((failure for failure in failures if failure.reason == MISSING), failures[0])
