"""``/etc/passwd``: who has an account. Nothing secret is in it on any system of this century; the second field is not kept.

Source: passwd(5).
"""

from __future__ import annotations

from mntapi.guests.files import one_line
from mntapi.guests.types import User
from mntapi.units import MIB

MAX_PASSWD = MIB
"""Bytes that are read."""
MAX_USERS = 4096
"""Accounts that are kept."""


def parse_passwd(text: str) -> tuple[User, ...]:
    """The accounts in the order of the file; lines that are none are left out."""
    users: list[User] = []
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) != 7 or not fields[2].isdigit() or line.startswith(("+", "-", "#")):
            continue
        name = one_line(fields[0])
        if name and len(users) < MAX_USERS:
            users.append(User(name, fields[2][:20], one_line(fields[5])))
    return tuple(users)
