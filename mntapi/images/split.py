"""Split disks: ``disk.001 disk.002 ...``, ``disk.000 ...``, ``disk.00 ...`` and ``disk.aa disk.ab ...``.

The pieces carry no mark, so this one format is told by the file's name (``claims``); what is inside may be of any format.
Digits count pieces and nothing else. Letters mostly are the name of a format (``disk.img``, ``disk.raw``), so a file with those
is a piece only if it is the first, or if that and the one before it lie beside it; a server is not asked for such.

The pieces are found by counting up until one is absent. Pieces after a gap, and a short piece in the middle, are errors: the
disk must not become shorter, or shift, because a copy was incomplete. That the last piece is missing nothing tells. Web servers
that may not tell what is not there refuse access to it: there, what is refused is absent.

Source: split(1), GNU coreutils manual (``--numeric-suffixes``, how suffixes grow); dd and FTK images count from 000 or 001.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack

from mntapi.blocks import Concat
from mntapi.errors import Corrupt, Denied, NotFound, Unsupported
from mntapi.images import raw
from mntapi.images.formats import Chain
from mntapi.images.inside import Inside, depth_of, open_inside
from mntapi.remote import is_url
from mntapi.types import FileBlocks, Image

FORMAT = "split"
MAX_SEGMENTS = 1000
"""Pieces; each is an open file, and a worker may have 1024."""
LOOK_AHEAD = 4
"""Names after the first absent one that must be absent, too."""

_SEGMENT = re.compile(r"(.+\.)([0-9]{2,3}|[a-z]{2,3})", re.DOTALL)
_FIRST = {2: ("00", "01"), 3: ("000", "001")}
_HINT = "--format raw (of convert: --source-format raw) opens this file alone"


def claims(path: str) -> bool:
    """Whether a file of this name may be a piece. Many are not: ``disk.img`` is none without ``disk.imf`` and ``disk.aaa``."""
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
    if suffix.isdigit():
        firsts = _FIRST[len(suffix)]
        for first in firsts:
            if first == suffix or _exists(stem + first, file, chain):
                return first
        raise NotFound(f"the first piece {stem}{firsts[-1]} is missing", path=file.path, hint=_HINT, reason="segment-missing")
    first = "a" * len(suffix)
    if suffix == first:
        return first
    neighbours = (stem + _before(suffix), stem + first)
    is_piece = not is_url(file.path) and all(_exists(name, file, chain) for name in neighbours)
    return first if is_piece else None


def _before(suffix: str) -> str:
    """The letters before these, which are not the first ones: ``ab`` → ``aa``, ``ba`` → ``az``."""
    kept = suffix.rstrip("a")
    return kept[:-1] + chr(ord(kept[-1]) - 1) + "z" * (len(suffix) - len(kept))


def _exists(name: str, file: FileBlocks, chain: Chain) -> bool:
    return _refusal(name, file, chain) is None


def _refusal(name: str, file: FileBlocks, chain: Chain) -> NotFound | Denied | None:
    """Why there is no piece of that name; None if there is one."""
    found = _piece(name, file, chain)
    if isinstance(found, NotFound | Denied):
        return found
    found.close()
    return None


def _piece(name: str, file: FileBlocks, chain: Chain) -> FileBlocks | NotFound | Denied:
    """The piece, or why there is none. Raises Denied for a file of this host: that is there."""
    try:
        return chain.open_file(name, file)
    except NotFound as error:
        return error
    except Denied as error:
        if is_url(file.path):
            return error
        raise


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
            what = f"at most {MAX_SEGMENTS}"
            raise Unsupported("has too many pieces", path=file.path, expected=what, hint=_HINT, reason="segments")
    _check_gap(file, stem, following(suffix)[0], chain)
    return pieces


def _next(file: FileBlocks, stem: str, suffix: str, chain: Chain) -> tuple[str, FileBlocks] | None:
    for candidate in following(suffix):
        piece = _piece(stem + candidate, file, chain)
        if not isinstance(piece, NotFound | Denied):
            return candidate, piece
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
    """Raise where the pieces go on after the one that is missing, or where that is there and may not be read."""
    later = missing
    refusals = [_refusal(stem + missing, file, chain)]
    for _ in range(LOOK_AHEAD):
        later = following(later)[0]
        refusals.append(_refusal(stem + later, file, chain))
        if refusals[-1] is None:
            raise NotFound(
                f"the piece {stem}{missing} is missing, and {stem}{later} is there", path=file.path, reason="segment-missing"
            )
    denied = [error for error in refusals if isinstance(error, Denied)]
    if denied and len(denied) < len(refusals):  # this server does tell what is absent
        raise denied[0]


def _check_sizes(pieces: Sequence[FileBlocks]) -> None:
    """All but the last are as long as the first; a copy that was interrupted would shift all that follows."""
    first = pieces[0].size
    for piece in pieces[1:]:
        if piece.size > first or (piece.size != first and piece is not pieces[-1]):
            raise Corrupt(
                "this piece does not have the length of the first", path=piece.path, expected=first, found=piece.size,
                reason="segment-size",
            )  # fmt: skip
