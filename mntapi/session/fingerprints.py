"""Whether the original of an overlay still is what it was when the overlay was made.

An overlay holds clusters; all others are the original's. If somebody wrote to that meanwhile, the two together are a disk that
never was. So the overlay's header has a note of every file of the original: its size, its time of change, and a hash of both
its ends, where formats keep what counts their changes (the content ID of a VMDK, the headers of a VHDX, the footer of a VHD).
The header, and not an extended attribute: it comes along when the overlay is copied to another machine, and QEMU keeps it.

A file is the same if size, time and hash are. What administrators do to a disk that leaves it as it is keeps all three: moving
and renaming it, ``cp -p``, ``rsync -a``, restoring it from a snapshot or an archive, some of them with a coarser time.
A copy with a new time cannot be told from a disk that was written in the middle, and is refused like one. Files are compared in
the order in which they name each other, whatever they are called now, those of this host first. Of a file on a server it is
size and ends, and on a web server the ETag and the date of change.

Not here: where an original is found again (``originals.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

from mntapi.blocks import HostFile, read, read_clipped
from mntapi.closing import closed_on_error
from mntapi.errors import Corrupt, MntapiError
from mntapi.images.qcow2.create import MAX_NOTE, note_in
from mntapi.images.qcow2.header import parse_header
from mntapi.images.qcow2.overlay import CLUSTER
from mntapi.session.witness import Named, Witness
from mntapi.types import Blocks, FileBlocks, Image, Link, OpenOptions
from mntapi.units import KIB, SECTOR

HEAD = 256 * KIB
"""Bytes at the start of a file that are hashed: the headers of a VHDX, with its write GUIDs, end at 192 KiB."""
TAIL = 64 * KIB
MAX_LISTED = 48
"""Files of a disk with an entry of their own; of all others together there is one."""
_MAX_SHOWN = 40
"""Characters of a file's name that are noted: at most twelve bytes each in JSON."""
_TICKS_NS = (100, 1000, 1_000_000_000, 2_000_000_000)
"""Steps in which other file systems and programs keep times: NTFS, tar's and rsync's microseconds and seconds, FAT."""
REASON = "original-changed"
HINT = "--ignore-cid takes it as it is now, and mixes its bytes with those of the overlay"


class FileState(NamedTuple):
    """A file of an original: size in bytes; time of change, None for devices and servers; hash of its ends, None if unread;
    hash of ETag and date, None for all but web servers."""

    name: str
    size: int
    mtime_ns: int | None
    ends: str | None
    version: str | None = None


@runtime_checkable
class Versioned(Protocol):
    """A file on a server that tells its states apart."""

    @property
    def version(self) -> str | None:
        """What it says of the state that was opened, None if nothing."""


class OpenedFiles:
    """The files of the host that were opened for a worker, and which of them named which."""

    def __init__(self) -> None:
        self._identities: Named[tuple[int, int]] = Named()

    def add(self, file: HostFile, named_by: str | None) -> None:
        """Note a file that was opened because the file at ``named_by`` names it, or the user."""
        self._identities.add(file.path, _identity(file.fileno()), named_by)

    def has(self, fd: int) -> bool:
        """Whether ``fd`` is one of them, by whatever name."""
        return _identity(fd) in self._identities

    def states(self, top: str) -> Iterator[tuple[str, FileState]]:
        """Path and state of each file that the disk at ``top`` consists of, in the order in which they name each other.

        Raises:
            Corrupt: another file has taken the place of one.
            MntapiError: one cannot be opened again.
        """
        for count, (path, identity) in enumerate(self._identities.below(top)):
            file = HostFile.open(path)
            try:
                if _identity(file.fileno()) != identity:
                    raise Corrupt("was replaced while it was opened", path=path, reason=REASON)
                yield path, _state_of(file, with_ends=count < MAX_LISTED)
            finally:
                file.close()


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _state_of(file: HostFile, *, with_ends: bool) -> FileState:
    status = os.fstat(file.fileno())
    mtime_ns = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else None
    return FileState(_shown(os.path.basename(file.path)), file.size, mtime_ns, _ends(file) if with_ends else None)


