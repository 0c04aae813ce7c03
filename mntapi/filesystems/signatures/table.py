"""The table of signatures: the kind's name, what it is used for, the function that checks it, and the magic bytes to look for.

Kinds are the values that libblkid prints as ``TYPE``. Order matters and is libblkid's: RAID and volume managers, then
encryption, then file systems; last the copies that are believed only when nothing else was found.
"""

from __future__ import annotations

from typing import NamedTuple

from mntapi.types import Usage
from mntapi.units import KIB, MIB


class Magic(NamedTuple):
    """Bytes ``value`` that stand ``within`` bytes after the start of a structure.

    The structure lies at ``base`` bytes from the start of the volume; with ``align`` it lies ``base`` bytes (negative)
    from the end of the volume rounded down to a multiple of ``align``.
    """

    value: bytes
    within: int = 0
    base: int = 0
    align: int = 0

    def place(self, size: int) -> int | None:
        """Byte offset of the structure in a volume of ``size`` bytes, or None if it has no room for it."""
        at = size - size % self.align + self.base if self.align else self.base
        return at if 0 <= at < size else None


class Row(NamedTuple):
    """One kind. ``probe`` is ``module.function`` below this package; ``min_size`` is bytes."""

    kind: str
    usage: Usage
    probe: str
    magics: tuple[Magic, ...]
    min_size: int = 0


_RAID, _CRYPTO, _FS, _SWAP, _OTHER = Usage.RAID, Usage.CRYPTO, Usage.FILESYSTEM, Usage.SWAP, Usage.OTHER

_MD_LE, _MD_BE = b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"
_EXT = (Magic(b"\x53\xef", 0x38, 0x400),)
_LUKS2_COPIES = tuple(0x4000 << step for step in range(9))
_PROMISE_SECTORS = (63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087)
_SWAP_PAGES = tuple(4 * KIB << step for step in range(5))
_ZFS_NVLIST = (b"\x01\x01\0\0\0\0\0\0\0\0\0\x01", b"\x01\0\0\0\0\0\0\0\0\0\0\x01")
_UFS = tuple(bytes.fromhex(number) for number in ("00011954", "19540119", "00195612", "00095014", "00612195", "05231994"))


def _sectors_from_end(value: bytes, *sectors: int, within: int = 0) -> tuple[Magic, ...]:
    return tuple(Magic(value, within, -512 * sector, 512) for sector in sectors)


def _suspended(page: int) -> tuple[Magic, ...]:
    names = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
    return tuple(Magic(name, page - 10) for name in names)


