#!/usr/bin/env bash
# Volume groups of every kind that lvcreate makes, on the partitions of six disks and on a seventh whole disk, made inside
# libguestfs' virtual machine. Beside the disks: what lvs, vgs and pvs say, and the SHA-256 of every volume as the kernel reads it.
# Needs: libguestfs-tools, gdisk, xz-utils, python3. Takes ten minutes under software emulation. Result: tests/golden/lvm.
set -euo pipefail
golden=$(realpath "$(dirname "$0")/../../tests/golden")/lvm
guest=$(realpath "$(dirname "$0")/guest")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

for disk in 0 1 2 3 4 5; do
    truncate -s 36M "disk$disk.img"
    sgdisk --clear -a 8 -U "4C564D00-0000-4000-8000-00000000000$disk" \
        -n 1:2048:+14M -n 2:0:+11M -n 3:0:+4M -n 4:0:+3M -t 1:8e00 -t 2:8e00 -t 3:8e00 -t 4:8e00 "disk$disk.img" > sgdisk.log
done
truncate -s 6M disk6.img
truncate -s 16M results.img
python3 "$guest/pattern.py" 24576 > pattern.img

mkdir in
cat > in/run.sh <<'VM'
pvs='sd[a-g]'
. ./lvm-setup

# fill VG/LV: its own stretch of the pattern disk.
count=0
fill() {
    count=$((count + 1))
    dd if=/tmp/disks/sdh of=/dev/$1 bs=64k skip=$((count * 16)) count=$(($(blockdev --getsize64 /dev/$1) / 65536)) conv=fsync || echo FAILED $1
}
make() {  # make VG LV ARGUMENTS...
    vg=$1 lv=$2
    shift 2
    lvcreate -y -qq --wipesignatures n -n $lv "$@" && fill $vg/$lv || echo FAILED $lv
}
report() {  # what there is so far, to the results disk
    cp /tmp/log /tmp/out
    tar -cf /tmp/disks/sdj -C /tmp out
    sync
}
settled() {  # wait until no RAID volume or mirror is being synchronised
    for try in $(seq 300); do
        lvs --noheadings -o sync_percent $1 | grep -v '^ *$' | grep -qv '100.00' || return 0
        sleep 1
    done
    echo FAILED sync $1
}
sums() {  # sums VG FILE: size and SHA-256 of what there is of it in /dev
    for lv in $(lvs --noheadings -o lv_name $1); do
        [ -e /dev/$1/$lv ] || continue
        echo "$1/$lv $(blockdev --getsize64 /dev/$1/$lv) $(sha256sum < /dev/$1/$lv | cut -d' ' -f1)" >> /tmp/out/$2
    done
}

# Everything else; its PVs are partitions and a whole disk, the first with two copies of the metadata.
pvcreate -qq --metadatasize 200k --pvmetadatacopies 2 --dataalignment 64k /tmp/disks/sda2
pvcreate -qq --metadatasize 200k --dataalignment 64k /tmp/disks/sdb2 /tmp/disks/sdg
pvcreate -qq --pvmetadatacopies 0 --dataalignment 64k /tmp/disks/sd[cdef]2
vgcreate -qq -s 64k --addtag 'tag#1' plain /tmp/disks/sd[abcdef]2 /tmp/disks/sdg
make plain linear -l 8 plain /tmp/disks/sda2
make plain li-near -l 4 plain /tmp/disks/sda2
lvextend -qq -l +5 plain/linear /tmp/disks/sdb2 && lvextend -qq -l +3 plain/linear /tmp/disks/sdg && fill plain/linear || echo FAILED extend
make plain stripe2 -i 2 -I 4k -l 8 plain
make plain stripe5 -i 5 -I 16k -l 10 plain
lvextend -qq -i 3 -I 8k -l +6 plain/stripe5 && fill plain/stripe5 || echo FAILED extend
make plain mirror --type mirror -m 1 --mirrorlog disk -l 8 plain
make plain mirrorcore --type mirror -m 2 --mirrorlog core -l 4 plain
lvcreate -y -qq -n zero --type zero -l 4 plain || echo FAILED zero
lvcreate -y -qq -n error --type error -l 4 plain || echo FAILED error
lvcreate -y -qq -n mixed -l 4 plain /tmp/disks/sdc2 && fill plain/mixed || echo FAILED mixed
lvextend -qq -l +2 --type zero plain/mixed || echo FAILED mixed
lvextend -qq -l +2 --type error plain/mixed || echo FAILED mixed
lvcreate -y -qq -n origin -l 6 plain && fill plain/origin
lvcreate -y -qq -s -n before -l 4 plain/origin && dd if=/tmp/disks/sdh of=/dev/plain/origin bs=4k skip=20000 count=20 seek=11 conv=fsync,notrunc || echo FAILED snapshot
make plain converted --type raid1 -m 1 -l 4 plain
settled plain
lvconvert -y -qq -m 0 plain/converted || echo FAILED converted
make plain renumbered --type raid5_ls -i 2 -I 4k -l 6 plain
settled plain
lvconvert -y -qq --stripes 3 plain/renumbered && sleep 3 && settled plain && fill plain/renumbered || echo FAILED reshape
settled plain
make plain moving -l 32 plain /tmp/disks/sdd2
echo 1 > /sys/module/dm_mirror/parameters/raid1_resync_throttle
pvmove -b -i 6000 -n moving /tmp/disks/sdd2:0-100 /tmp/disks/sde2 || echo FAILED pvmove
report

