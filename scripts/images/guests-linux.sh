#!/usr/bin/env bash
# Three Linux systems, put together from files and never run: Debian with LUKS, LVM and a second disk; Rocky Linux on two halves of
# a RAID 1; Alpine on one disk. Debian's files are from its own packages, the others' settings as their installers leave them.
# Beside the disks: what virt-inspector says of each, and which device findmnt takes each line of fstab to mean.
# Needs: libguestfs-tools, virt-inspector, cryptsetup, gdisk, rpm, xz-utils, python3, and apt's sources for four small packages.
# Takes five minutes under software emulation. Result: tests/golden/guests-linux. The passphrase is "correct horse".
set -euo pipefail
golden=$(realpath "$(dirname "$0")/../../tests/golden")/guests-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg

mkdir -p packages in/debian in/rocky in/alpine
(cd packages && apt-get -q download base-files base-passwd dash hostname > apt.log)
debian=in/debian
for package in packages/*.deb; do dpkg-deb -x "$package" $debian; done
mkdir -p $debian/{boot/efi,home,srv/data,proc,tmp,var/lib/dpkg,var/log/installer,etc/systemd/system/multi-user.target.wants}
for package in packages/*.deb; do
    dpkg-deb -f "$package" Package | sed 's/^/Package: /'
    echo 'Status: install ok installed'
    dpkg-deb -f "$package" Maintainer Version Architecture
    echo
done > $debian/var/lib/dpkg/status
rm -rf $debian/usr/share/{doc,man,lintian,locale,common-licenses,info}
for name in bin sbin lib; do  # as usrmerge leaves it
    mkdir -p $debian/usr/$name
    [ ! -d $debian/$name ] || { cp -a $debian/$name/. $debian/usr/$name/ && rm -r "${debian:?}/$name"; }
    ln -s usr/$name $debian/$name
done
cp $debian/usr/share/base-passwd/passwd.master $debian/etc/passwd
echo 'ann:x:1000:1000:Ann Example,,,:/home/ann:/bin/sh' >> $debian/etc/passwd
echo web01 > $debian/etc/hostname
echo 0123456789abcdef0123456789abcdef > $debian/etc/machine-id
echo Europe/Paris > $debian/etc/timezone
ln -sf /usr/share/zoneinfo/Europe/Paris $debian/etc/localtime
echo done > $debian/var/log/installer/syslog
cat > $debian/etc/crypttab <<'END'
# <target name> <source device> <key file> <options>
crypt-pv PARTUUID=4C580000-0000-4000-8000-000000000103 none luks,discard
END
cat > $debian/etc/fstab <<'END'
# <file system> <mount point> <type> <options> <dump> <pass>
/dev/mapper/vg--one-root /               ext4    errors=remount-ro 0       1
UUID=4c580000-0000-4000-8000-0000000000b0 /boot  ext4    defaults  0       2
UUID=4C58-0001  /boot/efi       vfat    umask=0077      0       1
/dev/vg-one/home-data /home      ext4    defaults,nofail 0       2
PARTUUID=4c58aaaa-01 /var       ext4    defaults        0       2
LABEL=the\040data /srv/data     ext4    noauto,user     0       0
/srv/data/pub   /srv/pub        none    bind            0       0
/dev/mapper/vg--one-swap none   swap    sw              0       0
UUID=00000000-dead-4000-8000-000000000000 /gone ext4 nofail 0 2
tmpfs           /tmp            tmpfs   size=1G         0       0
nas:/export     /mnt            nfs4    _netdev         0       0
END
mkdir -p $debian/srv/pub $debian/gone

rocky=in/rocky
mkdir -p $rocky/{boot,etc/sysconfig,usr/{bin,lib,lib64,sbin,lib/sysimage},var/lib/rpm,var/log,root,home,proc}
for name in bin sbin lib lib64; do ln -s usr/$name $rocky/$name; done
cp $debian/usr/bin/dash $rocky/usr/bin/bash && ln -s bash $rocky/usr/bin/sh
cat > $rocky/usr/lib/os-release <<'END'
NAME="Rocky Linux"
VERSION="9.3 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.3"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.3 (Blue Onyx)"
CPE_NAME="cpe:/o:rocky:rocky:9::baseos"
END
ln -s ../usr/lib/os-release $rocky/etc/os-release
echo 'Rocky Linux release 9.3 (Blue Onyx)' > $rocky/etc/rocky-release
ln -s rocky-release $rocky/etc/redhat-release
echo db.example.org > $rocky/etc/hostname
echo fedcba9876543210fedcba9876543210 > $rocky/etc/machine-id
ln -s ../usr/share/zoneinfo/America/New_York $rocky/etc/localtime
echo 'root:x:0:0:root:/root:/bin/bash' > $rocky/etc/passwd
echo '# made by anaconda' > $rocky/root/anaconda-ks.cfg
cat > $rocky/etc/mdadm.conf <<'END'
MAILADDR root
ARRAY /dev/md/system level=raid1 num-devices=2 UUID=MD-UUID
END
cat > $rocky/etc/fstab <<'END'
UUID=4c580000-0000-4000-8000-0000000000e0 /       ext4    defaults        1 1
/dev/disk/by-label/BOOT /boot                   ext4    defaults        1 2
END
for name in first second; do  # two packages without files, for a database that rpm itself has written
    printf 'Name: %s\nVersion: 1.2\nRelease: 3.el9\nEpoch: 4\nSummary: x\nLicense: x\nVendor: Example Org\nBuildArch: noarch\n%%description\nx\n%%files\n' $name > $name.spec
    rpmbuild --quiet -bb --define "_topdir $work/rpm" $name.spec > rpmbuild.log 2>&1
done
mkdir rpmdb
rpm --dbpath "$work/rpmdb" --define '_db_backend sqlite' --initdb
rpm --dbpath "$work/rpmdb" --define '_db_backend sqlite' --justdb --nodeps --ignoresize -i rpm/RPMS/noarch/*.rpm
rpm --dbpath "$work/rpmdb" --define '_db_backend sqlite' -qa --qf '%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{VENDOR}\n' | sort > rpm-qa
cp rpmdb/rpmdb.sqlite $rocky/var/lib/rpm/

alpine=in/alpine
mkdir -p $alpine/{boot,etc/apk,bin,sbin,lib/apk/db,usr/bin,var/log,home}
cp $debian/usr/bin/dash $alpine/bin/busybox && ln -s /bin/busybox $alpine/bin/sh
printf 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME="Alpine Linux v3.19"\n' > $alpine/etc/os-release
echo 3.19.1 > $alpine/etc/alpine-release
echo edge01 > $alpine/etc/hostname
echo 'root:x:0:0:root:/root:/bin/ash' > $alpine/etc/passwd
printf 'P:musl\nV:1.2.4_git20230717-r4\nA:x86_64\nm:Timo\n\nP:busybox\nV:1.36.1-r15\nA:x86_64\n\n' > $alpine/lib/apk/db/installed
printf '/dev/vda1\t/boot\text4\trw,relatime 0 2\n/dev/vda2\t/\text4\trw,relatime 0 1\n/dev/cdrom\t/media/cdrom\tiso9660\tnoauto,ro 0 0\n' > $alpine/etc/fstab

truncate -s 40M debian0.img
truncate -s 20M debian1.img
truncate -s 24M rocky0.img rocky1.img
truncate -s 16M alpine.img
truncate -s 4M results.img
sgdisk --clear -a 8 -U 4C580000-0000-4000-8000-000000000100 -n 1:0:+3M -t 1:ef00 -n 2:0:+6M -n 3:0:+28M \
    -u 1:4C580000-0000-4000-8000-000000000101 -u 2:4C580000-0000-4000-8000-000000000102 -u 3:4C580000-0000-4000-8000-000000000103 \
    debian0.img > sgdisk.log
printf 'label: dos\nlabel-id: 0x4c58aaaa\nsize=10M, type=83\nsize=8M, type=5\ndebian1.img5 : size=6M, type=83\n' | sfdisk -q debian1.img
for half in 0 1; do printf 'label: dos\nlabel-id: 0x4c58bb0%s\nsize=6M, type=83\ntype=fd\n' $half | sfdisk -q rocky$half.img; done
printf 'label: dos\nlabel-id: 0x4c58cccc\nsize=5M, type=83\ntype=83\n' | sfdisk -q alpine.img

printf 'correct horse' > in/passphrase
cat > in/run.sh <<'VM'
set -x
out=/tmp/out
mkdir -p $out /run/cryptsetup
export LVM_SUPPRESS_FD_WARNINGS=1
for module in dm-crypt dm-mod raid1 vfat; do modprobe $module; done
disk() {  # the kernel names disks in the order in which it finds them
    for block in /sys/block/sd*; do
        [ "$(readlink $block/device | cut -d: -f3)" = "$1" ] && basename $block
    done
}
d0=/dev/$(disk 0) d1=/dev/$(disk 1) r0=/dev/$(disk 2) r1=/dev/$(disk 3) a=/dev/$(disk 4) results=/dev/$(disk 6)
ext4="mke2fs -q -t ext4 -m 0 -N 640 -O ^has_journal"  # what is encrypted does not compress
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --luks2-metadata-size 16k --luks2-keyslots-size 512k \
    --uuid 4c580000-0000-4000-8000-0000000000c0 ${d0}3 /tmp/in/passphrase
cryptsetup open --key-file /tmp/in/passphrase ${d0}3 crypt-pv
pvcreate -qq --metadatasize 100k /dev/mapper/crypt-pv
vgcreate -qq -s 256k vg-one /dev/mapper/crypt-pv
lvcreate -y -qq -L 16m -n root vg-one
lvcreate -y -qq -L 4m -n home-data vg-one
lvcreate -y -qq -L 1m -n swap vg-one
mkfs.vfat -n ESP -i 4C580001 ${d0}1
$ext4 -U 4c580000-0000-4000-8000-0000000000b0 ${d0}2
$ext4 -U 4c580000-0000-4000-8000-0000000000a0 /dev/vg-one/root
$ext4 /dev/vg-one/home-data
mkswap /dev/vg-one/swap
$ext4 ${d1}1
$ext4 -L 'the data' ${d1}5
mdadm --create /dev/md/system --homehost=db --name=system --run --metadata=1.2 --level=1 --raid-devices=2 ${r0}2 ${r1}2
mdadm --detail --scan > $out/mdadm.conf
md=$(readlink -f /dev/md/system || echo /dev/md127)
[ -b $md ] || md=$(ls /dev/md12? | head -1)
uuid=$(mdadm --detail $md | sed -n 's/ *UUID : //p')
sed -i "s/MD-UUID/$uuid/" /tmp/in/rocky/etc/mdadm.conf
$ext4 -L BOOT ${r0}1
$ext4 -U 4c580000-0000-4000-8000-0000000000e0 $md
$ext4 ${a}1
$ext4 -U 4c580000-0000-4000-8000-0000000000d0 ${a}2
fill() {  # fill DEVICE FOLDER: move what is in the folder to the device, and leave the folder
    mkdir -p /tmp/mnt
    mount $1 /tmp/mnt || { echo "FAILED $1"; return; }
    cp -a $2/. /tmp/mnt/
    umount /tmp/mnt
    find $2 -mindepth 1 -delete
}
g=/tmp/in/debian
fill ${d0}1 $g/boot/efi
mkdir -p $g/boot/grub && echo x > $g/boot/vmlinuz
fill ${d0}2 $g/boot
mkdir -p $g/home/ann && echo budget > $g/home/ann/budget.ods
fill /dev/vg-one/home-data $g/home
fill ${d1}1 $g/var
mkdir -p $g/srv/data/pub && echo hello > $g/srv/data/pub/index.html
fill ${d1}5 $g/srv/data
cp -a $g/etc/fstab $out/debian.fstab
fill /dev/vg-one/root $g
g=/tmp/in/rocky
echo x > $g/boot/vmlinuz
fill ${r0}1 $g/boot
cp -a $g/etc/fstab $out/rocky.fstab
fill $md $g
g=/tmp/in/alpine
echo x > $g/boot/vmlinuz
fill ${a}1 $g/boot
cp -a $g/etc/fstab $out/alpine.fstab
fill ${a}2 $g
for name in debian rocky; do findmnt --tab-file $out/$name.fstab --evaluate -J -o SOURCE,TARGET,FSTYPE,OPTIONS > $out/$name.findmnt; done
blkid -o export > $out/blkid
for device in ${d0}1 ${d0}2 ${d1}1 ${d1}5 /dev/mapper/vg--one-root /dev/mapper/vg--one-home--data ${r0}1 $md ${a}1 ${a}2; do
    echo "$device $(blkid -c /dev/null -o value -s UUID $device)"
done > $out/uuids
vgchange -an vg-one
cryptsetup close crypt-pv
mdadm --stop $md
cp /tmp/log $out/log
tar -cf $results -C /tmp out
sync
VM
tar -cf in.tar -C in .
nice -n 5 guestfish --format=raw -a debian0.img -a debian1.img -a rocky0.img -a rocky1.img -a alpine.img -a in.tar -a results.img \
    > guestfish.log 2>&1 <<'FISH' || true
run
debug sh "mkdir -p /tmp/in; cd /tmp/in; for disk in /dev/sd?; do tar -xf $disk 2>/dev/null && [ -e run.sh ] && break; done; sh run.sh > /tmp/log 2>&1; true"
FISH
tar -xf results.img || { cat guestfish.log; exit 1; }
grep '^FAILED' out/log && exit 1
mkdir -p "$golden"
# It does not find the PARTUUID that /var is on, and no RPM database of Debian's rpm: packages are left out for these.
nice -n 5 virt-inspector --format=raw -a debian0.img -a debian1.img --key /dev/sda3:key:'correct horse' --no-icon --no-applications > debian.xml
nice -n 5 virt-inspector --format=raw -a rocky0.img -a rocky1.img --no-icon --no-applications > rocky.xml
nice -n 5 virt-inspector --format=raw -a alpine.img --no-icon > alpine.xml
python3 - "$golden/facts.json" <<'PY'
import json, pathlib, sys
import xml.etree.ElementTree as ET

facts = {"uuids": dict(line.split() for line in pathlib.Path("out/uuids").read_text().splitlines())}
for name in ("debian", "rocky", "alpine"):
    system = ET.parse(f"{name}.xml").find("operatingsystem")
    told = {tag: system.findtext(tag) for tag in ("name", "arch", "distro", "product_name", "major_version", "minor_version",
                                                  "hostname", "package_format", "osinfo")}
    told["mountpoints"] = {one.text: one.get("dev") for one in system.iterfind("mountpoints/mountpoint")}
    told["applications"] = [[one.findtext(tag) for tag in ("name", "epoch", "version", "release")] for one in system.iterfind("applications/application")]
    facts[name] = {"virt-inspector": told, "fstab": pathlib.Path(f"out/{name}.fstab").read_text()}
for name in ("debian", "rocky"):
    facts[name]["findmnt"] = json.loads(pathlib.Path(f"out/{name}.findmnt").read_text())["filesystems"]
facts["rocky"]["rpm -qa"] = pathlib.Path("rpm-qa").read_text().splitlines()
pathlib.Path(sys.argv[1]).write_text(json.dumps(facts, indent=1) + "\n")
PY
for disk in debian0 debian1 rocky0 rocky1 alpine; do xz -9e --stdout "$disk.img" > "$golden/$disk.img.xz"; done
ls -l "$golden"