SIGNATURES = (
    # RAID members and volume managers
    Row(
        "linux_raid_member",
        _RAID,
        "linux_raid.version0",
        (Magic(_MD_LE, 0, -64 * KIB, 64 * KIB), Magic(_MD_BE, 0, -64 * KIB, 64 * KIB)),
    ),
    Row(
        "linux_raid_member",
        _RAID,
        "linux_raid.version1",
        (Magic(_MD_LE, 0, -8 * KIB, 4 * KIB), Magic(_MD_LE), Magic(_MD_LE, 0, 4 * KIB)),
    ),
    Row(
        "ddf_raid_member",
        _RAID,
        "bios_raid.ddf",
        (*_sectors_from_end(b"\xde\x11\xde\x11", 1, 257), *_sectors_from_end(b"\x11\xde\x11\xde", 1, 257)),
    ),
    Row("isw_raid_member", _RAID, "bios_raid.by_magic", _sectors_from_end(b"Intel Raid ISM Cfg Sig. ", 2)),
    Row("lsi_mega_raid_member", _RAID, "bios_raid.by_magic", _sectors_from_end(b"$XIDE$", 1)),
    Row("via_raid_member", _RAID, "bios_raid.via", _sectors_from_end(b"\x55\xaa", 1)),
    Row("silicon_medley_raid_member", _RAID, "bios_raid.silicon", _sectors_from_end(b"\0\0\0\x2f", 1, within=0x60)),
    Row("nvidia_raid_member", _RAID, "bios_raid.by_magic", _sectors_from_end(b"NVIDIA", 2)),
    Row(
        "promise_fasttrack_raid_member",
        _RAID,
        "bios_raid.by_magic",
        _sectors_from_end(b"Promise Technology, Inc.", *_PROMISE_SECTORS),
    ),
    Row(
        "hpt45x_raid_member",
        _RAID,
        "bios_raid.by_magic",
        (*_sectors_from_end(b"\xf3\x16\x78\x5a", 11), *_sectors_from_end(b"\xfd\x16\x78\x5a", 11)),
    ),
    Row(
        "hpt37x_raid_member",
        _RAID,
        "bios_raid.by_magic",
        (Magic(b"\xf0\x16\x78\x5a", 32, 9 * 512), Magic(b"\xfd\x16\x78\x5a", 32, 9 * 512)),
    ),
    Row("adaptec_raid_member", _RAID, "bios_raid.adaptec", _sectors_from_end(b"\x37\xfc\x4d\x1e", 1)),
    Row("jmicron_raid_member", _RAID, "bios_raid.jmicron", _sectors_from_end(b"JM", 1)),
    Row("ldm", _RAID, "windows.ldm", (Magic(b"PRIVHEAD", 0, 6 * 512), *_sectors_from_end(b"PRIVHEAD", 1))),
    Row("bcache", _OTHER, "bcache.bcache", (Magic(bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), 24, 4 * KIB),)),
    Row(
        "bcachefs",
        _FS,
        "bcache.bcachefs",
        tuple(
            Magic(bytes.fromhex(magic), 24, 4 * KIB)
            for magic in ("c68573f64e1a45ca8265f57f48ba6d81", "c68573f666ce90a9d96a60cf803df7ef")
        ),
    ),
    Row("ceph_bluestore", _OTHER, "cluster.bluestore", (Magic(b"bluestore block device"),)),
    Row("drbd", _RAID, "cluster.drbd8", tuple(Magic(b"\x83\x74\x02" + last, 60, -4096, 1) for last in (b"\x6b", b"\x6c"))),
    Row("drbd", _RAID, "cluster.drbd9", (Magic(b"\x83\x74\x02\x6d", 60, -4096, 1),)),
    Row("drbdmanage_control_volume", _OTHER, "cluster.drbdmanage", (Magic(b"$DRBDmgr=q"),), 64 * KIB),
    Row("LVM2_member", _RAID, "lvm.lvm2", tuple(Magic(b"LVM2 001", 24, 512 * sector) for sector in range(4))),
    Row("LVM1_member", _RAID, "lvm.lvm1", (Magic(b"HM"),)),
    Row("DM_snapshot_cow", _OTHER, "lvm.snapshot_cow", (Magic(b"SnAp"),)),
    Row("DM_verity_hash", _CRYPTO, "lvm.verity", (Magic(b"verity\0\0"),)),
    Row("DM_integrity", _CRYPTO, "lvm.integrity", (Magic(b"integrt\0"),)),
    Row("crypto_LUKS", _CRYPTO, "crypto.luks", (Magic(b"LUKS\xba\xbe"),)),
    Row("VMFS_volume_member", _RAID, "vmware.vmfs_volume", (Magic(b"\x0d\xd0\x01\xc0", 0, MIB),)),
    Row("ubi", _RAID, "flash.ubi", (Magic(b"UBI#"),)),
    Row("vdo", _OTHER, "lvm.vdo", (Magic(b"dmvdo001"),)),
    Row("stratis", _RAID, "lvm.stratis", tuple(Magic(b"!Stra0tis\x86\xff\x02^Arh", 4, 512 * sector) for sector in (1, 9))),
    Row(
        "BitLocker",
        _CRYPTO,
        "crypto.bitlocker",
        tuple(Magic(magic) for magic in (b"\xeb\x52\x90-FVE-FS-", b"\xeb\x58\x90-FVE-FS-", b"\xeb\x58\x90MSWIN4.1")),
    ),
    Row("cs_fvault2", _CRYPTO, "crypto.core_storage", (Magic(b"CS", 88),)),
    # File systems, and what Linux keeps in their place
    Row(
        "vfat",
        _FS,
        "fat.vfat",
        (
            Magic(b"MSWIN", 0x52),
            Magic(b"FAT32   ", 0x52),
            Magic(b"MSDOS", 0x36),
            *(Magic(name, 0x36) for name in (b"FAT16   ", b"FAT12   ", b"FAT     ")),
            Magic(b"\xeb"),
            Magic(b"\xe9"),
            Magic(b"\x55\xaa", 0x1FE),
        ),
    ),
    Row(
        "swsuspend",
        _OTHER,
        "swap.suspended",
        (Magic(b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"), *(magic for page in _SWAP_PAGES for magic in _suspended(page))),
        10 * 4096,
    ),
    Row("swap", _SWAP, "swap.version1", tuple(Magic(b"SWAPSPACE2", page - 10) for page in _SWAP_PAGES), 10 * 4096),
    Row("swap", _SWAP, "swap.version0", tuple(Magic(b"SWAP-SPACE", page - 10) for page in _SWAP_PAGES), 10 * 4096),
    Row("xfs", _FS, "xfs.xfs", (Magic(b"XFSB"),)),
    Row("xfs_external_log", _OTHER, "xfs.external_log", (Magic(b"\xfe\xed\xba\xbe"),), 10 * MIB),
    Row("ext4", _FS, "ext.ext4", _EXT),
    Row("ext3", _FS, "ext.ext3", _EXT),
    Row("ext2", _FS, "ext.ext2", _EXT),
    Row("jbd", _OTHER, "ext.jbd", _EXT),
    Row(
        "reiserfs",
        _FS,
        "linux.reiserfs",
        (
            Magic(b"ReIsErFs", 0x34, 8 * KIB),
            *(Magic(magic, 0x34, 64 * KIB) for magic in (b"ReIsEr2Fs", b"ReIsEr3Fs", b"ReIsErFs")),
        ),
        128 * KIB,
    ),
    Row("reiser4", _FS, "linux.reiser4", (Magic(b"ReIsEr4", 0, 64 * KIB),), 128 * KIB),
    Row("jfs", _FS, "linux.jfs", (Magic(b"JFS1", 0, 32 * KIB),), 16 * MIB),
    Row(
        "udf",
        _FS,
        "udf.udf",
        tuple(Magic(name, 1, 32 * KIB) for name in (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"NSR02", b"NSR03", b"TEA01")),
    ),
    Row("iso9660", _FS, "iso9660.iso9660", (Magic(b"CD001", 1, 32 * KIB),)),
    Row("iso9660", _FS, "iso9660.high_sierra", (Magic(b"CDROM", 9, 32 * KIB),)),
    Row("zfs_member", _FS, "zfs.label", tuple(Magic(magic, 16 * KIB) for magic in _ZFS_NVLIST), 64 * MIB),
    Row("hfsplus", _FS, "apple.hfsplus", tuple(Magic(magic, 0, 1024) for magic in (b"BD", b"H+", b"HX"))),
    Row("hfs", _FS, "apple.hfs", (Magic(b"BD", 0, 1024),)),
    Row(
        "ufs",
        _FS,
        "unix.ufs",
        tuple(Magic(value, 1372, KIB * at) for at in (0, 8, 64, 256) for magic in _UFS for value in (magic, magic[::-1])),
    ),
    Row("hpfs", _FS, "unix.hpfs", (Magic(b"\x49\xe8\x95\xf9", 0, 8 * KIB),)),
    Row("ntfs", _FS, "windows.ntfs", (Magic(b"NTFS    ", 3),)),
    Row("ReFS", _FS, "windows.refs", (Magic(b"\0\0\0ReFS\0\0\0\0"),)),
    Row("cramfs", _FS, "flash.cramfs", (Magic(b"\x45\x3d\xcd\x28"), Magic(b"\x28\xcd\x3d\x45"))),
    Row("romfs", _FS, "flash.romfs", (Magic(b"-rom1fs-"),)),
    Row("scoutfs_meta", _FS, "cluster.scoutfs_meta", (Magic(b"\x8b\x42\x3c\x10", 4, 64 * KIB),), 128 * KIB),
    Row("scoutfs_data", _FS, "cluster.scoutfs_data", (Magic(b"\x8b\x42\x3c\x10", 4, 64 * KIB),), 128 * KIB),
    Row(
        "minix",
        _FS,
        "unix.minix",
        tuple(
            Magic(magic, 16, 1024)
            for number in (0x137F, 0x138F, 0x2468, 0x2478)
            for magic in (number.to_bytes(2, "little"), number.to_bytes(2, "big"))
        ),
    ),
    Row("minix", _FS, "unix.minix3", (Magic(b"\x5a\x4d", 24, 1024), Magic(b"\x4d\x5a", 24, 1024))),
    Row("gfs", _FS, "cluster.gfs", (Magic(b"\x01\x16\x19\x70", 0, 64 * KIB),), 32 * MIB),
    Row("gfs2", _FS, "cluster.gfs2", (Magic(b"\x01\x16\x19\x70", 0, 64 * KIB),), 32 * MIB),
    Row("ocfs2", _FS, "cluster.ocfs2", tuple(Magic(b"OCFSV2", 0, KIB * at) for at in (1, 2, 4, 8)), 14000 * KIB),
    Row("oracleasm", _FS, "cluster.oracleasm", (Magic(b"ORCLDISK", 32),)),
    Row("vxfs", _FS, "unix.vxfs", (Magic(b"\xf5\xfc\x01\xa5", 0, 1024), Magic(b"\xa5\x01\xfc\xf5", 0, 8 * KIB))),
    Row("squashfs", _FS, "flash.squashfs", (Magic(b"hsqs"),)),
    Row("squashfs3", _FS, "flash.squashfs3", (Magic(b"sqsh"), Magic(b"hsqs"))),
    Row("nss", _FS, "windows.nss", (Magic(b"SPB5", 0, 4 * KIB),)),
    Row("btrfs", _FS, "btrfs.btrfs", (Magic(b"_BHRfS_M", 64, 64 * KIB),), MIB),
    Row("ubifs", _FS, "flash.ubifs", (Magic(b"\x31\x18\x10\x06"),)),
    Row("bfs", _FS, "unix.bfs", (Magic(b"\xce\xfa\xad\x1b"),)),
    Row("VMFS", _FS, "vmware.vmfs", (Magic(b"\x5e\xf1\xab\x2f", 0, 2 * MIB),)),
    Row("befs", _FS, "unix.befs", tuple(Magic(magic, 32, at) for at in (0, 512) for magic in (b"BFS1", b"1SFB")), 1440 * KIB),
    Row("nilfs2", _FS, "linux.nilfs2", (Magic(b"\x34\x34", 6, 1024), Magic(b"\x34\x34", 6, -4096, 512)), MIB),
    Row("exfat", _FS, "fat.exfat", (Magic(b"EXFAT   ", 3),)),
    Row("f2fs", _FS, "linux.f2fs", (Magic(b"\x10\x20\xf5\xf2", 0, 1024),)),
    Row("mpool", _FS, "cluster.mpool", (Magic(b"mpoolDev"),)),
    Row("apfs", _FS, "apple.apfs", (Magic(b"NXSB", 32),)),
    Row("zonefs", _FS, "flash.zonefs", (Magic(b"SFOZ"),)),
    Row("erofs", _FS, "flash.erofs", (Magic(b"\xe2\xe1\xf5\xe0", 0, 1024),)),
    # Copies of a superblock whose first one is gone: often left over from what was there before, so believed last
    Row("crypto_LUKS", _CRYPTO, "crypto.luks2_copy", tuple(Magic(b"SKUL\xba\xbe", 0, at) for at in _LUKS2_COPIES)),
    Row(
        "zfs_member",
        _FS,
        "zfs.label",
        tuple(
            Magic(magic, 16 * KIB, base, align)
            for base, align in ((256 * KIB, 0), (-512 * KIB, 256 * KIB), (-256 * KIB, 256 * KIB))
            for magic in _ZFS_NVLIST
        ),
        64 * MIB,
    ),
)
"""First match wins."""
