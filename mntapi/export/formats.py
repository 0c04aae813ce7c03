"""The table of formats that can be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from mntapi.errors import Invalid
from mntapi.export.writer import Target, Writer


@dataclass(frozen=True, slots=True)
class Format:
    """One row: what it is called, and who writes it, as ``module:class``."""

    name: str
    writer: str
    whole_sectors: bool = True
    """A disk that ends within a sector is filled up with zeros."""
    compressions: tuple[str, ...] = ()

    def load(self) -> Callable[[Target], Writer]:
        """Who writes it, imported on first use: most commands write one format or none."""
        module, _, name = self.writer.partition(":")
        return cast(Callable[[Target], Writer], getattr(import_module(module), name))


FORMATS = (
    Format("raw", "mntapi.export.raw:RawWriter", whole_sectors=False),
    Format("qcow2", "mntapi.export.qcow2:Qcow2Writer", compressions=("zlib", "zstd")),
    Format("vmdk-stream", "mntapi.export.vmdk_stream:VmdkStreamWriter"),
    Format("vhdx", "mntapi.export.vhdx:VhdxWriter"),
)


def named(name: str) -> Format:
    """The format of that name. Raises Invalid with the names there are."""
    for format_ in FORMATS:
        if format_.name == name:
            return format_
    raise Invalid(f"no format that is written is called {name!r}", hint="known: " + ", ".join(one.name for one in FORMATS))
