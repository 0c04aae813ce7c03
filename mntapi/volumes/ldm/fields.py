"""The fields of a database record: most have a length byte in front. Pure."""

from __future__ import annotations

from uuid import UUID

from mntapi.errors import Corrupt


class Fields:
    """Reads a record field by field; a field that goes past the end of the record is Corrupt."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self._at = 0

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        end = self._at + length
        if end > len(self._record):
            raise Corrupt("a field goes past the end of its record", expected=f"at most {len(self._record)}", found=end)
        taken = self._record[self._at : end]
        self._at = end
        return taken

    def fixed(self, length: int) -> int:
        """A number of that many bytes."""
        return int.from_bytes(self.take(length), "big")

    def variable(self) -> bytes:
        """Bytes with their length in front."""
        return self.take(self.fixed(1))

    def number(self) -> int:
        """A number with its length in front, 8 bytes at most."""
        raw = self.variable()
        if len(raw) > 8:
            raise Corrupt("a number of too many bytes", expected="at most 8", found=len(raw))
        return int.from_bytes(raw, "big")

    def text(self) -> str:
        """A string with its length in front."""
        return self.variable().decode("utf-8", "replace")

    def guid(self) -> str:
        """A GUID of 16 bytes, in the order they are stored."""
        return str(UUID(bytes=self.take(16)))
