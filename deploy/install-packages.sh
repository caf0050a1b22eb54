#!/bin/sh
# Installs the Debian packages of deploy/packages.txt that are missing.
# usage: deploy/install-packages.sh WHEN...     WHEN: build, test, bench, lint, run
# Asks nothing, so it works without a terminal. Does nothing, and needs no root, where all is there.
set -eu

fail() {
  echo "install-packages: $*" >&2
  exit 1
}

case "${1:-}" in
  '' | -h | --help)
    sed -n '2,4s/^# //p' "$0"
    [ $# -gt 0 ] && exit 0 || exit 2
    ;;
esac

list=$(dirname "$0")/packages.txt
missing=
for when in "$@"; do
  packages=$(awk -v when="$when" '$1 == when { print $2 ":" $3 }' "$list")
  [ -n "$packages" ] || fail "no packages are listed for '$when' in $list"
  for entry in $packages; do
    package=${entry%%:*}
    program=${entry#*:}
    if [ -n "$program" ] && command -v "$program" > /dev/null; then continue; fi
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null || true)
    [ "$state" = installed ] && continue
    case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
  done
done
[ -n "$missing" ] || exit 0
missing=${missing# }

sudo=
if [ "$(id -u)" != 0 ]; then
  command -v sudo > /dev/null || fail "missing: $missing; run as root: apt-get install $missing"
  sudo=sudo
fi

apt() {
  # shellcheck disable=SC2086  # $sudo is empty or one word
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" < /dev/null
}

echo "installing $missing"
# The package lists may be absent or too old: an attempt without them, then one with new ones.
# shellcheck disable=SC2086  # a list of words
if ! apt install --no-install-recommends $missing > /dev/null 2>&1; then
  apt update || fail "apt-get update failed"
  apt install --no-install-recommends $missing || fail "could not install: $missing"
fi
