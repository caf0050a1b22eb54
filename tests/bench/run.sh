#!/usr/bin/env bash
# Benchmarks: each figure beside its floor and beside what people use today, in one run.
#
# Usage: tests/bench/run.sh [B1 B2 B3 B4 B5] [--quick] [--json FILE] [--no-build]
#
#   B1  write-to-visible latency on an idle cluster
#   B2  extraction of a tree shaped like WordPress, and until every replica has it
#   B3  one changed file in trees of 1,000, 10,000 and 100,000 files
#   B4  4 KiB changed in a file of 1 GiB
#   B5  nginx serving a replica's mount
#
# As root. All that is measured, ours and the others, runs at nice -10, so that other work on the
# machine blurs it less, and in a network namespace of its own: nothing else is on its
# loopback.
# INTERMEZZO_BUILD names the build directory (default build/), INTERMEZZO_BENCH_HOME where data
# goes (default bench-home/ in it; some GB).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${INTERMEZZO_BUILD:-$top/build}

arguments=()
build_wanted=1
for argument in "$@"; do
  case $argument in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --no-build) build_wanted='' ;;
    *) arguments+=("$argument") ;;
  esac
done
[[ $(id -u) -eq 0 ]] || {
  echo "tests/bench/run.sh: run it as root: it mounts file systems" >&2
  exit 1
}

if [[ -n $build_wanted ]]; then
  "$top/deploy/install-packages.sh" build run bench
  "$top/deploy/install-packages.sh" test
  [[ -e $build/build.ninja ]] || cmake -S "$top" -B "$build" -G Ninja >/dev/null
  ninja -C "$build" token-service journal-service forwarder-service sidecar mezzo floor \
    visible_probe passthrough
fi

exec nice -n -10 unshare --net -- python3 "$here/run.py" --build "$build" \
  --home "${INTERMEZZO_BENCH_HOME:-$build/bench-home}" "${arguments[@]}"