def served_states(witness: Witness, top: str) -> list[tuple[str, FileState]]:
    """URL and state of each file on a server that the open disk at ``top`` consists of."""
    served = [(path, file) for path, file in witness.below(top) if not isinstance(file, HostFile)]
    return [(path, _served(file, with_ends=count < MAX_LISTED)) for count, (path, file) in enumerate(served)]


def _states(witness: Witness, top: str) -> list[tuple[str, FileState]]:
    """Those of this host as well, first."""
    local = [(path, file) for path, file in witness.below(top) if isinstance(file, HostFile)]
    states = [(path, _state_of(file, with_ends=count < MAX_LISTED)) for count, (path, file) in enumerate(local)]
    return [*states, *served_states(witness, top)]


def _served(file: FileBlocks, *, with_ends: bool) -> FileState:
    says = file.version if isinstance(file, Versioned) else None
    version = hashlib.sha256(says.encode("utf-8", "surrogateescape")).hexdigest()[:16] if says else None
    return FileState(_shown(file.path), file.size, None, _ends(file) if with_ends else None, version)


def _shown(name: str) -> str:
    return name if len(name) <= _MAX_SHOWN else f"...{name[3 - _MAX_SHOWN :]}"


def _ends(blocks: Blocks) -> str | None:
    """A hash of head and tail; None where a bad sector is in them, which must not keep the rest from being used."""
    try:
        ends = read(blocks, 0, min(HEAD, blocks.size)) + read(blocks, max(0, blocks.size - TAIL), min(TAIL, blocks.size))
    except MntapiError:
        return None
    return hashlib.sha256(ends).hexdigest()[:32]


def pack(states: Sequence[FileState]) -> bytes:
    """The note for the header of an overlay, always of the same length so that it can be written again in its place."""
    listed = list(states[:MAX_LISTED])
    if len(states) > MAX_LISTED:
        rest = states[MAX_LISTED:]
        digest = hashlib.sha256(repr([(one.size, one.mtime_ns) for one in rest]).encode()).hexdigest()[:32]
        listed.append(FileState(f"{len(rest)} more files", sum(one.size for one in rest), None, digest))
    return json.dumps(listed).encode("ascii").ljust(MAX_NOTE)


def parse(note: bytes) -> list[FileState] | None:
    """The states in a note; None if there are none, or nothing to make sense of: somebody else may have written it."""
    try:
        entries = json.loads(note.rstrip(b"\0"))
        return [state_from(entry) for entry in entries] if isinstance(entries, list) else None
    except (ValueError, RecursionError, Corrupt):
        return None


def state_from(fields: object) -> FileState:
    """A state out of JSON. Raises Corrupt."""
    match fields:
        case [str(name), int(size), int() | None as mtime_ns, str() | None as ends, str() | None as version]:
            return FileState(name, size, mtime_ns, ends, version)
    raise Corrupt("is no state of a file", found=ascii(fields)[:100])


def check_originals(image: Image, witness: Witness, options: OpenOptions) -> Image:
    """The image, if the original of each overlay of ours in its chain is what it was when that was made; closed if not.

    Args:
        image: just opened through ``witness``.
        options: with ``ignore_cid`` it is given back all the same, and its ``details`` say what was accepted.

    Raises:
        Corrupt: one was changed (reason ``original-changed``).
    """
    with closed_on_error(image.blocks):
        found = [str(error) for error in _changed_originals(image, witness, options)]
    if not found:
        return image
    accepted = "; ".join([*filter(None, [image.details.get("parent")]), *(f"taken as it is now: {one}" for one in found)])
    return replace(image, details={**image.details, "parent": accepted})


