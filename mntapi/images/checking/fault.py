"""A fault: what is wrong, where, and how bad it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mntapi.errors import MntapiError


class Severity(enum.StrEnum):
    """How bad a fault is."""

    ERROR = "error"
    """Bytes of the disk are lost or doubtful, now or after the next write; or a copy that should save them is damaged."""
    LEAK = "leak"
    """Space of the file that nothing uses."""
    NOTE = "note"
    """Worth knowing, and nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding. ``offset`` is the byte of ``path`` where the wrong value is, or the place it wrongly speaks of."""

    path: str
    offset: int | None
    what: str
    severity: Severity = Severity.ERROR

    @classmethod
    def of(cls, error: MntapiError, path: str, severity: Severity = Severity.ERROR) -> Fault:
        """An error of a parser as a fault; ``path`` is for those that do not name their file."""
        details = []
        if error.expected is not None:
            details.append(f"expected {error.expected}")
        if error.found is not None:
            details.append(f"found {error.found}")
        what = ": ".join(filter(None, (error.what, ", ".join(details))))
        return cls(error.path or path, error.offset, what, severity)

    def __str__(self) -> str:
        kind = "" if self.severity is Severity.ERROR else f"{self.severity}: "
        place = "" if self.offset is None else f" (at byte {self.offset})"
        return f"{self.path}: {kind}{self.what}{place}"
