#!/usr/bin/env bash
# The tour: everything that the first release promises, on a running trial cluster with proxies.
# Called by deploy/quickstart.sh --check, which makes the cluster and takes it away.
#
# Usage: tour.sh CLUSTER_HOME CLUSTER_BIN
#
# One line a step, PASS or FAIL with the time it took; after each step the replicas are compared by
# mezzo verify and, by a program that shares no code with it, their lower directories. Ends at the
# first FAIL with exit 1.
set -euo pipefail

if [[ $# -ne 2 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 2
fi

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CLUSTER_HOME=$1
CLUSTER_BIN=$2
# shellcheck disable=SC2034  # for cluster.sh
CLUSTER_PROXIES=1
# shellcheck source=deploy/cluster.sh
source "$top/deploy/cluster.sh"

nodes=(node-1 node-2 node-3)
work=$CLUSTER_HOME/tour
mkdir -p "$work"
seed=${INTERMEZZO_TOUR_SEED:-$RANDOM}
storms=()

mount_of() { echo "$CLUSTER_HOME/mnt/$1/www"; }
lower_of() { echo "$CLUSTER_HOME/nodes/$1/www"; }

# A failing step says why in one line, and the tour ends.
fail() {
  echo "$*" >"$work/reason"
  exit 1
}

# storm NODE DIRECTORY ARGUMENT...: to its end, in the foreground.
storm() {
  local node=$1 directory=$2
  shift 2
  seed=$((seed + 1))
  "$CLUSTER_BIN/storm" "$(mount_of "$node")/$directory" --seed "$seed" "$@" \
    >>"$work/storm-$node.log" 2>&1 ||
    fail "the storm on $node failed: $(tail -n 1 "$work/storm-$node.log")"
}

# The same in the background until end_storms (at most ten minutes).
begin_storm() {
  local node=$1 directory=$2
  shift 2
  seed=$((seed + 1))
  "$CLUSTER_BIN/storm" "$(mount_of "$node")/$directory" --seed "$seed" --seconds 600 "$@" \
    >>"$work/storm-$node.log" 2>&1 &
  storms+=("$!:$node")
}

end_storms() {
  local one pid node
  for one in "${storms[@]}"; do
    pid=${one%%:*}
    node=${one#*:}
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" || fail "the storm on $node failed: $(tail -n 1 "$work/storm-$node.log")"
  done
  storms=()
}

storms_run() {
  local one
  for one in "${storms[@]}"; do
    kill -0 "${one%%:*}" 2>/dev/null ||
      fail "the storm on ${one#*:} ended early: $(tail -n 1 "$work/storm-${one#*:}.log")"
  done
}

json_field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | head -n 1; }
token_epoch() { run_mezzo token show www -o json | json_field epoch; }
head_seq() { run_mezzo journal show www -o json | json_field headSeq; }

# node_connection NODE: as the node itself sees it, such as CONNECTED.
node_connection() {
  run_mezzo status www -o json 2>/dev/null |
    awk -v node="\"node\": \"$1\"" 'index($0, "\"nodeStatus\"") { s = 1 } s && index($0, node) { f = 1 }
      f && /"connection"/ { gsub(/[",]/, ""); sub(/.*CONNECTION_/, ""); print; exit }'
}
is_connected() { [[ $(node_connection "$1") == CONNECTED ]]; }
is_not_connected() { ! is_connected "$1"; }
progressed_by() { [[ $(head_seq) -ge $(($1 + $2)) ]]; }
epoch_is_above() { [[ $(token_epoch) -gt $1 ]]; }

# All replicas are the same: said by mezzo, and by a second opinion about the local disks.
compare() {
  local node
  run_mezzo wait www --settled --timeout 3m >"$work/wait.log" 2>&1 ||
    fail "mezzo wait: $(head -n 1 "$work/wait.log")"
  run_mezzo verify www --timeout 5m >"$work/verify.log" 2>&1 ||
    fail "mezzo verify: $(head -n 1 "$work/verify.log") (all in $work/verify.log)"
  for node in "${nodes[@]}"; do
    "$CLUSTER_BIN/tree_listing" "$(lower_of "$node")" >"$work/$node.digest" ||
      fail "tree_listing failed on $node"
    cmp -s "$work/node-1.digest" "$work/$node.digest" && continue
    diff "$work/node-1.digest" "$work/$node.digest" >"$work/$node.diff" || true
    fail "lower directories of node-1 and $node differ: $(sed -n 2p "$work/$node.diff" | cut -c 1-200) (all in $work/$node.diff)"
  done
  local before=$work/paths
  wc -l <"$work/node-1.digest" >"$before"
}

# Runs a step and the comparison after it; to be called in a shell of its own.
step() {
  set -E
  trap '[[ -s $work/reason ]] || echo "line $LINENO: $BASH_COMMAND" >"$work/reason"' ERR
  # shellcheck disable=SC2154  # `one` is set in the trap
  trap 'for one in "${storms[@]}"; do kill -TERM "${one%%:*}" 2>/dev/null || true; done' EXIT
  "$@"
  end_storms
  compare
}

# run TEXT FUNCTION ARGUMENT...: one step of the tour.
run() {
  local text=$1 begin=$EPOCHREALTIME verdict=PASS pid
  shift
  rm -f "$work/reason"
  # In the background, because a shell that is asked in a condition does not end where it fails.
  step "$@" &
  pid=$!
  wait "$pid" || verdict=FAIL
  awk -v v="$verdict" -v t="$text" -v a="$begin" -v b="$EPOCHREALTIME" \
    'BEGIN { printf "%s  %-60s %7.1f s\n", v, t, b - a }'
  seed=$((seed + 100)) # the step's shell took some
  [[ $verdict == FAIL ]] || return 0
  echo "      $(cat "$work/reason" 2>/dev/null || echo 'it ended without a reason')"
  run_mezzo status || true
  exit 1
}

# --- the steps ------------------------------------------------------------------------------------

imported_tree() { :; }

storm_on_node_1() { storm node-1 storm --operations 5000; }

tokens_under_load() {
  local before
  before=$(token_epoch)
  begin_storm node-1 shared --shared
  begin_storm node-2 shared --shared
  # There and back, ten times at least.
  wait_until 60 epoch_is_above "$((before + 20))" || fail "the token did not go to and fro"
  storms_run
}

node_3_cut_off() {
  local before
  proxy node-3 cut
  begin_storm node-1 storm
  wait_until 30 is_not_connected node-3 || fail "node-3 did not notice that it was cut off"
  before=$(head_seq)
  wait_until 60 progressed_by "$before" 500 || fail "writes stopped while node-3 was away"
  ls "$(mount_of node-3)" >/dev/null || fail "node-3 could not be read while it was away"
  proxy node-3 mend
  wait_until 60 is_connected node-3 || fail "node-3 did not come back"
  storms_run
}

node_1_cut_off() {
  begin_storm node-1 storm
  wait_until 30 progressed_by "$(head_seq)" 200 || fail "the storm on node-1 makes no records"
  proxy node-1 reset
  wait_until 30 is_not_connected node-1 || fail "node-1 did not notice that it was cut off"
  # It goes on writing; the others write elsewhere meanwhile, with a token of their own.
  storm node-2 elsewhere --operations 500
  storms_run
  local marker=written-while-cut-off
  echo "$seed" >"$(mount_of node-1)/$marker" || fail "node-1 could not write while cut off"
  [[ ! -e $(lower_of node-2)/$marker ]] || fail "node-1 was not cut off at all"
  end_storms
  proxy node-1 mend
  wait_until 60 is_connected node-1 || fail "node-1 did not come back"
  compare
  [[ $(<"$(mount_of node-2)/$marker") == "$seed" ]] || fail "node-2 lacks what node-1 wrote away"
  rm "$(mount_of node-1)/$marker"
}

fourth_node_joins() {
  begin_storm node-1 storm
  start_node node-4
  mkdir -p "$(lower_of node-4)"
  run_mezzo replica add www node-4 --lower "$(lower_of node-4)" --mount "$(mount_of node-4)" \
    --wait --timeout 10m >"$work/add.log" 2>&1 || fail "replica add: $(head -n 1 "$work/add.log")"
  storms_run
}

start_again() {
  case $1 in
    sidecar-*) start_node "${1#sidecar-}" ;;
    *) start_service "$1" ;;
  esac
}

# ended_and_started SIGNAL PROCESS WRITER: the writer, on another node, goes on meanwhile.
ended_and_started() {
  local signal=$1 name=$2 writer=$3 pid
  begin_storm "$writer" storm
  wait_until 30 progressed_by "$(head_seq)" 100 || fail "the storm on $writer makes no records"
  pid=$(pid_of "$name") || fail "$name does not run"
  kill "-$signal" "$pid"
  wait_until 30 is_gone "$name" || fail "$name did not end within 30 s of SIG$signal"
  storms_run
  start_again "$name"
  wait_until 60 everybody_is_connected || fail "not every node came back after $name"
  wait_until 60 progressed_by "$(head_seq)" 100 || fail "no records come after $name was started"
  storms_run
}

# everything_killed WRITER: all processes at once. With a writer it writes meanwhile, and fails then;
# without, what was written before is in the journal.
everything_killed() {
  local name names storm_pid
  if [[ -n $1 ]]; then
    begin_storm "$1" storm
    wait_until 30 progressed_by "$(head_seq)" 300 || fail "the storm on $1 makes no records"
  else
    storm node-1 storm --operations 200
    run_mezzo wait www --settled --timeout 1m >/dev/null || fail "the replicas did not settle"
  fi
  mapfile -t names < <(cluster_processes)
  for name in "${names[@]}"; do kill -KILL "$(pid_of "$name")"; done
  for name in "${names[@]}"; do wait_until 10 is_gone "$name" || fail "$name survived SIGKILL"; done
  if [[ -n $1 ]]; then
    storm_pid=${storms[0]%%:*}
    storms=()
    wait "$storm_pid" && fail "the storm on $1 did not notice that its file system died"
  fi
  start_services
  for name in "${nodes[@]}"; do start_node "$name"; done
  wait_until 60 everybody_is_connected || fail "not every node came back"
  storm node-1 storm --operations 200
}

everybody_is_connected() {
  local node
  for node in "${nodes[@]}"; do is_connected "$node" || return 1; done
}

echo "tour of $CLUSTER_HOME, seed $seed (INTERMEZZO_TOUR_SEED=$seed repeats its choices)"
run "an imported tree is the same on three nodes" imported_tree
run "storm on node-1" storm_on_node_1
run "the token to node-2 and back under load" tokens_under_load
run "node-3 cut off and back" node_3_cut_off
run "node-1 cut off while it writes, and back" node_1_cut_off
nodes+=(node-4)
run "a fourth node joins under load" fourth_node_joins
for service in "${CLUSTER_SERVICES[@]}"; do
  run "$service stopped and started under load" ended_and_started TERM "$service" node-1
done
run "sidecar of node-1 stopped and started under load" ended_and_started TERM sidecar-node-1 node-2
for node in node-2 node-3 node-4; do
  run "sidecar of $node stopped and started under load" ended_and_started TERM "sidecar-$node" node-1
done
run "journal-service killed and started under load" ended_and_started KILL journal-service node-1
run "sidecar of node-2 killed and started under load" ended_and_started KILL sidecar-node-2 node-1
run "every process killed at once and started" everything_killed ''
# A node killed between an update's effect on its disk and the update's record does not find the
# update again yet (the active set comes with crash safety), so this one is only run when asked for.
if [[ -n ${INTERMEZZO_TOUR_CRASH-} ]]; then
  run "every process killed at once while node-1 writes" everything_killed node-1
fi
echo "tour passed: $(cat "$work/paths") paths on ${#nodes[@]} nodes"
