#!/usr/bin/env bash
# How fast experts come from a disk: `rotary bench` of a model in less memory than its file takes, one binary after the other, each from a cold start.
# Needs root, for a memory cgroup and to drop the page cache.
#
#   tests/compare/disk.sh MODEL LIMIT_MIB RAM BINARY…      e.g. big.gguf 3400 2.5GiB old/rotary target/release/rotary
#
# LIMIT_MIB bounds the program and the page cache of its file together; RAM is the budget that it is told. Read-ahead of the disk: READ_AHEAD_KIB in the
# environment (128 is usual on desktops), else as it is.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1 limit=$2 ram=$3
shift 3
disk=$(lsblk -no PKNAME,NAME "$(df --output=source "$model" | tail -1)" | awk 'NR==1{print $1}')
if [ -n "${READ_AHEAD_KIB:-}" ]; then echo "$READ_AHEAD_KIB" >"/sys/block/$disk/queue/read_ahead_kb"; fi
echo "read-ahead of $disk: $(cat "/sys/block/$disk/queue/read_ahead_kb") KiB, memory $limit MiB"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then root=/sys/fs/cgroup file=memory.max; else root=/sys/fs/cgroup/memory file=memory.limit_in_bytes; fi
group=$root/rotary-disk-$$
mkdir "$group"
trap 'rmdir "$group" 2>/dev/null || true' EXIT
echo $((limit << 20)) >"$group/$file"
sectors() { awk -v d="$disk" '$3==d{print $6}' /proc/diskstats; }
for binary in "$@"; do
  sync
  echo 3 >/proc/sys/vm/drop_caches
  before=$(sectors)
  echo "== $binary"
  (echo "$BASHPID" >"$group/cgroup.procs" && exec "$binary" bench "$model" --device cpu --ram "$ram" --ctx 1024 --prompt 64 --gen 96 --repeat 1 --topics 12 --cold) |
    grep -E '^(prompt|generation|hit rate|misses|a token)'
  echo "read from the disk: $((($(sectors) - before) / 2048)) MiB"
done
