#!/usr/bin/env bash
# InterMezzo on this machine, for a trial: three nodes that keep one folder the same.
#
# Usage: deploy/quickstart.sh [OPTION] [DIR]
#
#   DIR          the tree to replicate, copied and never changed (default /usr/share/doc)
#   (no option)  install what is missing, build, start, make the collection www of DIR, prove that
#                the replicas are the same, leave it running; a second run takes what is there
#   --check      the same in a state directory of its own, then the tour (tests/tour/tour.sh), then
#                stop it all; exit 0 where everything passed, else 1
#   --down       stop everything and unmount; data stays, the next run takes it up again
#   --reset      stop everything, erase the state directory, start anew
#   --no-build   use the programs that are in the build directory
#
# Environment: INTERMEZZO_HOME   state directory (default /var/lib/intermezzo-quickstart)
#              INTERMEZZO_BUILD  build directory (default build/ of this tree)
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deploy/cluster.sh
source "$top/deploy/cluster.sh"

home=${INTERMEZZO_HOME:-/var/lib/intermezzo-quickstart}
build=${INTERMEZZO_BUILD:-$top/build}
nodes=(node-1 node-2 node-3)

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

mode=up
dir=''
build_wanted=1
for argument in "$@"; do
  case $argument in
    -h | --help)
      usage
      exit 0
      ;;
    --check | --down | --reset) mode=${argument#--} ;;
    --no-build) build_wanted='' ;;
    -*)
      echo "quickstart.sh: unknown option '$argument'; --help lists them" >&2
      exit 2
      ;;
    *)
      [[ -z $dir ]] || {
        echo "quickstart.sh: one DIR, not '$dir' and '$argument'" >&2
        exit 2
      }
      dir=$argument
      ;;
  esac
done

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }

