"""Whether an array may be written: only with all of its members."""

from __future__ import annotations

from collections.abc import Sequence

from mntapi.blocks.writable import REASON
from mntapi.errors import Unsupported
from mntapi.types import Blocks


def all_present(members: Sequence[Blocks | None]) -> list[Blocks]:
    """The members. Raises Unsupported if one is missing.

    What is written without a member would have to be noted in the superblocks of the others, and nobody here writes those. So
    when that member comes back, the array would take it for current, and be of two times.
    """
    present = [member for member in members if member is not None]
    if len(present) < len(members):
        lacking = ", ".join(str(index) for index, member in enumerate(members) if member is None)
        what = f"degraded: member {lacking} is missing or not trusted, and would not know that it is out of date"
        raise Unsupported(what, hint="add the disk that holds it", reason=REASON)
    return present
