#!/usr/bin/env bash
# The checks of kvdb-skiplist that a plain `cargo test` cannot do. From anywhere:
#
#   skiplist/scripts/check.sh [loom] [asan] [tsan] [miri]        (default: all four)
#
# A lane whose tools are missing says SKIPPED and is not counted as passed. Exit code: 0 if every
# lane passed, 1 if one failed, 2 if there is no such lane, 3 if none failed but one was skipped.
set -u
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
host="$(rustc -vV | sed -n 's/^host: //p')"
passed=() failed=() skipped=()

run() { # lane, command…
    local lane="$1"
    shift
    echo "== $lane"
    if "$@"; then passed+=("$lane"); else failed+=("$lane"); fi
}

skip() { # lane, reason
    echo "== $1"
    echo "!! SKIPPED $1: $2" >&2
    skipped+=("$1")
}

loom() {
    run loom env RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-5}" \
        cargo test -p kvdb-skiplist --release --test loom_models --target-dir "$target/loom"
}

asan() {
    case "$host" in
    x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu | *-apple-darwin) ;;
    *) skip asan "no AddressSanitizer for $host"; return ;;
    esac
    # On the heap the arena has red zones at both ends.
    run asan env RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address --cfg kvdb_heap_arena" \
        cargo test -p kvdb-skiplist --tests --target "$host" --target-dir "$target/asan"
}

tsan() {
    # Without an instrumented std every report is suspect, and so is silence.
    if [ ! -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]; then
        skip tsan "needs the rust-src component for -Zbuild-std"
        return
    fi
    run tsan env RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread \
        cargo test -Zbuild-std -p kvdb-skiplist --tests --target "$host" --target-dir "$target/tsan"
}

miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        skip miri "needs a nightly toolchain with the miri component"
        return
    fi
    run miri env MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-many-seeds=0..${MIRI_SEEDS:-16} -Zmiri-disable-isolation" \
        cargo +nightly miri test -p kvdb-skiplist --tests --target-dir "$target/miri"
}

for lane in "${@:-loom asan tsan miri}"; do
    for one in $lane; do
        case "$one" in
        loom | asan | tsan | miri) "$one" ;;
        *) echo "no such lane: $one" >&2; exit 2 ;;
        esac
    done
done
echo "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; skipped: ${skipped[*]:-none}"
[ ${#failed[@]} -eq 0 ] || exit 1
[ ${#skipped[@]} -eq 0 ] || exit 3
