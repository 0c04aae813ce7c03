"""Classic snapshots made by the kernel: written on both sides, several of one origin, overflowed, half merged."""

from __future__ import annotations

import pytest

from contract.blocks_contract import check_blocks
from contract.lvm_targets import FACTS, check_group, device, digest, opened, volume_facts
from mntapi.blocks import read
from mntapi.errors import Corrupt, ReadFailed
from mntapi.types import VolumeState
from mntapi.volumes.lvm.snapshot import Snapshot, merging


def snapshot(name: str) -> Snapshot:
    facts = volume_facts(f"vgs/{name}")
    return Snapshot(device(f"vgs-{facts['origin']}-real"), device(f"vgs-{name}-cow"), _size(facts))


def _size(facts: dict[str, str]) -> int:
    return int(volume_facts(f"vgs/{facts['origin']}")["lv_size"])


@pytest.mark.parametrize("origin", ["org", "org2", "org4"])
def test_an_origin_with_snapshots_is_the_device_below(origin):
    assert digest(device(f"vgs-{origin}-real")) == FACTS["sha256"][f"vgs/{origin}"]


@pytest.mark.parametrize("name", ["s4", "s64", "untouched"])
def test_a_snapshot_is_what_the_kernel_read(name):
    blocks = snapshot(name)
    assert digest(blocks) == FACTS["sha256"][f"vgs/{name}"]
    check_blocks(blocks, read(blocks, 0, blocks.size), ranges=500)


def test_the_snapshots_differ_from_their_origin():
    """Else the test above would prove little; s4 has more exceptions than an area holds."""
    assert len({FACTS["sha256"][f"vgs/{name}"] for name in ("org", "s4", "s64")}) == 3


def test_an_overflowed_snapshot_is_an_error_with_a_reason():
    assert not FACTS["surprises"]
    with pytest.raises(Corrupt, match="given up") as caught:
        snapshot("over")
    assert caught.value.reason == "snapshot-invalid"


def test_a_merge_stopped_half_way_reads_as_the_snapshot_it_merges():
    """The kernel's status: exceptions left, in sectors, of the size of the store."""
    status = next(line for line in FACTS["status"] if line.startswith("org3:"))
    assert "snapshot-merge" in status
    origin, cow = device("vgs-org3-real"), device("vgs-merging-cow" if "vgs-merging-cow" in FACTS["tables"] else "vgs-org3-cow")
    blocks = merging(origin, cow, origin.size)
    assert digest(blocks) == FACTS["sha256"]["vgs/merging"]
    assert digest(origin) != FACTS["sha256"]["vgs/merging"]
    check_blocks(blocks, read(blocks, 0, blocks.size), ranges=100)


def test_through_the_public_api():
    check_group("vgs", but={"vgs/org3": "vgs/merging"})
    with opened("vgs") as volumes:
        assert "vgs/merging" not in volumes
        assert volumes["vgs/over"].state is VolumeState.DAMAGED
        assert "given up" in str(volumes["vgs/over"].reason)
        with pytest.raises(ReadFailed, match="given up"):
            read(volumes["vgs/over"].blocks, 0, 1)


@pytest.mark.parametrize(("group", "kinds"), [("vgs", {"linear"}), ("vgt", {"thin"})])
def test_a_snapshot_says_whose_it_is(group: str, kinds: set[str]) -> None:
    """As ``lvs`` does. An external origin is no base: the thin volume on it is one of its own."""
    listed = {one["lv_name"]: one for one in FACTS["lvs"] if one["vg_name"] == group and not one["lv_name"].startswith("[")}
    with opened(group) as volumes:
        told = {name.partition("/")[2]: volume.details.get("base") for name, volume in volumes.items()}
        since = [volume.details["created"] for volume in volumes.values() if "base" in volume.details]
    wanted = {}
    for name in told:
        origin = listed.get(listed[name]["origin"]) if listed[name]["segtype"] in kinds else None
        is_external = origin is not None and group == "vgt" and origin["segtype"] != "thin"
        wanted[name] = None if origin is None or is_external else f"lvm:{origin['lv_uuid']}"
    assert told == wanted and since and all(time.endswith("Z") for time in since)
