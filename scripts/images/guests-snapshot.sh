#!/usr/bin/env bash
# A Linux whose root is on LVM, with a snapshot from before some of its files changed: tests/golden/guests-snapshot/disk.img.xz,
# and facts.json: what the kernel reads in both, and when LVM says that the snapshot was made. Everything happens in libguestfs'
# small VM. Needs libguestfs-tools and linux-image-amd64. Takes about a minute.
set -euo pipefail
golden=$(realpath "$(dirname "$(realpath "$0")")/../../tests/golden")/guests-snapshot
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{etc,home/ann,usr/lib,usr/bin,var}
ln -s usr/bin "$root/bin"
printf 'ID=debian\nNAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID=12\n' > "$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"
printf 'snapshot\n' > "$root/etc/hostname"
printf '/dev/vg0/root / ext4 rw 0 1\n' > "$root/etc/fstab"
printf 'the first budget\n' > "$root/home/ann/budget.txt"
seq 30000 > "$root/home/ann/numbers"
printf 'to be deleted\n' > "$root/home/ann/gone.txt"
printf 'never changed\n' > "$root/home/ann/same.txt"
tar -C "$root" --owner=0 --group=0 -cf "$work/root.tar" .
truncate -s 24M "$work/disk.img"
LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg guestfish --format=raw -a "$work/disk.img" > "$work/log" <<EOF
run
pvcreate /dev/sda
vgcreate vg0 /dev/sda
lvcreate root vg0 10
mkfs ext4 /dev/vg0/root
mount /dev/vg0/root /
tar-in $work/root.tar /
sync
debug sh "modprobe -a dm-snapshot; lvcreate -s -n before -L 6m /dev/vg0/root"
write /home/ann/budget.txt "the second budget, which is longer\n"
rm /home/ann/gone.txt
write /home/ann/new.txt "only now\n"
upload $work/log /home/ann/numbers
umount-all
debug sh "mkdir -p /tmp/at; mount -o ro,noload /dev/vg0/before /tmp/at; cd /tmp/at; echo before; sha256sum home/ann/*; cd /; umount /tmp/at"
debug sh "mount -o ro,noload /dev/vg0/root /tmp/at; cd /tmp/at; echo live; sha256sum home/ann/*; cd /; umount /tmp/at"
debug sh "echo time \$(TZ=UTC lvs --noheadings -o lv_time vg0/before)"
EOF
mkdir -p "$golden"
python3 - "$work/log" > "$golden/facts.json" <<'EOF'
import json, sys
facts = {"before": {}, "live": {}}
for line in open(sys.argv[1]):
    words = line.split()
    if words and words[0] in facts:
        found = facts[words[0]]
    elif len(words) == 2 and len(words[0]) == 64:
        found["/" + words[1]] = words[0]
    elif words[:1] == ["time"]:
        facts["time"] = " ".join(words[1:])
assert facts["before"] and facts["live"] and facts["time"], open(sys.argv[1]).read()
print(json.dumps(facts, indent=1, sort_keys=True))
EOF
xz -9e --stdout "$work/disk.img" > "$golden/disk.img.xz"
