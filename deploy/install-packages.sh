#!/usr/bin/env bash
# Installs what is missing of the Debian packages in packages.txt.
# Usage: install-packages.sh WHEN...   (build, run, test, lint, bench; see packages.txt)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
  sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"
  exit 2
fi

wanted=()
for when in "$@"; do
  mapfile -t -O "${#wanted[@]}" wanted < <(awk -v when="$when" '$1 == when { print $2 }' \
    "$here/packages.txt")
done
if [[ ${#wanted[@]} -eq 0 ]]; then
  echo "install-packages.sh: packages.txt has nothing for: $*" >&2
  exit 2
fi

installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${wanted[@]}" 2>/dev/null |
  awk '$1 == "ii" { print $2 }') || true
missing=()
for package in "${wanted[@]}"; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -ne 0 ]]; then
  echo "install-packages.sh: these Debian packages are missing; install them as root:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing: ${missing[*]}"
# Stale lists are refreshed only where they do not serve.
apt-get install -y -q --no-install-recommends "${missing[@]}" ||
  { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; }
