"""Links whose text only their guest understands: ``C:/Users`` of Windows. On the host they become relative ones.

The text of every other link is the guest's own, as cp(1) keeps it, also where it is absolute.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mntapi.types import Node


@runtime_checkable
class LeadsLinks(Protocol):
    """A tree with links of Windows in it; a ``FileSystem`` too."""

    def leads_to(self, link: Node) -> list[str] | None:
        """The names, from the top of the tree, of where such a link leads; None: its text says it, on the host too."""


def is_below(names: Sequence[str], folder: Sequence[str]) -> bool:
    """Whether names lead to the folder or to something in it, upper and lower case being one."""
    return [name.casefold() for name in names[: len(folder)]] == [name.casefold() for name in folder]


def relative_target(leads_to: Sequence[str], place: Sequence[str], below: Sequence[str]) -> str | None:
    """The text of a link in a copy. It never leads above the destination.

    Args:
        leads_to: names of the target, from the top of the guest's tree.
        place: those of what is copied; what is beside it there is beside the copy, for a later one.
        below: those of the link, from the destination.

    Returns None where the target is neither in what is copied nor beside it.
    """
    if is_below(leads_to, place):
        at = [below[0], *leads_to[len(place) :]]
    elif is_below(leads_to, place[:-1]):
        at = list(leads_to[len(place) - 1 :])
    else:
        return None
    return posixpath.relpath("/" + "/".join(at), "/" + "/".join(below[:-1]))
