"""Volumes that show another one as it was, and what they are called in the tree: ``@2026-11-01T02:00:00Z``."""

from __future__ import annotations

from datetime import UTC, datetime

from mntapi.session.stack import BASE
from mntapi.types import Volume

_CREATED = "created"
_MAX_NAME = 200


def base_of(volume: Volume) -> str | None:
    """Id of the volume that it is a snapshot of; None if it is none."""
    base = volume.details.get(BASE)
    return base if base != volume.id else None


def moment_of(volume: Volume) -> int | None:
    """When the snapshot was made, in nanoseconds since 1970 UTC; None where that is not recorded."""
    seconds, dot, fraction = volume.details.get(_CREATED, "").rstrip("Z").partition(".")
    try:
        moment = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000 + int(f"{fraction:0<9.9}" if dot else 0)
    except ValueError:
        return None


def label_of(volume: Volume) -> str:
    """What the snapshot is called beside the live tree: by its time, or by its name where that is not known."""
    base, at, time = volume.name.rpartition("@")
    return f"@{time}" if at and base else name_of(moment_of(volume), volume.name)


def name_of(time_ns: int | None, otherwise: str) -> str:
    """``@`` and the time in UTC to the second, or other words that a folder can be called by."""
    if time_ns is not None:
        return f"@{_time(time_ns // 1_000_000_000)}"
    kept = "".join(sign if sign.isprintable() and sign != "/" else "-" for sign in otherwise.strip("/"))
    return f"@{kept[:_MAX_NAME] or 'snapshot'}"


def _time(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)
