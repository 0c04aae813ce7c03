"""Partitions that say by their type where they belong: what systemd mounts where no fstab does.

Source: Discoverable Partitions Specification (UAPI.2); systemd-gpt-auto-generator(8). Not looked at: the attribute that forbids
automatic mounting, which a volume does not tell, and the types of partitions that are encrypted and open.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from uuid import UUID

from mntapi.errors import MntapiError
from mntapi.guests.files import GuestFiles
from mntapi.guests.linux.devices import Match
from mntapi.guests.linux.mounts import placed
from mntapi.guests.types import Candidate, MountKind, MountPoint

VAR = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
PLACES = {
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "/home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "/srv",
    VAR: "/var",
    "7ec6f557-3bc5-4aca-b293-16ef5df639d1": "/var/tmp",
    XBOOTLDR: "/boot",
    ESP: "/efi",
}
"""By the type of the partition."""
USR = {
    "x86": "75250d76-8cc6-458e-bd66-bd47cc81a812",
    "x86_64": "8484680c-9521-48c6-9c11-b0720656f69e",
    "arm": "7d0359a3-02b3-4f0a-865c-654403e70625",
    "aarch64": "b0e01050-ee5f-4390-949a-9101b17104e9",
    "riscv64": "beaec34b-8442-439b-a40b-984381ed097d",
    "loongarch64": "e611c702-575c-4cbe-9a46-434fa0bf7e3f",
    "ppc64le": "15bb03af-77e7-4d4a-b12b-c0d084f7491c",
    "s390x": "8a4f5770-50aa-4ed3-874a-99b710db6fea",
}
"""The types of ``/usr``, by architecture."""


def discovered(
    candidates: Sequence[Candidate], root: Candidate, files: GuestFiles, machine_id: str | None, taken: Sequence[str]
) -> list[MountPoint]:
    """Mount points of partitions on the disk of the root that belong there by their type.

    Args:
        candidates: all of the set.
        root: the volume of the guest's root.
        files: the guest, as far as it is known.
        machine_id: a partition for ``/var`` belongs to one machine only.
        taken: paths that something else is mounted on.
    """
    found: dict[str, MountPoint] = {}
    usr = dict.fromkeys(USR.values(), "/usr")
    near = [
        one for one in candidates if one.volume.disk is not None and one.volume.disk == root.volume.disk and one is not root
    ]
    has_boot = any(one.volume.type_code == XBOOTLDR for one in near)
    for candidate in near:
        code = candidate.volume.type_code or ""
        path = {**PLACES, **usr}.get(code)
        if code == ESP and not files.has("/efi") and not has_boot:
            path = "/boot"
        if path is None or path in found or path in taken or not _is_empty(files, path):
            continue
        if code == VAR and not _is_own_var(candidate, machine_id):
            continue
        mount = MountPoint(path, MountKind.MISSING, f"PARTTYPE={code}", filesystem="auto")
        found[path] = placed(mount, Match(candidate, "by the type of its partition"))
    return list(found.values())


def var_uuid(machine_id: str) -> UUID:
    """The UUID that the partition for ``/var`` of this machine has.

    Source: the specification; sd_id128_get_machine_app_specific(3) for how it is derived.
    """
    digest = hmac.new(bytes.fromhex(machine_id), UUID(VAR).bytes, hashlib.sha256).digest()
    return UUID(bytes=digest[:16], version=4)


def _is_empty(files: GuestFiles, path: str) -> bool:
    folder = files.node(path)
    try:
        return folder is None or next(iter(files.fs.scan(folder)), None) is None
    except MntapiError as error:
        files.note(error, path)
        return False


def _is_own_var(candidate: Candidate, machine_id: str | None) -> bool:
    return machine_id is not None and candidate.volume.id == f"gpt:{var_uuid(machine_id)}"