# RAID of every layout. Two PVs of six have metadata, in a small area, so that it wraps.
pvcreate -qq --metadatasize 400k --dataalignment 64k /tmp/disks/sda1 /tmp/disks/sdb1
pvcreate -qq --pvmetadatacopies 0 --dataalignment 64k /tmp/disks/sd[cdef]1
vgcreate -qq -s 64k raid-set /tmp/disks/sd[abcdef]1
make raid-set r0 --type raid0 -i 3 -I 4k -l 9 raid-set
make raid-set r0meta --type raid0_meta -i 4 -I 16k -l 8 raid-set
make raid-set r1 --type raid1 -m 1 -l 6 raid-set
make raid-set r1three --type raid1 -m 2 -l 3 --addtag three raid-set
make raid-set r4 --type raid4 -i 3 -I 4k -l 9 raid-set
for layout in la ra ls rs n; do make raid-set r5$layout --type raid5_$layout -i 3 -I 8k -l 9 raid-set; done
for layout in zr nr nc ls_6 la_6 rs_6 ra_6 n_6; do make raid-set r6$layout --type raid6_$layout -i 3 -I 4k -l 9 raid-set; done
make raid-set r6wide --type raid6 -i 4 -I 64k -l 8 raid-set
make raid-set r10 --type raid10 -i 2 -m 1 -I 4k -l 8 raid-set
make raid-set r10wide --type raid10 -i 3 -m 1 -I 16k -l 9 raid-set
make raid-set r5small --type raid5 -i 2 -I 4k -l 6 raid-set
settled raid-set
lvextend -qq -l +6 raid-set/r5small || echo FAILED extend
fill raid-set/r5small
settled raid-set
report

# A group that went on without one of its disks.
pvcreate -qq --metadatasize 100k --dataalignment 64k /tmp/disks/sd[abcde]3
vgcreate -qq -s 64k stale /tmp/disks/sd[abcde]3
make stale mirror --type raid1 -m 1 -l 4 stale /tmp/disks/sda3 /tmp/disks/sdb3
make stale five --type raid5 -i 2 -I 4k -l 4 stale /tmp/disks/sd[abc]3
make stale six --type raid6 -i 3 -I 4k -l 6 stale /tmp/disks/sd[abcde]3
make stale ten --type raid10 -i 2 -m 1 -I 4k -l 4 stale /tmp/disks/sd[abcd]3
settled stale
vgchange -qq -an stale
without="--devices /tmp/disks/sda3 --devices /tmp/disks/sdc3 --devices /tmp/disks/sdd3 --devices /tmp/disks/sde3"
vgchange -ay --activationmode degraded $without stale
for lv in mirror five six ten; do fill stale/$lv; done
sync
for lv in mirror five six ten; do dmsetup status stale-$lv; done
vgchange -qq -an $without stale
vgchange -ay --activationmode degraded $without stale
sums stale stale.sums
vgchange -qq -an $without stale

# A group whose metadata says that a disk is missing, which then came back.
pvcreate -qq --metadatasize 100k --dataalignment 64k /tmp/disks/sd[abc]4
vgcreate -qq -s 64k came-back /tmp/disks/sd[abc]4
make came-back on-a -l 3 came-back /tmp/disks/sda4
make came-back on-b -l 3 came-back /tmp/disks/sdb4
make came-back both --type raid1 -m 1 -l 3 came-back /tmp/disks/sda4 /tmp/disks/sdb4
settled came-back
vgchange -qq -an came-back
absent="--devices /tmp/disks/sda4 --devices /tmp/disks/sdc4"
vgchange -qq $absent --addtag changed came-back  # writes down that a disk is missing
lvchange -ay --activationmode degraded $absent came-back/both && fill came-back/both
vgchange -qq -ay --activationmode degraded $absent came-back
sums came-back came-back.sums
vgchange -qq -an $absent came-back
vgs $absent -o+vg_missing_pv_count came-back

