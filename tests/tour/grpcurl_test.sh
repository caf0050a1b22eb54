#!/usr/bin/env bash
# Everything that mezzo does can be done with grpcurl: each call of it, by reflection, against the
# real processes; health too. Exit 77 where grpcurl cannot be had here.
#
# Usage: grpcurl_test.sh BIN_DIRECTORY
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ $# -eq 1 ]] || {
  echo "usage: grpcurl_test.sh BIN_DIRECTORY" >&2
  exit 2
}
grpcurl=$("$top/tests/go-tool.sh" github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3) || exit 77

CLUSTER_BIN=$1
CLUSTER_HOME=$(mktemp -d "${TMPDIR:-/tmp}/intermezzo-grpcurl-XXXXXX")
# shellcheck source=deploy/cluster.sh
source "$top/deploy/cluster.sh"
finish() {
  local code=$?
  cluster_down || code=1
  [[ $code -ne 0 ]] || rm -rf "$CLUSTER_HOME"
  exit "$code"
}
trap finish EXIT
trap 'exit 1' INT TERM

cluster_make_directories
start_services
start_node node-1
mkdir -p "$CLUSTER_HOME/nodes/node-1/www"

failures=0
answer=''

# ask PROCESS METHOD JSON [FLAG...]: sets `answer`, to the error where there was one.
ask() {
  local process=$1 method=$2 json=$3 address
  shift 3
  address=$(address_of "$process" grpc)
  # A stream without end is cut by -max-time; what it sent until then counts.
  answer=$("$grpcurl" -plaintext -emit-defaults -max-time 20 "$@" -d "$json" "$address" "$method" \
    2>&1) || true
}

# call PROCESS METHOD JSON TEXT [FLAG...]: the answer must hold TEXT.
call() {
  local process=$1 method=$2 json=$3 text=$4
  shift 4
  ask "$process" "$method" "$json" "$@"
  if [[ $answer == *"$text"* ]]; then
    echo "ok    $process $method"
  else
    echo "FAIL  $process $method $json: '$text' is not in:"
    printf '%s\n' "$answer" | sed 's/^/      /'
    failures=$((failures + 1))
  fi
}

# Every process: reflection lists its services, health says that it serves.
services_of() { "$grpcurl" -plaintext -max-time 20 "$(address_of "$1" grpc)" list; }
expect_services() {
  local process=$1 service listed
  shift
  listed=$(services_of "$process")
  for service in grpc.health.v1.Health "$@"; do
    if ! grep -qxF "$service" <<<"$listed"; then
      echo "FAIL  $process does not list $service"
      failures=$((failures + 1))
    fi
  done
  call "$process" grpc.health.v1.Health/Check '{}' '"SERVING"'
}
expect_services token-service intermezzo.token.v1.TokenService intermezzo.registry.v1.RegistryService
expect_services journal-service intermezzo.journal.v1.JournalService
expect_services forwarder-service intermezzo.forwarder.v1.ForwarderService
expect_services sidecar-node-1 intermezzo.node.v1.NodeService

registry=intermezzo.registry.v1.RegistryService
token=intermezzo.token.v1.TokenService
journal=intermezzo.journal.v1.JournalService
forwarder=intermezzo.forwarder.v1.ForwarderService
node=intermezzo.node.v1.NodeService
www='{"collection": "www"}'

call token-service $registry/ListNodes '{"page_size": 10}' '"name": "node-1"'
call token-service $registry/CreateCollection \
  '{"collection": {"name": "www", "retention": "3600s"}, "request_id": "a"}' '"name": "www"'
call token-service $registry/CreateCollection \
  '{"collection": {"name": "www"}, "request_id": "b"}' 'Code: AlreadyExists'
call token-service $registry/GetCollection '{"name": "www"}' '"retention": "3600s"'
call token-service $registry/GetCollection '{"name": "nope"}' 'Code: NotFound'
call token-service $registry/ListCollections '{}' '"name": "www"'
call token-service $registry/AddReplica "{\"replica\": {\"collection\": \"www\", \"node\": \"node-1\",
  \"lower_dir\": \"$CLUSTER_HOME/nodes/node-1/www\",
  \"mount_dir\": \"$CLUSTER_HOME/mnt/node-1/www\"}, \"request_id\": \"c\"}" '"node": "node-1"'
call token-service $registry/ListReplicas "$www" '"node": "node-1"'

# The replica connects; a write by the mount gives the journal something to show.
connected() {
  ask sidecar-node-1 $node/GetNodeStatus '{}'
  [[ $answer == *CONNECTION_CONNECTED* ]]
}
wait_until 30 connected || {
  echo "FAIL  node-1 did not connect: $answer"
  exit 1
}
call sidecar-node-1 $node/GetNodeStatus '{}' '"driver": "fuse"'
echo content >"$CLUSTER_HOME/mnt/node-1/www/file"
head_moved() {
  ask journal-service $journal/GetJournal "$www"
  [[ $answer == *'"head_seq"'* && $answer != *'"head_seq": "0"'* ]]
}
wait_until 30 head_moved || {
  echo "FAIL  a write did not reach the journal: $answer"
  exit 1
}

call token-service $token/GetToken "$www" '"holder": "node-1"'
call journal-service $journal/GetJournal "$www" '"collection": "www"'
call journal-service $journal/ListEntries '{"collection": "www", "page_size": 5}' '"seq": "1"'
call journal-service $journal/Subscribe '{"collection": "www", "from_seq": 1, "skip_payloads": true}' \
  '"seq": "1"' -max-time 2
call forwarder-service $forwarder/WaitReplicas "$www" '"seq"'
call forwarder-service $forwarder/ListReplicaProgress "$www" '"node": "node-1"'
call sidecar-node-1 $node/ListDigests "$www" '"path": "ZmlsZQ=="'
call token-service $token/RecallToken '{"collection": "www", "request_id": "d"}' '{}'
call token-service $registry/RemoveReplica \
  '{"collection": "www", "node": "node-1", "request_id": "e"}' '{}'
call token-service $registry/DeleteCollection '{"name": "www", "request_id": "f"}' '{}'
call token-service $registry/GetCollection '{"name": "www"}' 'Code: NotFound'

((failures == 0)) || {
  echo "$failures calls failed"
  exit 1
}
echo "every call of mezzo works by grpcurl"
