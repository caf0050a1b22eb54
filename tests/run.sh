#!/bin/sh
# Installs what is missing, builds (RelWithDebInfo) and runs the tests.
# usage: tests/run.sh [--label L] [--sanitize address|thread] [--no-build]
#   --label L      only tests with this label: unit, contract, service, simulation, mount, tour
#   --sanitize S   in a build of its own, with ASan and UBSan (address) or TSan (thread); only the
#                  labels unit, contract and simulation: the others hang on libraries and processes
#                  that are not built with sanitizers
#   --no-build     run what is built already
# The last line is "N passed, N failed"; the exit code is 0 where none failed and one passed.
set -eu

usage() {
  sed -n '3,9s/^# //p' "$0"
  exit "$1"
}

label=
sanitize=
build=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --label)
      [ $# -gt 1 ] || usage 2 >&2
      label=$2
      shift
      ;;
    --sanitize)
      [ $# -gt 1 ] || usage 2 >&2
      sanitize=$2
      shift
      ;;
    --no-build) build=no ;;
    -h | --help) usage 0 ;;
    *) usage 2 >&2 ;;
  esac
  shift
done
case "$sanitize" in '' | address | thread) ;; *) usage 2 >&2 ;; esac

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
jobs=$(nproc)
dir=build
labels=$label
if [ -n "$sanitize" ]; then
  dir=build/$sanitize
  case "$label" in
    '') labels='unit|contract|simulation' ;;
    unit | contract | simulation) ;;
    *)
      echo "tests/run.sh: tests with label '$label' do not run under sanitizers" >&2
      exit 2
      ;;
  esac
fi

# The names of the tests chosen, one a line.
chosen_tests() {
  ctest --test-dir "$dir" ${labels:+-L "^($labels)\$"} --show-only=json-v1 |
    python3 -c 'import json, sys
for test in json.load(sys.stdin)["tests"]: print(test["name"])'
}

if [ "$build" = yes ]; then
  deploy/install-packages.sh build test run
  mkdir -p "$dir"
  cmake -S . -B "$dir" -G Ninja -DINTERMEZZO_SANITIZE="$sanitize" > "$dir/configure.log" 2>&1 || {
    cat "$dir/configure.log"
    exit 1
  }
  targets=
  if [ -n "$labels" ]; then
    # A test's program has the test's name up to a dot; a test that is a script needs the whole build.
    known=$(ninja -C "$dir" -t targets all | sed -n 's/^\([A-Za-z0-9_]*\): phony$/\1/p')
    for name in $(chosen_tests | sed 's/[.].*//' | sort -u); do
      if ! printf '%s\n' "$known" | grep -qx "$name"; then
        targets=
        break
      fi
      targets="$targets $name"
    done
  fi
  # shellcheck disable=SC2086  # a list of words
  cmake --build "$dir" --parallel "$jobs" ${targets:+--target $targets}
fi

export ASAN_OPTIONS="detect_stack_use_after_return=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export TSAN_OPTIONS="suppressions=$top/deploy/sanitizers/tsan.supp:${TSAN_OPTIONS:-}"
progress=
if [ -t 1 ]; then progress=--progress; fi
# TSan maps fixed addresses, which address randomization may have taken.
fixed=
if [ "$sanitize" = thread ]; then fixed='setarch --addr-no-randomize'; fi

junit=$top/$dir/junit.xml
rm -f "$junit"
code=0
# shellcheck disable=SC2086  # words
$fixed ctest --test-dir "$dir" ${labels:+-L "^($labels)\$"} $progress --parallel "$jobs" \
  --output-on-failure --no-tests=error --output-junit "$junit" || code=$?

python3 - "$junit" "$code" << 'EOF'
import sys
import xml.etree.ElementTree as xml

try:
    cases = xml.parse(sys.argv[1]).getroot().findall("testcase")
except (OSError, xml.ParseError) as error:
    print(f"ctest left no results: {error}")
    cases = []
passed, failed, skipped = [], [], []
for case in cases:
    skip = case.find("skipped")
    if case.get("status") == "run":
        passed.append(case)
    elif case.get("status") == "disabled" or (
        skip is not None and skip.get("message", "").startswith("SKIP_")
    ):
        skipped.append(case)
    else:
        failed.append(case)
for case in skipped:
    print(f"skipped: {case.get('name')}")
for case in failed:
    print(f"failed: {case.get('name')}")
print(f"{len(passed)} passed, {len(failed)} failed")
sys.exit(0 if passed and not failed and sys.argv[2] == "0" else 1)
EOF
