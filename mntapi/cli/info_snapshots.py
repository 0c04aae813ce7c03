"""The snapshots on the page of ``mntapi info``, and in its JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mntapi.cli.output import escape, table, time_text
from mntapi.session.snapshots import Holder
from mntapi.units import format_size

_MAX_SHOWN = 10
"""Snapshots of one disk or machine that are shown without -v."""
_HEADER = ("SNAPSHOT", "OF", "TAKEN (UTC)", "VM STATE", "NAME")


def snapshots_page(holders: Sequence[Holder], *, verbose: bool) -> Iterator[str]:
    """A table of them; nothing where there are none."""
    shown = [(holder, holder.snapshots if verbose else holder.snapshots[-_MAX_SHOWN:]) for holder in holders]
    rows = [
        (one.id, _holder(holder), _taken(one.time_ns), _state(one.vm_state_size), one.name)
        for holder, some in shown
        for one in some
    ]
    if not rows:
        return
    yield ""
    yield from table([_HEADER, *[[escape(cell) for cell in row] for row in rows]])
    left_out = sum(len(holder.snapshots) - len(some) for holder, some in shown)
    if left_out:
        yield f"{left_out} older ones: -v shows them"
    yield "--snapshot shows the disks as they were then: name a snapshot by its number or name"


def describe_snapshots(holder: Holder) -> list[dict[str, Any]]:
    """They as plain values: sizes are bytes, times nanoseconds since 1970 UTC, null what is not told."""
    return [asdict(one) for one in holder.snapshots]


def describe_machines(holders: Sequence[Holder]) -> list[dict[str, Any]]:
    """The machine files of a set."""
    return [
        {"path": one.path, "kind": one.kind, "name": one.name, "snapshots": describe_snapshots(one)}
        for one in holders
        if one.disk is None and one.kind is not None
    ]


def _holder(holder: Holder) -> str:
    return os.path.basename(holder.path) if holder.disk is None else f"disk{holder.disk}"


def _taken(time_ns: int | None) -> str:
    return "" if time_ns is None else time_text(time_ns)


def _state(size: int | None) -> str:
    return format_size(size) if size else ""