need_root() {
  [[ $(id -u) -eq 0 ]] || die "run it as root: it mounts file systems and keeps all file owners"
  [[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || true
  [[ -e /dev/fuse ]] || die "/dev/fuse is missing: the kernel has no FUSE, or the container no access"
}

# One quickstart at a time in a state directory.
lock_home() {
  mkdir -p "$home"
  exec 9>"$home/.lock"
  flock -n 9 || die "another quickstart.sh works in $home; wait for it to end"
}

# --- build ----------------------------------------------------------------------------------------

# Draws ninja's "[done/total]" as a bar; other lines are what went wrong, shown at the end.
watch_ninja() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      draw_bar build "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    fi
    printf '%s\n' "$line" >>"$build/quickstart-build.log"
  done
  end_bar
}

build_all() {
  local begin=$EPOCHREALTIME targets=("${CLUSTER_SERVICES[@]}" sidecar mezzo)
  [[ $mode != check ]] || targets+=(cut_proxy storm tree_listing)
  step "packages and build"
  "$top/deploy/install-packages.sh" build run
  [[ $mode != check ]] || "$top/deploy/install-packages.sh" test
  mkdir -p "$build"
  : >"$build/quickstart-build.log"
  if [[ ! -e $build/build.ninja ]]; then
    # The default build type is the release one.
    cmake -S "$top" -B "$build" -G Ninja >>"$build/quickstart-build.log" 2>&1 ||
      die "cmake failed: $build/quickstart-build.log"
  fi
  if ! NINJA_STATUS='[%f/%t] ' ninja -C "$build" "${targets[@]}" 2>&1 | watch_ninja; then
    grep -v '^\[' "$build/quickstart-build.log" | tail -n 30 >&2
    die "the build failed: $build/quickstart-build.log"
  fi
  say "   built into $build/bin ($(seconds_since "$begin"))"
}

# --- collection -----------------------------------------------------------------------------------

# Copies DIR beside node-1's lower directory and puts it in place whole, or not at all.
copy_source() {
  local lower=$CLUSTER_HOME/nodes/node-1/www begin=$EPOCHREALTIME
  [[ ! -e $lower ]] || return 0
  rm -rf "$lower.partial"
  mkdir -p "${lower%/*}"
  local total
  total=$(find "$dir" -xdev | wc -l)
  say "   copying $total names of $dir to node-1's local disk"
  cp -avx "$dir/." "$lower.partial" | count_lines copy "$total"
  mv "$lower.partial" "$lower"
  say "   copied ($(seconds_since "$begin"))"
}

has_replica() { run_mezzo replica list www 2>/dev/null | awk -v n="$1" '$2 == n { f = 1 } END { exit !f }'; }

add_replica() {
  local node=$1 begin=$EPOCHREALTIME
  run_mezzo replica add www "$node" --lower "$CLUSTER_HOME/nodes/$node/www" \
    --mount "$CLUSTER_HOME/mnt/$node/www" --wait --timeout 30m >/dev/null
  say "   $node has its replica ($2, $(seconds_since "$begin"))"
}

make_collection() {
  if run_mezzo collection show www >/dev/null 2>&1; then
    step "collection www is there"
  else
    step "collection www from $dir"
    copy_source
    run_mezzo collection create www >/dev/null
  fi
  has_replica node-1 || copy_source
  mkdir -p "$CLUSTER_HOME"/nodes/{node-2,node-3}/www
  add_replica node-1 import
  add_replica node-2 "initial copy"
  add_replica node-3 "initial copy"
}

compare_all() {
  step "the replicas are the same?"
  run_mezzo wait www --settled --timeout 10m | sed 's/^/   /'
  run_mezzo verify www --timeout 10m | sed 's/^/   /'
}

# --- proof ----------------------------------------------------------------------------------------

# "median max" of microseconds on standard input, as milliseconds.
summary() {
  sort -n | awk '{ v[NR] = $1 } END { printf "median %.2f ms, most %.2f ms", v[int((NR + 1) / 2)] / 1000, v[NR] / 1000 }'
}

# prove_from WRITER: twenty small files written there, each looked for at the other mounts.
prove_from() {
  local writer=$1 node i times=() begin text line
  local -A seen
  for ((i = 1; i <= 20; i++)); do
    text="proof $i of $writer $EPOCHREALTIME"
    seen=()
    begin=${EPOCHREALTIME/[.,]/}
    printf '%s\n' "$text" >"$CLUSTER_HOME/mnt/$writer/www/quickstart-proof-$i"
    local written=${EPOCHREALTIME/[.,]/}
    while ((${#seen[@]} < ${#nodes[@]} - 1)); do
      for node in "${nodes[@]}"; do
        [[ $node != "$writer" && -z ${seen[$node]-} ]] || continue
        line=''
        { IFS= read -r line <"$CLUSTER_HOME/mnt/$node/www/quickstart-proof-$i"; } 2>/dev/null || true
        [[ $line != "$text" ]] || seen[$node]=$((${EPOCHREALTIME/[.,]/} - begin))
      done
      ((${EPOCHREALTIME/[.,]/} - begin < 30000000)) ||
        die "a file written on $writer did not appear on every other node within 30 s"
    done
    ((i > 1)) || say "   $writer: first write, with the token's way to it: $(awk -v t=$((written - begin)) 'BEGIN { printf "%.1f ms", t / 1000 }')"
    ((i == 1)) || times+=("${seen[@]}")
  done
  say "   $writer: a new file is read on the other nodes after $(printf '%s\n' "${times[@]}" | summary)"
  rm -f "$CLUSTER_HOME/mnt/$writer/www"/quickstart-proof-*
}

prove() {
  step "writes on one node, reads on the others"
  prove_from node-1
  prove_from node-2
  run_mezzo wait www --settled >/dev/null
}

# --- what there is --------------------------------------------------------------------------------

summarize() {
  local node name
  step "it runs"
  say "mounts (write in one, read in the others):"
  for node in "${nodes[@]}"; do say "   $CLUSTER_HOME/mnt/$node/www"; done
  printf '%-20s %-24s %s\n' process gRPC metrics
  for name in "${CLUSTER_SERVICES[@]}" "${nodes[@]/#/sidecar-}"; do
    printf '%-20s %-24s http://%s/metrics\n' "$name" "$(address_of "$name" grpc)" \
      "$(address_of "$name" metrics)"
  done
  say "logs: $CLUSTER_HOME/log/"
  say "command line:"
  say "   export MEZZO_CONFIG=$CLUSTER_HOME/mezzo.yaml PATH=$CLUSTER_BIN:\$PATH"
  say "   mezzo status"
  say "stop: $0 --down"
}

start_all() {
  local node begin=$EPOCHREALTIME
  step "token-, journal- and forwarder-service, ${#nodes[@]} nodes"
  cluster_make_directories
  start_services
  for node in "${nodes[@]}"; do start_node "$node"; done
  say "   running ($(seconds_since "$begin"))"
}

# The tree that www was made of is kept in mind: another DIR needs another state directory.
remember_source() {
  local file=$CLUSTER_HOME/source
  if [[ -e $file ]]; then
    local before
    before=$(<"$file")
    [[ -z $dir || $dir == "$before" ]] ||
      die "www in $CLUSTER_HOME was made of $before; --reset starts anew with $dir"
    dir=$before
  else
    dir=${dir:-/usr/share/doc}
    [[ -d $dir && -r $dir ]] || die "$dir is not a directory that can be read"
    case $(realpath "$CLUSTER_HOME")/ in
      "$(realpath "$dir")"/*) die "the state directory $CLUSTER_HOME is inside $dir" ;;
    esac
    printf '%s\n' "$dir" >"$file"
  fi
}

up() {
  cluster_make_directories
  remember_source
  [[ -z $build_wanted ]] || build_all
  start_all
  make_collection
  compare_all
  prove
}

[[ -z $dir ]] || { [[ -d $dir ]] && dir=$(cd "$dir" && pwd); } || die "$dir is not a directory"
need_root
home=$(realpath -m "$home")
[[ $home =~ ^[A-Za-z0-9._/-]+$ && $home != / ]] ||
  die "the state directory '$home' may have letters, digits and . _ - / only"
CLUSTER_BIN=$build/bin
CLUSTER_HOME=$home
case $mode in
  up)
    lock_home
    up
    summarize
    ;;
  down)
    lock_home
    cluster_down || die "not everything could be stopped"
    say "stopped; data and logs stay in $CLUSTER_HOME"
    ;;
  reset)
    lock_home
    cluster_down || die "not everything could be stopped; nothing was erased"
    [[ -e $home/source || ! -e $home/etc ]] || die "$home does not look like ours: not erased"
    rm -rf "${home:?}"/{etc,run,log,data,nodes,mnt,source,mezzo.yaml}
    up
    summarize
    ;;
  check)
    # A directory of its own: the outcome does not depend on what was there.
    CLUSTER_HOME=$home/check
    lock_home
    # shellcheck disable=SC2034  # for cluster.sh
    CLUSTER_PROXIES=1
    cluster_down || die "an earlier check could not be stopped"
    rm -rf "$CLUSTER_HOME"
    finish() {
      local code=$?
      cluster_down || code=1
      if [[ $code -eq 0 ]]; then
        rm -rf "$CLUSTER_HOME"
        say "check passed; everything is stopped"
      else
        say "check FAILED; everything is stopped, data and logs are in $CLUSTER_HOME"
      fi
      exit "$code"
    }
    trap finish EXIT
    trap 'exit 1' INT TERM
    up
    "$top/tests/tour/tour.sh" "$CLUSTER_HOME" "$CLUSTER_BIN"
    ;;
esac
