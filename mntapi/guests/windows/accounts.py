"""Who has an account: names and numbers out of the SAM hive, home folders out of the list of profiles. No secrets are read.

A user's number is the *type* of the default value of the key of that name, and the machine's SID ends the value ``V`` of the
account domain: regipy's plugins ``samparse`` and ``local_sid`` read them there, too.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from mntapi.guests.files import one_line
from mntapi.guests.types import User
from mntapi.guests.windows.registry import Registry

MAX_USERS = 4096
_DOMAIN = "SAM\\Domains\\Account"
_PROFILES = "Microsoft\\Windows NT\\CurrentVersion\\ProfileList"
_PERSON = re.compile(r"S-1-5-21(-\d{1,10}){4}|S-1-12-1(-\d{1,10}){4}", re.IGNORECASE)
"""SIDs of people: of a machine or a domain, or of Entra ID. The others are services."""
_SID_END = struct.Struct("<3I")


def users(sam: Registry, software: Registry, environment: Mapping[str, str]) -> list[User]:
    """The accounts of the machine, then others that have a profile on it: users of a domain.

    Args:
        sam: the hive with the accounts.
        software: the one with the profiles.
        environment: what ``%SystemDrive%`` and its like stand for, by lower-case name.
    """
    homes = _homes(software, environment)
    prefix = _machine_sid(sam)
    found: list[User] = []
    for key in sam.keys(f"{_DOMAIN}\\Users\\Names", MAX_USERS):
        value = sam.value(key, "")
        if value is not None:
            sid = f"{prefix}-{value.kind}" if prefix else str(value.kind)
            found.append(User(one_line(key.name) or "?", sid, homes.pop(sid, None)))
    return found + [User(home.rsplit("\\", 1)[-1], sid, home) for sid, home in homes.items()]


def _homes(software: Registry, environment: Mapping[str, str]) -> dict[str, str]:
    """Home folders by SID."""
    found: dict[str, str] = {}
    for key in software.keys(_PROFILES, MAX_USERS):
        home = software.text(key, "ProfileImagePath") if _PERSON.fullmatch(key.name) else None
        if home:
            found[key.name.upper()] = expanded(home, environment)
    return found


def _machine_sid(sam: Registry) -> str | None:
    raw = sam.data(_DOMAIN, "V")
    if raw is None or len(raw) < _SID_END.size:
        return None
    return "S-1-5-21-" + "-".join(map(str, _SID_END.unpack(raw[-_SID_END.size :])))


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """A text with its ``%NAME%`` replaced; one that is not known stays."""
    return re.sub(r"%([^%\\]{1,32})%", lambda match: environment.get(match[1].lower(), match[0]), text)
