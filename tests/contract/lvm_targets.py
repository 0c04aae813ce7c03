"""The golden disks of scripts/images/lvm-targets.py, and the devices that the kernel had made of them (``dmsetup table``)."""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mntapi import open_disks
from mntapi.blocks import Concat, HostFile, Slice, read
from mntapi.types import Blocks, Volume, VolumeState

GOLDEN = Path(__file__).parents[1] / "golden/lvm-targets"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
DISKS = ("thin", "snapshots", "caches")
_STEP = 1 << 20


@functools.cache
def disk(name: str) -> HostFile:
    """One of the disks, unpacked once, its zeros as holes."""
    file = tempfile.NamedTemporaryFile(prefix=f"mntapi-{name}-")  # noqa: SIM115 (kept to the end by the next line)
    _KEPT.append(file)
    with lzma.open(GOLDEN / f"{name}.img.xz") as packed:
        while block := packed.read(1 << 16):
            file.seek(len(block), 1) if not block.count(0) < len(block) else file.write(block)
    file.truncate()
    file.flush()
    return HostFile.open(file.name)


_KEPT: list[object] = []


def device(name: str) -> Blocks:
    """A device of linear pieces, by its name in device-mapper: ``vgt-pool64_tmeta``."""
    parts: list[Blocks] = []
    for _, length, target, where, start in FACTS["tables"][name]:
        assert target == "linear"
        inner = disk(where) if where in DISKS else device(FACTS["numbers"][where])
        parts.append(Slice(inner, int(start) * 512, int(length) * 512))
    return Concat(parts)


def volume_facts(name: str) -> dict[str, str]:
    """What ``lvs`` says of ``vgt/base``."""
    group, volume = name.split("/")
    return next(row for row in FACTS["lvs"] if (row["vg_name"], row["lv_name"].strip("[]")) == (group, volume))


@contextmanager
def opened(group: str) -> Iterator[dict[str, Volume]]:
    """The group's volumes as the public API gives them, by the names in the facts, the disks in another order."""
    with open_disks(*(disk(name).path for name in reversed(DISKS))) as disks:
        named = ((volume.name.replace("-", "/"), volume) for volume in disks.volumes)
        yield {name: volume for name, volume in named if name.startswith(f"{group}/")}


def check_group(group: str, *, but: dict[str, str] | None = None) -> None:
    """Every volume whose sum is known reads so, and is ok. ``but``: those that read as another name's sum."""
    sums = {name: value for name, value in FACTS["sha256"].items() if name.startswith(f"{group}/") and ":" not in name}
    for name, other in (but or {}).items():
        sums[name] = sums.pop(other)
    with opened(group) as volumes:
        for name, want in sums.items():
            assert volumes[name].state is VolumeState.OK, volumes[name].reason
            assert digest(volumes[name].blocks) == want, name


def digest(blocks: Blocks, offset: int = 0, length: int | None = None) -> str:
    """SHA-256 of a part, as the kernel's was taken."""
    end = blocks.size if length is None else offset + length
    total = hashlib.sha256()
    for at in range(offset, end, _STEP):
        total.update(read(blocks, at, min(_STEP, end - at)))
    return total.hexdigest()


def thin_mappings(name: str) -> dict[int, dict[int, int]]:
    """What thin_dump says: device number -> chunk of the volume -> chunk of the pool."""
    devices: dict[int, dict[int, int]] = {}
    current: dict[int, int] = {}
    for line in FACTS["dumps"][name]:
        tag, fields = _tag(line)
        if tag == "device":
            current = devices.setdefault(fields["dev_id"], {})
        elif tag == "single_mapping":
            current[fields["origin_block"]] = fields["data_block"]
        elif tag == "range_mapping":
            for step in range(fields["length"]):
                current[fields["origin_begin"] + step] = fields["data_begin"] + step
    return devices


def cache_mappings(name: str) -> Iterator[tuple[int, int, bool]]:
    """What cache_dump says: chunk of the cache, chunk of the origin, whether dirty."""
    for line in FACTS["dumps"][name]:
        tag, fields = _tag(line)
        if tag == "mapping":
            yield fields["cache_block"], fields["origin_block"], 'dirty="true"' in line


def _tag(line: str) -> tuple[str, dict[str, int]]:
    tag = re.match(r"<(\w*)", line)
    return tag[1] if tag else "", {key: int(value) for key, value in re.findall(r'(\w+)="(\d+)"', line)}