# Two groups of one name, one of them exported; and a PV of no group.
pvcreate -qq --metadatasize 40k --dataalignment 4k /tmp/disks/sd[def]4
vgcreate -qq -s 64k --devices /tmp/disks/sdd4 twin /tmp/disks/sdd4
for tag in $(seq 30); do vgchange -qq --devices /tmp/disks/sdd4 --addtag "generation.$tag" twin; done
lvcreate -y -qq --devices /tmp/disks/sdd4 -n data -l 4 twin && fill twin/data && sums twin twin.sums && lvchange -an --devices /tmp/disks/sdd4 twin/data
vgcreate -qq -s 128k --devices /tmp/disks/sde4 twin /tmp/disks/sde4
lvcreate -y -qq --devices /tmp/disks/sde4 -n data -l 3 twin && fill twin/data
echo "exported/data $(blockdev --getsize64 /dev/twin/data) $(sha256sum < /dev/twin/data | cut -d' ' -f1)" >> /tmp/out/exported.sums
lvchange -an --devices /tmp/disks/sde4 twin/data
vgs --devices /tmp/disks/sdd4 --devices /tmp/disks/sde4

vgchange -qq -ay raid-set
vgchange -qq -ay plain
sums raid-set raid-set.sums
lvchange -qq -an plain/renumbered && lvchange -qq -ay plain/renumbered  # only now it has the size that lvs says
sums plain plain.sums
for type in lvs vgs pvs; do
    case $type in
        lvs) columns=vg_uuid,lv_uuid,vg_name,lv_name,lv_size,seg_type,segtype,devices,lv_layout,lv_role,tags ;;
        vgs) columns=vg_uuid,vg_name,vg_size,vg_free,vg_extent_size,vg_seqno,pv_count,lv_count,vg_exported,tags ;;
        pvs) columns=pv_uuid,pv_name,vg_uuid,vg_name,pv_size,dev_size,pv_free,pe_start,pv_mda_count,pv_missing ;;
    esac
    $type -a --units b --nosuffix --reportformat json -o $columns > /tmp/out/$type.json
done
vgchange -qq -an raid-set
vgchange -qq -an plain
vgexport -qq --devices /tmp/disks/sde4 twin
report
VM
cp "$guest/lvm-setup" in
tar -cf in.tar -C in run.sh lvm-setup

export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
nice -n 5 guestfish --format=raw -a disk0.img -a disk1.img -a disk2.img -a disk3.img -a disk4.img -a disk5.img -a disk6.img \
    -a pattern.img -a in.tar -a results.img > guestfish.log 2>&1 <<'FISH' || true
run
debug sh "cd /tmp; for disk in /dev/sd?; do tar -xf $disk run.sh lvm-setup 2>/dev/null && break; done; sh run.sh > /tmp/log 2>&1; true"
FISH
tar -xf results.img || { cat guestfish.log; exit 1; }
grep -H FAILED out/log && exit 1
mkdir -p "$golden"
python3 - "$golden/facts.json" <<'PY'
import json, pathlib, sys

rows = {}
for kind in ("lvs", "vgs", "pvs"):
    report = json.loads(pathlib.Path(f"out/{kind}.json").read_text())["report"][0][kind[:-1]]
    rows[kind] = list({row[kind[:-1] + "_uuid"]: row for row in report}.values())
exported = {row["vg_uuid"] for row in rows["vgs"] if row["vg_extent_size"] == "131072"}
for row in [row for kind in rows.values() for row in kind if row.get("vg_uuid") in exported]:
    row["vg_name"] = "exported"
uuids = {f"{row['vg_name']}/{row['lv_name']}": row["lv_uuid"] for row in rows["lvs"]}
volumes = {}
for path in sorted(pathlib.Path("out").glob("*.sums")):
    for line in path.read_text().splitlines():
        name, size, *digest = line.split()  # none of a volume with error segments
        volumes[name] = {"uuid": uuids[name], "size": int(size), "sha256": "".join(digest)}
pathlib.Path(sys.argv[1]).write_text(json.dumps({"volumes": volumes, **rows}, indent=1) + "\n")
PY
for disk in disk?.img; do xz -9e --stdout "$disk" > "$golden/$disk.xz"; done
ls -l "$golden"
