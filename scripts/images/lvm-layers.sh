#!/usr/bin/env bash
# Write caches and integrity checksums of LVM, made inside libguestfs' virtual machine, which is then killed, as a power cut would,
# so that what was written is still in the write cache and in the journals. Beside the disk: what lvs says, and the SHA-256 of every
# volume as the kernel read it. A second start of the machine activates a copy and reads again: the kernel's own recovery.
# Needs: libguestfs-tools, gdisk, xz-utils, python3. Takes some minutes. Result: tests/golden/lvm-layers.
set -euo pipefail
golden=$(realpath "$(dirname "$0")/../../tests/golden")/lvm-layers
guest=$(realpath "$(dirname "$0")/guest")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
truncate -s 256M layers.img
sgdisk --clear -a 8 -U 4C564D00-0000-4000-8000-000000000010 -n 1:2048:+80M -n 2:0:+80M -n 3:0:+80M layers.img > sgdisk.log
truncate -s 8M results.img again.img
python3 "$guest/pattern.py" 8192 > pattern.img

mkdir in
cat > in/common.sh <<'VM'
pvs='sda[123]'
. ./lvm-setup
count=0
fill() {  # fill DEVICE BLOCKS AT: its own stretch of the pattern disk
    count=$((count + 1))
    dd if=/tmp/disks/sdb of=/dev/layers/$1 bs=4k skip=$((count * 300)) count=$2 seek=$3 conv=fsync,notrunc oflag=direct || echo FAILED $1
}
sums() {
    for lv in $(lvs --noheadings -o lv_name layers); do
        echo "$lv $(blockdev --getsize64 /dev/layers/$lv) $(sha256sum < /dev/layers/$lv | cut -d' ' -f1)"
    done
}
report() {
    cp /tmp/log /tmp/out
    tar -cf /tmp/disks/$1 -C /tmp out
    sync
}
VM
cat > in/make.sh <<'VM'
. ./common.sh
pvcreate -qq --metadatasize 200k --dataalignment 64k /tmp/disks/sda[123]
vgcreate -qq -s 64k layers /tmp/disks/sda[123]
for size in 4096 512; do
    lvcreate -y -qq --wipesignatures n -n wc$size -l 32 layers
    fill wc$size 512 0
    lvchange -an layers/wc$size
    lvcreate -y -qq -an --wipesignatures n -n fast$size -l 24 layers
    lvconvert -y -qq --type writecache --cachevol fast$size --cachesettings "block_size=$size high_watermark=100 low_watermark=90" layers/wc$size || echo FAILED wc$size
    lvchange -ay layers/wc$size
    fill wc$size 40 7
    fill wc$size 3 100
    fill wc$size 20 20
    [ $size = 512 ] && dd if=/tmp/disks/sdb of=/dev/layers/wc$size bs=512 skip=8 count=3 seek=1001 conv=fsync,notrunc oflag=direct
    dmsetup status layers-wc$size
done
lvcreate -y -qq --wipesignatures n --type raid1 -m 1 --raidintegrity y --raidintegritymode bitmap -n bitmap -l 16 layers || echo FAILED bitmap
lvcreate -y -qq --wipesignatures n --type raid1 -m 1 --raidintegrity y --raidintegritymode journal -n journal -l 16 layers || echo FAILED journal
lvcreate -y -qq --wipesignatures n --type raid5 -i 2 -I 4k --raidintegrity y --raidintegritymode journal --raidintegrityblocksize 4096 -n five -l 16 layers || echo FAILED five
for lv in bitmap journal five; do
    [ -e /dev/layers/$lv ] || continue
    for try in $(seq 60); do lvs --noheadings -o sync_percent layers/$lv | grep -q 100.00 && break; sleep 1; done
    fill $lv 256 0
    fill $lv 40 7
    fill $lv 30 20
done
sync
sums > /tmp/out/sums
lvs -a --units b --nosuffix --reportformat json -o vg_name,lv_name,lv_uuid,lv_size,segtype,devices,lv_layout layers > /tmp/out/lvs.json
dmsetup table > /tmp/out/tables
vgcfgbackup -f /tmp/out/group layers
report sdd
VM
cat > in/again.sh <<'VM'
. ./common.sh
vgchange -qq -ay layers
sums > /tmp/out/sums
report sde
VM
cp "$guest/lvm-setup" in
tar -cf in.tar -C in .
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
start() {  # start DISK SCRIPT
    nice -n 5 guestfish --format=raw -a "$1" -a pattern.img -a in.tar -a results.img -a again.img > "$2.log" 2>&1 <<FISH || true
run
debug sh "cd /tmp; for disk in /dev/sd?; do tar -xf \$disk ./common.sh ./lvm-setup ./make.sh ./again.sh 2>/dev/null && break; done; sh $2.sh > /tmp/log 2>&1; sync; true"
kill-subprocess
FISH
}
start layers.img make
cp --sparse=always layers.img copy.img
start copy.img again
mkdir made recovered
tar -xf results.img -C made || { cat make.log; exit 1; }
tar -xf again.img -C recovered || { cat again.log; exit 1; }
grep FAILED made/out/log && exit 1
diff made/out/sums recovered/out/sums
mkdir -p "$golden"
python3 - "$golden/facts.json" <<'PY'
import json, pathlib, sys

lvs = json.loads(pathlib.Path("made/out/lvs.json").read_text())["report"][0]["lv"]
sums = {name: {"size": int(size), "sha256": digest} for name, size, digest in map(str.split, pathlib.Path("made/out/sums").read_text().splitlines())}
tables = pathlib.Path("made/out/tables").read_text().splitlines()
pathlib.Path(sys.argv[1]).write_text(json.dumps({"volumes": sums, "lvs": lvs, "tables": tables}, indent=1) + "\n")
PY
xz -9e --stdout layers.img > "$golden/layers.img.xz"
ls -l "$golden"
