#!/usr/bin/env bash
# LUKS volumes that cryptsetup only makes with the kernel's help (ciphers other than AES, no cipher at all, integrity tags), and
# one with AES as the kernel itself encrypts it, on the partitions of one disk. Beside it: the SHA-256 of every volume as
# dm-crypt reads it. The tests make all others while they run. The passphrase of all is "correct horse".
# Needs: libguestfs-tools, gdisk, xz-utils, python3. Takes two minutes under software emulation. Result: tests/golden/luks.
set -euo pipefail
golden=$(realpath "$(dirname "$0")/../../tests/golden")/luks
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

truncate -s 16M disk.img
truncate -s 1M results.img
sgdisk --clear -a 8 -U 4C554B53-0000-4000-8000-000000000000 \
    -n 1:0:+320K -n 2:0:+584K -n 3:0:+320K -n 4:0:+320K -n 5:0:+320K -n 6:0:+11M disk.img > sgdisk.log
# Each block of 512 bytes begins with its number, so that one in the wrong place shows.
python3 -c 'import sys; [sys.stdout.buffer.write((b"%08x" % n).ljust(512, b".")) for n in range(2048)]' > pattern.img

mkdir in
printf 'correct horse' > in/passphrase
cat > in/run.sh <<'VM'
set -x
for module in dm-crypt dm-integrity twofish serpent camellia xts cbc essiv hmac sha256_generic authenc; do modprobe $module; done
mkdir -p /run/cryptsetup
fast="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
small="--luks2-metadata-size 16k --luks2-keyslots-size 128k --offset 512"
make() {  # make NAME PARTITION ARGUMENTS...
    name=$1 partition=$2
    shift 2
    cryptsetup luksFormat -q --uuid 4c554b53-0000-4000-8000-00000000000${partition#/dev/sda} "$@" $partition /tmp/in/passphrase &&
        cryptsetup open --key-file /tmp/in/passphrase $partition $name || { echo FAILED $name; return; }
    dd if=/dev/sdb of=/dev/mapper/$name bs=4k count=$(($(blockdev --getsize64 /dev/mapper/$name) / 4096)) conv=fsync
    cryptsetup close $name
    cryptsetup open --key-file /tmp/in/passphrase $partition $name
    echo "$name $partition $(blockdev --getsize64 /dev/mapper/$name) $(sha256sum < /dev/mapper/$name | cut -d' ' -f1)" >> /tmp/out/sums
    dmsetup table $name >> /tmp/out/tables
    cryptsetup luksDump $partition > /tmp/out/dump-$name
    cryptsetup close $name
}
make twofish /dev/sda1 --type luks2 $small -c twofish-xts-plain64 -s 256 --sector-size 4096 --pbkdf argon2id \
    --pbkdf-force-iterations 4 --pbkdf-memory 32 --pbkdf-parallel 1
make camellia /dev/sda2 --type luks1 --offset 1040 -c camellia-cbc-plain64 -s 128 --pbkdf-force-iterations 1000 --hash sha512
dd if=/dev/zero of=/dev/sda2 bs=512 seek=136 count=900 conv=fsync  # slots that are not in use, filled with random bytes
make serpent /dev/sda3 --type luks2 $small $fast -c serpent-cbc-essiv:sha256 -s 256 --sector-size 1024
make aes /dev/sda4 --type luks2 $small $fast -c aes-xts-plain64 -s 256 --sector-size 4096
make null /dev/sda5 --type luks2 $small $fast -c cipher_null-ecb -s 128
cryptsetup luksFormat -q --type luks2 $fast --luks2-metadata-size 16k --luks2-keyslots-size 400k --offset 1024 -c aes-xts-plain64 \
    --integrity hmac-sha256 --integrity-no-wipe --uuid 4c554b53-0000-4000-8000-000000000006 /dev/sda6 /tmp/in/passphrase || { dmesg | tail -5; echo FAILED integrity; }
dd if=/dev/zero of=/dev/sda6 bs=4k seek=8 conv=fsync  # what nothing opens needs no key slots
sync
VM
tar cf in.tar in
truncate -s 1M in.tar
export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
nice -n 5 guestfish --format=raw \
    -a disk.img -a pattern.img -a results.img -a in.tar <<'FISH' > log 2>&1 || true
run
debug sh "mkdir -p /tmp/out; tar xf /dev/sdd -C /tmp; sh /tmp/in/run.sh > /tmp/out/log 2>&1; tar cf /dev/sdc -C /tmp/out .; sync; true"
FISH
mkdir out
tar xf results.img -C out
[ -s out/sums ] || { tail -50 log; exit 1; }
grep -B5 FAILED out/log && exit 1
rm out/log
mkdir -p "$golden"
xz -9e -k -c disk.img > "$golden/disk.img.xz"
cp out/* "$golden/"
cat "$golden/sums"
