#!/bin/sh
# Prints the path of a program that the Go module proxy has, built into build/tools where absent.
# usage: tests/go-tool.sh PACKAGE@VERSION     such as github.com/bufbuild/buf/cmd/buf@v1.47.2
# Exit code 3: there is no Go here that can build it; the reason is on stderr.
set -eu

# What a program needs may be younger than the distribution's Go; this one then comes from the module
# proxy too, checked against the checksum database as any module.
GO_WANTED=1.23
GO_TOOLCHAIN=go1.23.4

[ $# = 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
package=${1%@*}
version=${1##*@}
name=$(basename "$package")
top=$(cd "$(dirname "$0")/.." && pwd)
tools=$top/build/tools
target=$tools/$name-$version
if [ -x "$target" ]; then
  echo "$target"
  exit 0
fi

cannot() {
  echo "go-tool: $name cannot be built: $*" >&2
  exit 3
}

command -v go > /dev/null || cannot "no Go here"
mkdir -p "$tools"
log=$tools/$name.log
: > "$log"
go=go

# True where $1 is a version below $2.
older() {
  [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

have=$(go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if older "$have" "$GO_WANTED"; then
  toolchain=$tools/$GO_TOOLCHAIN
  if [ ! -x "$toolchain/bin/go" ]; then
    module=golang.org/toolchain@v0.0.1-$GO_TOOLCHAIN.linux-$(go env GOARCH)
    (cd / && go mod download "$module") >> "$log" 2>&1 ||
      cannot "Go $have is older than $GO_WANTED and $GO_TOOLCHAIN cannot be had; see $log"
    rm -rf "$toolchain.new"
    cp -r "$(go env GOMODCACHE)/$module" "$toolchain.new"
    # Modules hold no executable bits, and their cache no write bits.
    chmod -R u+w "$toolchain.new"
    chmod +x "$toolchain.new"/bin/* "$toolchain.new"/pkg/tool/*/*
    mv "$toolchain.new" "$toolchain"
  fi
  go=$toolchain/bin/go
  GOROOT=$toolchain
  export GOROOT
fi

(cd / && GOTOOLCHAIN=local GOFLAGS='' GOBIN=$tools/gobin "$go" install "$package@$version") \
  >> "$log" 2>&1 || cannot "$(tail -n 1 "$log"); see $log"
mv "$tools/gobin/$name" "$target"
echo "$target"
