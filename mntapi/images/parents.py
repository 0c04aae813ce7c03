"""Finding the parent of a differencing disk that Windows named: VHD and VHDX.

Windows writes several names into the child: relative to it, and absolute with a drive letter. On this machine only the
relative one can be followed; of the others the last part is looked for in the child's own folder, which is where a backup
puts it. Which files may be opened at all is the ``Opener``'s rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PureWindowsPath

from mntapi.errors import Corrupt, Denied, NotFound
from mntapi.images.formats import Chain
from mntapi.types import FileBlocks, Image


def open_parent(
    relative: Iterable[str],
    absolute: Iterable[str],
    *,
    identifiers: Sequence[str],
    child: FileBlocks,
    chain: Chain,
    formats: tuple[str, ...],
) -> Image:
    """The parent of ``child``, under the first of its names that exists, checked to be the disk the child was made from.

    Args:
        relative: names relative to the child's folder, as Windows writes them.
        absolute: names with a drive letter, volume or host; only their last part is used.
        identifiers: what the parent's ``Link.cid`` may be.
        child: the file that names it.
        chain: opens it; ``chain.options.ignore_cid`` accepts another identifier.
        formats: the formats it may be of.

    Raises:
        NotFound: none of the names exists; reason ``parent-missing``.
        Denied: the only name there is leads out of the child's folder.
        Corrupt: it is another disk; reason ``parent-mismatch``.
        MntapiError: it exists and cannot be opened.
    """
    image = _open_first(list(dict.fromkeys(_candidates(relative, absolute))), child, chain, formats)
    found = image.chain[0].cid
    if found in identifiers or chain.options.ignore_cid:
        return image
    image.blocks.close()
    raise Corrupt(
        f"the parent {image.path} is not the disk this one was made from",
        path=child.path,
        expected=" or ".join(identifiers),
        found=found,
        hint="if you are sure, repeat with --ignore-cid",
        reason="parent-mismatch",
    )


def _candidates(relative: Iterable[str], absolute: Iterable[str]) -> Iterator[str]:
    names = list(relative)
    for name in filter(None, names):
        yield name.replace("\\", "/").removeprefix("./")
    for name in (*names, *absolute):
        last = PureWindowsPath(name).name
        if last not in ("", ".", ".."):
            yield last


def _open_first(names: list[str], child: FileBlocks, chain: Chain, formats: tuple[str, ...]) -> Image:
    denied: Denied | None = None
    for name in names:
        try:
            return chain.open_parent(name, child, formats=formats)
        except NotFound as error:
            if error.reason is not None:
                raise  # this name exists, and it is further up that something is missing
        except Denied as error:
            if error.reason != "outside" or error.path != child.path:
                raise
            denied = denied or error
    if denied is not None:
        raise denied
    raise NotFound(
        f"its parent is missing: {' or '.join(names) or 'no name is given'}",
        path=child.path,
        hint="put the parent into the folder of this disk, or name it with --parent",
        reason="parent-missing",
    )
