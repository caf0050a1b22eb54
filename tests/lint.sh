#!/bin/sh
# Checks form and finds faults without running anything; every finding is an error.
# usage: tests/lint.sh [STEP...]     STEP: format, shell, protos, tidy; all by default
#   format  clang-format on every .cc and .h
#   shell   shellcheck on every shell script
#   protos  buf lint; skipped, with a line that says so, where no Go can build buf
#   tidy    clang-tidy (.clang-tidy) and clang's warnings, with thread-safety analysis, on services;
#           configures build/ and generates the protos' sources for it
# Ends with "lint: ok" or the names of the steps that failed, and 0 or 1.
set -eu

case "${1:-}" in -h | --help)
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 0
  ;;
esac
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"

# What is ours and would be committed, whose name ends with one of the arguments.
ours() {
  git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r file; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}

format() {
  ours '*.cc' '*.h' | xargs -r clang-format --dry-run -Werror --style=file
}

shell() {
  # Scripts without a suffix are known by their first line.
  ours | while read -r file; do
    case "${file##*/}" in
      *.sh) echo "$file" ;;
      *.*) ;;
      *) if head -n 1 "$file" | grep -aEq '^#!.*[/ ](ba)?sh'; then echo "$file"; fi ;;
    esac
  done | xargs -r shellcheck
}

protos() {
  code=0
  buf=$(tests/go-tool.sh github.com/bufbuild/buf/cmd/buf@v1.47.2) || code=$?
  if [ "$code" = 3 ]; then
    echo "SKIPPED: buf lint (see above)"
    return 0
  fi
  [ "$code" = 0 ] || return 1
  (cd protos && "$buf" lint)
}

tidy() {
  mkdir -p build
  cmake -S . -B build -G Ninja > build/configure.log 2>&1 || { cat build/configure.log; return 1; }
  generated=$(ninja -C build -t targets all | sed -n 's/^\(protos\/.*\.pb\.h\): .*/\1/p')
  # shellcheck disable=SC2086  # a list of words
  ninja -C build $generated > build/generate.log || { cat build/generate.log; return 1; }
  # One parse for both: clang's warnings are findings of clang-tidy too.
  ours 'services/*.cc' | xargs -r python3 tests/tidy.py build "$(nproc)"
}

if [ $# = 0 ]; then
  deploy/install-packages.sh build lint
  set -- format shell protos tidy
fi
failed=
for step in "$@"; do
  case "$step" in
    format | shell | protos | tidy) ;;
    *) echo "tests/lint.sh: no step '$step'" >&2; exit 2 ;;
  esac
  echo "== $step"
  start=$(date +%s)
  "$step" || failed="$failed $step"
  echo "== $step took $(($(date +%s) - start)) s"
done
if [ -n "$failed" ]; then
  echo "lint: failed:$failed"
  exit 1
fi
echo "lint: ok"
