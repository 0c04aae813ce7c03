#!/usr/bin/env bash
# XFS whose log is full of changes, as a snapshot of a running guest has it: tests/golden/xfs-log/NAME.img.xz, and NAME.json.xz:
# what the kernel reads after it replayed the log of a copy. Version 5 is made by this host's kernel (needs root), version 4, which new
# kernels do not write, in libguestfs' small VM. Needs xfsprogs, libguestfs-tools, linux-image-amd64. Takes some three minutes.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
golden=$(realpath "$here/../../tests/golden")/xfs-log
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir -p "$golden" "$work/top"

# A line for each path: what stat(1) says, then the SHA-256 or the target. $1: the mounted folder.
cat > "$work/facts.sh" <<'EOF2'
cd "$1"; find . -mindepth 1 | while IFS= read -r path; do
  printf '%s\t' "$path"; stat --printf '%F\t%s\t%a\t%u\t%g\t%h\t%i\t%.9Y\t' "$path"
  if [ -L "$path" ]; then readlink "$path"; elif [ -f "$path" ]; then sha256sum < "$path"; else echo; fi
done
EOF2
# Changes by shell only: there is no more in the small VM. $1: the mounted folder.
cat > "$work/work.sh" <<'EOF2'
cd "$1"; mkdir -p etc var/log home/ann; echo 'ID=centos' > etc/os-release
for i in $(seq 200); do echo "line $i" > var/log/file$i; done
sync -f .
for i in $(seq 1 3 200); do rm var/log/file$i; done
for i in $(seq 2 3 200); do mv var/log/file$i home/ann/moved-$i-to-a-longer-name; done
ln -s "$(printf '%0.stwenty-characters-x/' $(seq 30))end" home/ann/far; ln -s short home/ann/near
for i in $(seq 400); do ln etc/os-release home/ann/link$i; done
for i in $(seq 20 390); do rm home/ann/link$i; done
mkdir home/ann/gone; for i in $(seq 150); do touch home/ann/gone/file-with-a-name$i; done; rm -r home/ann/gone
for i in $(seq 0 60); do dd if=/dev/zero of=pieces bs=4096 seek=$((2*i)) count=1 conv=notrunc status=none; done
seq 20000 > numbers; sync -f .; truncate -s 5000 numbers; truncate -s 100000 home/ann/sparse
chown 1000:1000 home/ann; chmod 700 home/ann; touch -h -d '1999-12-31 23:59:59.123456789' home/ann/near home/ann
mknod null c 1 3; mkfifo pipe
EOF2

keep() { # name, image, lines of facts
  python3 - "$3" <<'EOF2' | xz -9e > "$golden/$1.json.xz"
import json, sys
names = ["kind", "size", "mode", "uid", "gid", "links", "inode", "mtime", "content"]
lines = [line.rstrip("\n").split("\t") for line in open(sys.argv[1]) if line.startswith("./")]
assert len(lines) > 20
print(json.dumps({path[2:]: dict(zip(names, rest)) for path, *rest in lines}, indent=0, sort_keys=True))
EOF2
  xz -9e --stdout "$2" > "$golden/$1.img.xz"
}

in_vm() { LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg guestfish --format=raw -a "$1"; }

version4() {
  truncate -s 20M "$work/v4.img"; mkfs.xfs --unsupported -q -f -m crc=0 "$work/v4.img"
  in_vm "$work/v4.img" <<EOF2 || true
run
mount /dev/sda /
upload $work/work.sh /work.sh
debug sh "cp /sysroot/work.sh /tmp; rm /sysroot/work.sh; sh /tmp/work.sh /sysroot"
setxattr user.short value 5 /etc/os-release
setxattr user.long $(printf '%0.sx' $(seq 2000)) 2000 /numbers
debug sh "sync -f /sysroot; echo b > /proc/sysrq-trigger"
EOF2
  cp "$work/v4.img" "$work/replayed.img"
  in_vm "$work/replayed.img" > "$work/facts" <<EOF2
run
mount /dev/sda /
upload $work/facts.sh /facts.sh
debug sh "cp /sysroot/facts.sh /tmp; rm /sysroot/facts.sh; sh /tmp/facts.sh /sysroot"
EOF2
  keep v4 "$work/v4.img" "$work/facts"
}

version5() { # name, seed, steps, options of mkfs.xfs
  truncate -s 80M "$work/$1.img"; mkfs.xfs --unsupported -q -f "${@:4}" "$work/$1.img"
  mount -o loop "$work/$1.img" "$work/top"
  python3 "$here/../../tests/contract/xfs_crashes.py" "$work/top" "$2" "$3"
  xfs_io -x -c 'shutdown -f' "$work/top"; umount "$work/top"
  cp "$work/$1.img" "$work/replayed.img"
  mount -o loop "$work/replayed.img" "$work/top"
  sh "$work/facts.sh" "$work/top" > "$work/facts"; umount "$work/top"
  keep "$1" "$work/$1.img" "$work/facts"
}

# A log that ends while copied blocks are being put into their file, which happens now and then only. Needs mntapi, to tell so.
moves() { # name, how many changes of the file's map the log is to lack
  for try in $(seq 300); do
    rm -f "$work/$1.img"; truncate -s 40M "$work/$1.img"; mkfs.xfs --unsupported -q -f -b size=1024 "$work/$1.img"
    mount -o loop "$work/$1.img" "$work/top"
    seq 500000 > "$work/top/old"; truncate -s 3M "$work/top/old"; sync -f "$work/top"
    cp --reflink=always "$work/top/old" "$work/top/new"; touch "$work/top/name"{1..20}
    python3 -c 'import sys
with open(sys.argv[1], "r+b") as file:
    for at in range(0, 3 << 20, 2048):
        file.seek(at)
        file.write(b"%1024d" % at)' "$work/top/new"
    sync -f "$work/top" 2> /dev/null & sleep 0.0$((2 + try % 8))
    xfs_io -x -c 'shutdown -f' "$work/top"; wait $! || true; umount "$work/top"
    left=$(python3 -c 'import sys
from mntapi.blocks import HostFile
from mntapi.filesystems.xfs.recovery import replay
from mntapi.filesystems.xfs.superblock import find_superblock
volume = HostFile.open(sys.argv[1])
print(sum(map(len, replay(volume, find_superblock(volume)).moves.values())))' "$work/$1.img")
    [ "$left" != "$2" ] || break
  done
  cp "$work/$1.img" "$work/replayed.img"
  mount -o loop "$work/replayed.img" "$work/top"
  sh "$work/facts.sh" "$work/top" > "$work/facts"; umount "$work/top"
  keep "$1" "$work/$1.img" "$work/facts"
}

for name in "${@:-all}"; do
  case $name in
    v4) version4 ;;
    v5) version5 v5 1 110 -m rmapbt=1 ;;
    sectors) version5 sectors 2 60 -s size=4096 -n size=16384 -i nrext64=1 ;;
    stripes) version5 stripes 5 60 -b size=1024 -l su=32k -m bigtime=0,reflink=0 ;;
    moved) moves moved 1 ;;
    unmoved) moves unmoved 2 ;;
    all) "$0" v4 v5 sectors stripes moved unmoved ;;
  esac
done
