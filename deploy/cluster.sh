# shellcheck shell=bash
# InterMezzo's processes on one machine, for a trial and for tests: to be sourced.
#
# The caller sets CLUSTER_HOME (state directory) and CLUSTER_BIN (where the programs are), and may
# set CLUSTER_PROXIES=1: then each node reaches the server through a proxy of its own that can be
# cut and mended (tests only).
#
#   $CLUSTER_HOME/etc/NAME.yaml      configuration of process NAME
#   $CLUSTER_HOME/run/NAME.pid       "pid starttime boot-id": proves that the process is ours
#   $CLUSTER_HOME/run/NAME.address   addresses it listens on, written by the process
#   $CLUSTER_HOME/log/NAME.log       its log
#   $CLUSTER_HOME/data/NAME/         its databases
#   $CLUSTER_HOME/nodes/NODE/www     a replica's lower directory
#   $CLUSTER_HOME/mnt/NODE/www       where it is mounted
#   $CLUSTER_HOME/mezzo.yaml         for mezzo: MEZZO_CONFIG

CLUSTER_SERVICES=(journal-service token-service forwarder-service)

die() {
  echo "error: $*" >&2
  exit 1
}

# wait_until SECONDS COMMAND...: asks every 50 ms; 1 when the time is over.
wait_until() {
  local deadline=$((SECONDS + $1 + 1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# --- progress -------------------------------------------------------------------------------------

# draw_bar TITLE DONE TOTAL: a bar over itself on a terminal, nothing elsewhere.
draw_bar() {
  [[ -t 2 ]] || return 0
  local title=$1 done=$2 total=$3 width=30 filled bar
  ((total > 0)) || total=1
  ((done <= total)) || done=$total
  filled=$((done * width / total))
  printf -v bar '%*s' "$filled" ''
  printf '\r\033[K%s [%-*s] %d%%' "$title" "$width" "${bar// /#}" $((done * 100 / total)) >&2
}

end_bar() {
  [[ -t 2 ]] || return 0
  printf '\r\033[K' >&2
}

# Reads lines and draws TITLE with how many of TOTAL came.
count_lines() {
  local title=$1 total=$2 count=0
  while IFS= read -r _; do
    ((++count % 64 == 0)) && draw_bar "$title" "$count" "$total"
  done
  end_bar
}

# --- processes ------------------------------------------------------------------------------------

# When process PID started, in clock ticks since boot; fails where there is none. Reads only
# /proc/PID/stat: files like cmdline may hang with a dead FUSE mount.
start_time_of() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  stat=${stat##*) } # the name may hold blanks and parentheses
  local fields
  read -ra fields <<<"$stat"
  [[ ${fields[0]} != Z ]] || return 1 # a zombie has ended
  echo "${fields[19]}"
}

boot_id() { cat /proc/sys/kernel/random/boot_id; }

# pid_of NAME: the pid of our process NAME; fails where it does not run (any more).
pid_of() {
  local pid start boot
  read -r pid start boot 2>/dev/null <"$CLUSTER_HOME/run/$1.pid" || return 1
  [[ $boot == "$(boot_id)" && $(start_time_of "$pid") == "$start" ]] || return 1
  echo "$pid"
}

is_running() { pid_of "$1" >/dev/null; }
is_gone() { ! is_running "$1"; }

# start_process NAME PROGRAM ARGUMENT...: in a session of its own, log to log/NAME.log. One that
# runs stays, unless its program was built anew meanwhile.
start_process() {
  local name=$1 running
  shift
  if running=$(pid_of "$name"); then
    [[ $(readlink "/proc/$running/exe") == *' (deleted)' ]] || return 0
    stop_process "$name"
  fi
  rm -f "$CLUSTER_HOME/run/$name.address"
  (
    cd /
    exec 9>&- # a lock of the caller
    exec setsid "$@" </dev/null >>"$CLUSTER_HOME/log/$name.log" 2>&1
  ) &
  local pid=$!
  local start
  start=$(start_time_of "$pid") || start=0 # it ended already; await_ready says so
  echo "$pid $start $(boot_id)" >"$CLUSTER_HOME/run/$name.pid"
  disown "$pid" 2>/dev/null || true
}

has_address() { [[ -s $CLUSTER_HOME/run/$1.address ]] || is_gone "$1"; }

# await_ready NAME: until the process serves; its log's end where it does not come up.
await_ready() {
  wait_until 60 has_address "$1" && is_running "$1" && return 0
  echo "error: $1 did not come up; the end of $CLUSTER_HOME/log/$1.log:" >&2
  tail -n 15 "$CLUSTER_HOME/log/$1.log" >&2 || true
  exit 1
}

# stop_process NAME [SECONDS]: SIGTERM, and SIGKILL where the drain takes too long (said aloud).
stop_process() {
  local name=$1 patience=${2:-30} pid
  if pid=$(pid_of "$name"); then
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_until "$patience" is_gone "$name"; then
      echo "warning: $name (pid $pid) did not end within $patience s of SIGTERM: killed" >&2
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 10 is_gone "$name" || true
    fi
  fi
  rm -f "$CLUSTER_HOME/run/$name.pid" "$CLUSTER_HOME/run/$name.address"
}

# address_of NAME KEY: host:port of `grpc` or `metrics` of a process that serves.
address_of() {
  sed -n "s/^$2: *[\"']\{0,1\}\([^\"']*\)[\"']\{0,1\} *$/\1/p" "$CLUSTER_HOME/run/$1.address"
}

# pin_addresses NAME: the process listens there again after a restart: others know the address.
pin_addresses() {
  sed -i -e "s/^  listen: .*/  listen: $(address_of "$1" grpc)/" \
    -e "s/^  metrics_listen: .*/  metrics_listen: $(address_of "$1" metrics)/" \
    "$CLUSTER_HOME/etc/$1.yaml"
}

# --- mounts ---------------------------------------------------------------------------------------

# "major:minor" of the mount at DIR, from the mount table alone: a dead mount hangs whoever looks.
mount_device() {
  awk -v dir="$1" '$5 == dir { device = $3 } END { if (device == "") exit 1; print device }' \
    /proc/self/mountinfo
}

is_mounted() { mount_device "$1" >/dev/null; }
is_unmounted() { ! is_mounted "$1"; }

# unmount DIR: takes the mount away, also one whose process died.
unmount() {
  local device
  while device=$(mount_device "$1"); do
    if ! timeout 5 umount "$1" 2>/dev/null; then
      local abort=/sys/fs/fuse/connections/${device#*:}/abort
      [[ -e $abort ]] || mount -t fusectl none /sys/fs/fuse/connections 2>/dev/null || true
      { echo 1 >"$abort"; } 2>/dev/null || true
      umount -l "$1" 2>/dev/null || return 1
    fi
  done
}

# --- the cluster ----------------------------------------------------------------------------------

# The nodes that have a configuration here.
cluster_nodes() {
  local config
  for config in "$CLUSTER_HOME"/etc/sidecar-*.yaml; do
    [[ -e $config ]] || continue
    config=${config##*/sidecar-}
    echo "${config%.yaml}"
  done
}

# Everything that may run here, in the order of starting.
cluster_processes() {
  printf '%s\n' "${CLUSTER_SERVICES[@]}"
  local node
  for node in $(cluster_nodes); do
    [[ -n ${CLUSTER_PROXIES-} || -e $CLUSTER_HOME/run/proxy-$node.pid ]] && echo "proxy-$node"
    echo "sidecar-$node"
  done
}

# runner_config NAME [PORT]: the common part of a configuration.
runner_config() {
  cat <<EOF
runner:
  listen: 127.0.0.1:${2:-0}
  metrics_listen: 127.0.0.1:0
  address_file: $CLUSTER_HOME/run/$1.address
  insecure: true
EOF
}

# free_port PORT: PORT where nobody listens on it, else 0 (any).
free_port() {
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then echo 0; else echo "$1"; fi
}

# start_service NAME: makes its configuration the first time.
start_service() {
  local name=$1 config=$CLUSTER_HOME/etc/$1.yaml
  if [[ ! -e $config ]]; then
    {
      case $name in
        journal-service)
          runner_config "$name" "$(free_port 7472)"
          ;;
        token-service)
          runner_config "$name" "$(free_port 7471)"
          echo "journal_address: $(address_of journal-service grpc)"
          ;;
        forwarder-service)
          runner_config "$name" "$(free_port 7473)"
          echo "journal_address: $(address_of journal-service grpc)"
          echo "token_address: $(address_of token-service grpc)"
          ;;
      esac
      [[ $name == forwarder-service ]] || echo "data_dir: $CLUSTER_HOME/data/$name"
    } >"$config.new"
    mv "$config.new" "$config"
  fi
  start_process "$name" "$CLUSTER_BIN/$name" --config "$config"
  await_ready "$name"
  pin_addresses "$name"
}

start_services() {
  local name
  for name in "${CLUSTER_SERVICES[@]}"; do start_service "$name"; done
  cat >"$CLUSTER_HOME/mezzo.yaml" <<EOF
token_address: $(address_of token-service grpc)
journal_address: $(address_of journal-service grpc)
forwarder_address: $(address_of forwarder-service grpc)
EOF
}

# start_proxy NODE: between the node and the three services. Its ports stay over a restart.
start_proxy() {
  local name=proxy-$1 service arguments=()
  for service in "${CLUSTER_SERVICES[@]}"; do
    local listen=127.0.0.1:0 before=$CLUSTER_HOME/etc/$name.ports
    [[ -e $before ]] && listen=$(sed -n "s/^$service: //p" "$before")
    arguments+=(--forward "$service=$listen=$(address_of "$service" grpc)")
  done
  start_process "$name" "$CLUSTER_BIN/cut_proxy" serve --control "$CLUSTER_HOME/run/$name.socket" \
    --address-file "$CLUSTER_HOME/run/$name.address" "${arguments[@]}"
  await_ready "$name"
  cp "$CLUSTER_HOME/run/$name.address" "$CLUSTER_HOME/etc/$name.ports"
}

# proxy NODE cut|reset|mend: the node's way to the server.
proxy() { "$CLUSTER_BIN/cut_proxy" ctl "$CLUSTER_HOME/run/proxy-$1.socket" "$2"; }

# start_node NODE: its proxy where there are proxies, and its sidecar.
start_node() {
  local node=$1 name=sidecar-$1 config=$CLUSTER_HOME/etc/sidecar-$1.yaml key service address
  [[ -z ${CLUSTER_PROXIES-} ]] || start_proxy "$node"
  # A mount left by a sidecar that died is in the way of the next one.
  is_running "$name" || unmount "$CLUSTER_HOME/mnt/$node/www" || true
  mkdir -p "$CLUSTER_HOME/nodes/$node" "$CLUSTER_HOME/mnt/$node/www"
  if [[ ! -e $config ]]; then
    {
      runner_config "$name"
      echo "node: $node"
      echo "data_dir: $CLUSTER_HOME/data/$name"
      for key in token journal forwarder; do
        service=$key-service
        if [[ -n ${CLUSTER_PROXIES-} ]]; then
          address=$(address_of "proxy-$node" "$service")
        else
          address=$(address_of "$service" grpc)
        fi
        echo "${key}_address: $address"
      done
    } >"$config.new"
    mv "$config.new" "$config"
  fi
  start_process "$name" "$CLUSTER_BIN/sidecar" --config "$config"
  await_ready "$name"
  pin_addresses "$name"
}

# Stops everything that is ours, also after a crash. Says what it could not take away.
cluster_down() {
  local names=() name node left=0 i
  [[ -d $CLUSTER_HOME/run ]] || return 0
  mapfile -t names < <(cluster_processes)
  for ((i = ${#names[@]} - 1; i >= 0; i--)); do stop_process "${names[i]}"; done
  while IFS= read -r name; do
    unmount "$name" || {
      echo "warning: $name could not be unmounted" >&2
      left=1
    }
  done < <(awk -v home="$CLUSTER_HOME/mnt/" 'index($5, home) == 1 { print $5 }' \
    /proc/self/mountinfo)
  return "$left"
}

cluster_make_directories() {
  mkdir -p "$CLUSTER_HOME"/{etc,run,log,data,nodes,mnt}
  chmod 700 "$CLUSTER_HOME"/{etc,run,data}
}

run_mezzo() { MEZZO_CONFIG=$CLUSTER_HOME/mezzo.yaml "$CLUSTER_BIN/mezzo" "$@"; }
