"""Dynamic disks made by hand, for what no sample has: ldmtool says whether they are right.

A group is described by its records; every disk gets the same database, as Windows writes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

SECTOR = 512
PRIVATE = 2048
DATA_START = 63
GROUP = "11111111-2222-3333-4444-555555555555"
SPANNED, STRIPED, RAID5 = 2, 1, 3


def disk_guid(number: int) -> str:
    return str(UUID(int=0xD15C << 64 | number))


def volume_guid(number: int) -> str:
    return str(UUID(int=0xF01 << 64 | number))


def var(value: int | str | bytes) -> bytes:
    """A field with its length in front."""
    if isinstance(value, int):
        value = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
    elif isinstance(value, str):
        value = value.encode()
    return bytes([len(value)]) + value


def record(kind: int, flags: int, body: bytes, status: int = 0) -> bytes:
    return struct.pack(">HBBI", status, flags, kind, len(body)) + body


def volume_record(
    number: int, name: str, components: int, sectors: int, *, raid5=False, hint="", state="ACTIVE", status=0
) -> bytes:
    body = var(number) + var(name) + var("raid5" if raid5 else "gen") + var(b"") + state.encode().ljust(14, b"\0")
    body += bytes([4 if raid5 else 3, 1, number & 0xFF, 0, 0, 0, 0x11]) + var(components) + bytes(16) + var(sectors)
    body += bytes(4) + b"\x07" + UUID(volume_guid(number)).bytes + (var(hint) if hint else b"")
    return record(0x51, 2 if hint else 0, body, status)


def component_record(
    number: int, volume: int, partitions: int, layout=SPANNED, *, chunk=0, columns=0, state="ACTIVE", status=0
) -> bytes:
    body = var(number) + var(f"C{number}") + var(state) + bytes([layout]) + bytes(4) + var(partitions) + bytes(16)
    body += var(volume) + b"\0" + (var(chunk) + var(columns) if chunk else b"")
    return record(0x32, 0x10 if chunk else 0, body, status)


def partition_record(
    number: int, component: int, disk: int, start: int, sectors: int, *, offset=0, column=0, status=0
) -> bytes:
    body = var(number) + var(f"P{number}") + bytes(12) + struct.pack(">QQ", start, offset) + var(sectors)
    body += var(component) + var(disk) + (var(column) if column else b"")
    return record(0x33, 0x08 if column else 0, body, status)


def disk_record(number: int, *, vista=False) -> bytes:
    guid = disk_guid(number)
    if vista:
        return record(0x44, 0, var(number) + var(f"Disk{number}") + UUID(guid).bytes + bytes(12))
    return record(
        0x34,
        0,
        var(number) + var(f"Disk{number}") + var(guid) + var("\\\\a long name that takes a second slot" * 2) + bytes(12),
    )


@dataclass
class Database:
    """The VMDB and its slots."""

    records: list[bytes]
    committed: int = 7
    pending: int | None = None
    status: int = 1
    slot_size: int = 128
    counts: tuple[int, int, int, int] | None = None
    slots: int = 400

    def build(self) -> bytes:
        kinds = [one[3] & 0x0F for one in self.records if struct.unpack(">H", one[:2])[0] == 0]
        counts = self.counts or tuple(kinds.count(kind) for kind in (1, 2, 3, 4))
        pending = self.committed if self.pending is None else self.pending
        header = struct.pack(">4sIIIHHH", b"VMDB", self.slots, self.slot_size, SECTOR, self.status, 4, 10)
        header += b"Group".ljust(31, b"\0") + GROUP.encode().ljust(64, b"\0") + struct.pack(">QQ", self.committed, pending)
        header += struct.pack(">4I12x4I", *counts, *counts)
        return header.ljust(SECTOR, b"\0") + b"".join(self._slots())

    def _slots(self) -> list[bytes]:
        room = self.slot_size - 16
        used: list[bytes] = []
        for group, one in enumerate(self.records, 1):
            pieces = [one[at : at + room] for at in range(0, len(one), room)]
            for number, piece in enumerate(pieces):
                head = struct.pack(">4sIIHH", b"VBLK", len(used) + 4, group, number, len(pieces))
                used.append(head + piece.ljust(room, b"\0"))
        free = self.slots - SECTOR // self.slot_size - len(used)
        return used + [struct.pack(">4sIIHH", b"VBLK", 0, 0, 0, 0).ljust(self.slot_size, b"\0")] * free


def summed(sector: bytes) -> bytes:
    """The sector with its checksum at 8."""
    total = sum(sector) - sum(sector[8:12])
    return sector[:8] + struct.pack(">I", total) + sector[12:]


def private_header(
    guid: str, data: tuple[int, int], private: int, *, sequence=5, sector=SECTOR, version=(2, 12), contents=(1, 2046)
) -> bytes:
    head = struct.pack(">8sIHHQQQQ", b"PRIVHEAD", 0, *version, 0, sequence, 2047, 1856)
    for text in (guid, guid, GROUP):
        head += text.encode().ljust(64, b"\0")
    head += b"Group".ljust(31, b"\0") + struct.pack(">I8x4Q2Q", sector, *data, private, PRIVATE, *contents)
    head += struct.pack(">IIQQI", 1, 1, 1481, 224, 0)
    return summed(head.ljust(sector, b"\0"))


def contents(sequence: int = 5, config: tuple[int, int] = (17, 1481), *, sector=SECTOR) -> bytes:
    toc = struct.pack(">8sIQ16x", b"TOCBLOCK", 0, sequence)
    toc += struct.pack(">8s2xQQ8x", b"config", *config) + struct.pack(">8s2xQQ8x", b"log", config[0] + config[1], 224)
    return summed(toc.ljust(sector, b"\0"))


@dataclass
class Disk:
    """A disk of the group. ``data_sectors`` are sectors of its data area."""

    number: int
    database: Database
    data_sectors: int = 4096
    sector: int = SECTOR
    header: dict = field(default_factory=dict)

    def private(self, data_start: int = DATA_START, private: int | None = None) -> bytes:
        """The private region."""
        start = data_start + self.data_sectors if private is None else private
        region = bytearray(PRIVATE * self.sector)
        head = private_header(disk_guid(self.number), (data_start, self.data_sectors), start, sector=self.sector, **self.header)
        for place in (1856, 2047):
            region[place * self.sector : (place + 1) * self.sector] = head
        for place in (1, 2, 2045, 2046):
            region[place * self.sector : (place + 1) * self.sector] = contents(sector=self.sector)
        database = self.database.build()
        region[17 * self.sector : 17 * self.sector + len(database)] = database
        return bytes(region)

    def build(self) -> bytes:
        """An MBR disk; every sector of the data area begins with its number and the disk's."""
        boot = bytearray(self.sector)
        struct.pack_into("<I", boot, 440, 0xD15C0000 + self.number)
        struct.pack_into("<B3xB3xII", boot, 446, 0x80, 0x42, DATA_START, self.data_sectors)
        boot[510:512] = b"\x55\xaa"
        private = self.private()
        lead = bytes(boot) + bytes(5 * self.sector) + private[2047 * self.sector :]
        data = b"".join(struct.pack("<II", self.number, at).ljust(self.sector, b"\0") for at in range(self.data_sectors))
        return lead.ljust(DATA_START * self.sector, b"\0") + data + private

    def data(self, start: int, sectors: int) -> bytes:
        """What that part of the data area holds."""
        return b"".join(struct.pack("<II", self.number, at).ljust(self.sector, b"\0") for at in range(start, start + sectors))
