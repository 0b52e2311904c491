#!/usr/bin/env bash
# Scans stores of 4 KiB and 64 KiB values that were loaded in random order, with memory capped to a
# quarter of the values, before and after a collection; beside reading a file of that length.
# Targets: benches/src/targets.rs, group scan-capped. Exit code 1: a row is short. 3: nothing was
# measured, since no memory cgroup can be made here (root, or a delegated cgroup, is needed).
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release -p kvdb-benches --bin scan_capped
program=${CARGO_TARGET_DIR:-target}/release/scan_capped
dir=$(mktemp -d "${KVDB_BENCH_DIR:-${TMPDIR:-/tmp}}/kvdb-capped.XXXXXX")
group=
leave() {
    rm -rf "$dir"
    [[ -z $group ]] || rmdir "$group" 2>/dev/null || true
}
trap leave EXIT

limit=$(($("$program" bytes) / 4))
# A group below our own: version 2, or the memory controller of version 1.
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
own_v1=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
try() { # PARENT FILE
    [[ -d $1 && -w $1 ]] || return 1
    mkdir "$1/kvdb-capped.$$" 2>/dev/null || return 1
    group=$1/kvdb-capped.$$
    # (Where the directory is in no cgroup file system these files are not there.)
    [[ -e $group/$2 && -e $group/cgroup.procs ]] && echo "$limit" 2>/dev/null >"$group/$2" && return
    rmdir "$group"
    group=
    return 1
}
try "/sys/fs/cgroup$own" memory.max || try "/sys/fs/cgroup/memory$own_v1" memory.limit_in_bytes || {
    echo "scan-capped: SKIPPED, no memory cgroup can be made here" >&2
    exit 3
}

"$program" load "$dir"
# What is cached was charged to others: it would not count against the limit.
sync
for file in "$dir"/plain "$dir"/*/*; do
    dd if="$file" iflag=nocache count=0 status=none
done
(
    # The shell moves itself into the group, and becomes the program.
    echo "$BASHPID" >"$group/cgroup.procs"
    grep -q "kvdb-capped.$$" /proc/self/cgroup || exit 3
    exec "$program" scan "$dir"
)