def _changed_originals(image: Image, witness: Witness, options: OpenOptions) -> Iterator[Corrupt]:
    for overlay, original in pairwise(image.chain):
        file = witness.get(overlay.file)
        if overlay.format != "qcow2" or file is None:  # inside a container
            continue
        head = read_clipped(file, 0, CLUSTER)
        header = parse_header(head)
        if not header.extensions.is_overlay:
            continue
        _check_length(original, witness, header.size)
        try:
            check_unchanged(overlay.file, note_in(head)[1], _states(witness, original.file))
        except Corrupt as error:
            if not options.ignore_cid:
                raise
            yield error


def _check_length(original: Link, witness: Witness, size: int) -> None:
    """Raise Corrupt for a raw original that was cut: QCOW2 would have zeros in place of its end, and nobody wants those."""
    file = witness.get(original.file) if original.format == "raw" else None
    if file is not None and file.size + SECTOR <= size:
        raise Corrupt(
            "ends before the disk that the overlay was made over",
            path=original.file,
            expected=f"{size} bytes",
            found=file.size,
            hint="bring the whole original back: what is missing is in no overlay",
            reason=REASON,
        )


def check_unchanged(overlay: str, note: bytes, now: Sequence[tuple[str, FileState]]) -> None:
    """Raise Corrupt (reason ``original-changed``) where the original is no longer what the note of its overlay says.

    Args:
        overlay: path of the overlay, for messages.
        note: from its header.
        now: path and state of each file of the original.
    """
    before = parse(note)
    if before is None:
        what = "does not say in which state its original was: it was made by an earlier version, or damaged"
        raise Corrupt(what, path=overlay, hint=HINT, reason=REASON)
    states = parse(pack([state for _, state in now])) or []
    if len(before) != len(states):
        raise Corrupt(
            "its original has another number of files than when it was made",
            path=overlay,
            expected=", ".join(one.name for one in before),
            found=", ".join(one.name for one in states),
            hint=HINT,
            reason=REASON,
        )
    paths = [path for path, _ in now[:MAX_LISTED]]
    for place, was, found in zip([*paths, overlay], before, states, strict=False):
        _check_file(place, was, found, overlay)


def _check_file(path: str, was: FileState, found: FileState, overlay: str) -> None:
    is_same_size, is_same_time = was.size == found.size, _is_same_time(was.mtime_ns, found.mtime_ns)
    has_same_ends = was.ends == found.ends or None in (was.ends, found.ends)
    has_same_version = was.version == found.version or None in (was.version, found.version)
    if is_same_size and is_same_time and has_same_ends and has_same_version:
        return
    hint = HINT
    if not is_same_size:
        what = "its size is another"
    elif not has_same_ends:
        what = "its start or end has other bytes"
    elif not has_same_version:
        what = "the web server says another ETag or date, though size, start and end are the same"
    else:
        what = "its time is another, though size, start and end are the same"
        hint = f"if it is a copy that lost the time (cp without -p), copy it again, or set that with touch -d; {HINT}"
    raise Corrupt(
        f"is not what the overlay {overlay} was made over: {what}",
        path=path,
        expected=_described(was),
        found=_described(found),
        hint=hint,
        reason=REASON,
    )


def _is_same_time(was: int | None, found: int | None) -> bool:
    """Whether they are equal, or one is the other in coarser steps."""
    if was is None or found is None:
        return was == found
    coarse, fine = sorted((was, found))
    return coarse == fine or any(fine - fine % tick == coarse for tick in _TICKS_NS)


def _described(state: FileState) -> str:
    time = "" if state.mtime_ns is None else f" of {_utc(state.mtime_ns)}"
    ends = "" if state.ends is None else f", ends {state.ends[:8]}"
    version = "" if state.version is None else f", ETag and date {state.version[:8]}"
    return f"{state.size} bytes{time}{ends}{version}"


def _utc(time_ns: int) -> str:
    """To the nanosecond: two times that differ must look different, and ``touch -d`` takes it."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}.{rest:09d}"
