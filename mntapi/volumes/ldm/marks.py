"""How a dynamic disk is told from others before anything of its database is read."""

from __future__ import annotations

from mntapi.blocks import read_clipped
from mntapi.types import Volume
from mntapi.units import SECTOR
from mntapi.volumes.bootrecord import has_magic, is_table, parse_record

MBR_TYPE = 0x42
METADATA_TYPE = "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"
DATA_TYPE = "af9b60a0-1431-4f62-bc68-3311714a69ad"


def has_dynamic_partition(volume: Volume) -> bool:
    """Whether its boot record has a partition of type 42. An I/O error is raised."""
    sector = read_clipped(volume.blocks, 0, SECTOR)
    return has_magic(sector) and is_table(sector) and any(entry.type == MBR_TYPE for entry in parse_record(sector).entries)
