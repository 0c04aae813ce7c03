"""Split disks: ``disk.001 disk.002 ...``, ``disk.000 ...``, ``disk.00 ...`` and ``disk.aa disk.ab ...``.

The pieces carry no mark, so this one format is told by the file's name (``claims``); what is inside may be of any format. The
pieces are found by counting up until one is absent. Pieces after a gap, and a short piece in the middle, are errors: the
disk must not become shorter, or shift, because a copy was incomplete. That the last piece is missing nothing tells.

Source: split(1), GNU coreutils manual (``--numeric-suffixes``, how suffixes grow); dd and FTK images count from 000 or 001.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack

from mntapi.blocks import Concat
from mntapi.errors import Corrupt, NotFound, Unsupported
from mntapi.images import raw
from mntapi.images.formats import Chain
from mntapi.images.inside import Inside, depth_of, open_inside
from mntapi.types import FileBlocks, Image

FORMAT = "split"
MAX_SEGMENTS = 1000
"""Pieces; each is an open file, and a worker may have 1024."""
LOOK_AHEAD = 4
"""Names after the first absent one that must be absent, too."""

_SEGMENT = re.compile(r"(.+\.)([0-9]{2,3}|[a-z]{2,3})", re.DOTALL)
_FIRST = {2: ("00", "01"), 3: ("000", "001")}
_HINT = "--format raw opens this file alone"


def claims(path: str) -> bool:
    """Whether a file of this name may be a piece. Many are not: ``disk.img`` is none unless there is a ``disk.aaa``."""
    return _SEGMENT.fullmatch(os.path.basename(path)) is not None


def open_image(file: FileBlocks, chain: Chain) -> Image:
    """Open the disk whose first piece ``file`` is; a file whose name only looks like a piece is opened as raw disk.

    Raises:
        Unsupported: it is another piece than the first, or there are too many.
        NotFound: a piece is missing.
        Corrupt: a piece is shorter or longer than the first.
    """
    match = _SEGMENT.fullmatch(os.path.basename(file.path))
    if match is None:
        return raw.open_image(file, chain)
    stem, suffix = match.groups()
    first = _first(file, stem, suffix, chain)
    if first is None:
        return raw.open_image(file, chain)
    if first != suffix:
        raise Unsupported(
            "is a piece of a split disk, and not the first", path=file.path, hint=f"open {stem}{first} instead; {_HINT}"
        )
    with ExitStack() as resources:
        pieces = _collect(file, stem, suffix, chain, resources)
        _check_sizes(pieces)
        owned = ExitStack()
        content = Inside(Concat(pieces), f"{file.path}:{stem[:-1]}", depth_of(file) + 1, owned.close)
        image = open_inside(content, file, FORMAT, chain)
        owned.callback(file.close)
        owned.callback(resources.pop_all().close)
    return image


def _first(file: FileBlocks, stem: str, suffix: str, chain: Chain) -> str | None:
    """The suffix of the first piece; None where the name is only like that of a piece."""
    numeric = suffix.isdigit()
    firsts = _FIRST[len(suffix)] if numeric else ("a" * len(suffix),)
    for first in firsts:
        if first == suffix or _exists(stem + first, file, chain):
            return first
    if not numeric:
        return None
    raise NotFound(f"the first piece {stem}{firsts[-1]} is missing", path=file.path, hint=_HINT, reason="segment-missing")


def _exists(name: str, file: FileBlocks, chain: Chain) -> bool:
    try:
        chain.open_file(name, file).close()
    except NotFound:
        return False
    return True


def _collect(file: FileBlocks, stem: str, suffix: str, chain: Chain, resources: ExitStack) -> list[FileBlocks]:
    """All pieces, the first in front; the others are closed by ``resources``."""
    pieces = [file]
    while True:
        found = _next(file, stem, suffix, chain)
        if found is None:
            break
        suffix, piece = found
        resources.callback(piece.close)
        pieces.append(piece)
        if len(pieces) > MAX_SEGMENTS:
            raise Unsupported("has too many pieces", path=file.path, expected=f"at most {MAX_SEGMENTS}", reason="segments")
    _check_gap(file, stem, following(suffix)[0], chain)
    return pieces


def _next(file: FileBlocks, stem: str, suffix: str, chain: Chain) -> tuple[str, FileBlocks] | None:
    for candidate in following(suffix):
        try:
            return candidate, chain.open_file(stem + candidate, file)
        except NotFound:
            continue
    return None


def following(suffix: str) -> tuple[str, ...]:
    """The suffixes that may come next, the usual one first.

    ``09`` → ``10``, ``999`` → ``1000``, ``az`` → ``ba``. split(1) keeps names in order when it runs out of them by growing
    before the last ones are used: ``89`` → ``9000``, ``yz`` → ``zaaa``.
    """
    digits = "0123456789" if suffix.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    last = digits[-1]
    kept = suffix.rstrip(last)
    if kept:
        plain = kept[:-1] + digits[digits.index(kept[-1]) + 1] + digits[0] * (len(suffix) - len(kept))
    else:
        plain = (digits[1] if digits[0] == "0" else digits[0]) + digits[0] * len(suffix)
    half, odd = divmod(len(suffix), 2)
    if not odd and suffix == last * (half - 1) + digits[-2] + last * half:
        return plain, last * half + digits[0] * (half + 2)
    return (plain,)


def _check_gap(file: FileBlocks, stem: str, missing: str, chain: Chain) -> None:
    later = missing
    for _ in range(LOOK_AHEAD):
        later = following(later)[0]
        if _exists(stem + later, file, chain):
            raise NotFound(
                f"the piece {stem}{missing} is missing, and {stem}{later} is there", path=file.path, reason="segment-missing"
            )


def _check_sizes(pieces: Sequence[FileBlocks]) -> None:
    """All but the last are as long as the first; a copy that was interrupted would shift all that follows."""
    first = pieces[0].size
    for piece in pieces[1:]:
        if piece.size > first or (piece.size != first and piece is not pieces[-1]):
            raise Corrupt(
                "this piece does not have the length of the first", path=piece.path, expected=first, found=piece.size,
                reason="segment-size",
            )  # fmt: skip
