"""The table of formats that can be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mntapi.errors import Invalid
from mntapi.export import qcow2, raw, vhdx, vmdk_stream
from mntapi.export.writer import Target, Writer


@dataclass(frozen=True, slots=True)
class Format:
    """One row: what it is called, who writes it, and in units of how many bytes."""

    name: str
    writer: Callable[[Target], Writer]
    unit: int
    whole_sectors: bool = True
    """A disk that ends within a sector is filled up with zeros."""
    compressions: tuple[str, ...] = ()


FORMATS = (
    Format("raw", raw.RawWriter, raw.UNIT, whole_sectors=False),
    Format("qcow2", qcow2.Qcow2Writer, qcow2.CLUSTER, compressions=("zlib", "zstd")),
    Format("vmdk-stream", vmdk_stream.VmdkStreamWriter, vmdk_stream.GRAIN),
    Format("vhdx", vhdx.VhdxWriter, vhdx.UNIT),
)


def named(name: str) -> Format:
    """The format of that name. Raises Invalid with the names there are."""
    for format_ in FORMATS:
        if format_.name == name:
            return format_
    raise Invalid(f"no format that is written is called {name!r}", hint="known: " + ", ".join(one.name for one in FORMATS))
