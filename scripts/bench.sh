#!/usr/bin/env bash
# Speed beside yardsticks, in one run on one machine: bench.sh LOADGEN [ROUNDS]
# LOADGEN is the folder of the load generator; nothing in it changes.
#
# The server has one core, the generator another; subjects take turns inside each
# round, and what counts is the median of the rounds and its ratio to `loadgen null
# -wal`, which syncs and does nothing else. BENCH_DUR (8s) is the time measured,
# BENCH_DIR a directory on a real disk for data (/tmp), BENCH_ONLY a pattern of
# scenarios to keep: ingest, routed, amqp.
set -euo pipefail
{ # read whole before it runs, since a run takes long and files change

[ $# -ge 1 ] || { echo "usage: $0 LOADGEN [ROUNDS]" >&2; exit 2; }
LOADGEN=$(cd "$1" && pwd)
ROUNDS=${2:-3}
DUR=${BENCH_DUR:-8s}
ONLY=${BENCH_ONLY:-.}
cd "$(dirname "$0")/.."

[ "$(nproc)" -ge 2 ] || { echo "bench: two cores are needed, one for the server and one for the generator" >&2; exit 1; }
if ! command -v mosquitto >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "bench: mosquitto is needed; install it, or run this as root" >&2; exit 1; }
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mosquitto >/dev/null
fi
if [[ amqp =~ $ONLY ]] && ! command -v rabbitmq-server >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "bench: rabbitmq-server is needed; install it, or run this as root" >&2; exit 1; }
  # RUNLEVEL: the package is not to start a server of its own.
  apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null
fi

T=$(mktemp -d -p "${BENCH_DIR:-/tmp}" selvedge-bench.XXXXXX)
pids=()
stop() { # all servers, last first
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
  pids=()
}
trap 'stop; rm -rf "$T"' EXIT
trap 'exit 130' INT TERM
case $(stat -f -c %T "$T") in
  tmpfs|ramfs) echo "bench: $T is in memory, syncs cost nothing there; set BENCH_DIR to a directory on a disk" >&2; exit 1 ;;
esac
(cd "$LOADGEN" && go build -o "$T/loadgen" .)
cp bin/selvedge "$T/selvedge" # this build, whatever is built meanwhile
S=$T/selvedge

die() { echo "bench: $1" >&2; [ -s "$T/server.log" ] && tail -n 20 "$T/server.log" >&2; exit 1; }
open() { # PORT: wait until something listens there
  for _ in $(seq 300); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
    sleep 0.1
  done
  die "nothing listens on port $1"
}
run() { # CORE COMMAND…: start a server pinned to a core
  local core=$1
  shift
  taskset -c "$core" "$@" >>"$T/server.log" 2>&1 &
  pids+=($!)
}

# Ports of the servers, out of the way of others.
NULL=41880 MOSQ=41881 HUB=41882 HUBTLS=41883 HTTPS=41884 OPS=41885 EDGE=41886 EDGETLS=41887 AMQPTLS=41888 AMQP=41889 EDGEAMQP=41890 RABBIT=41891 RABBITDIST=41892

KEY=$(head -c 32 /dev/urandom | base64)
hub() { # CORE DATA
  run "$1" "$S" hub run --data "$2" --hostname localhost --mqtt "127.0.0.1:$HUBTLS" --https "127.0.0.1:$HTTPS" \
    --ops "127.0.0.1:$OPS" --plain-mqtt "127.0.0.1:$HUB" --amqp "127.0.0.1:$AMQPTLS" --plain-amqp "127.0.0.1:$AMQP"
  open $HUB; open $HTTPS
}
edge() { # CORE DATA
  run "$1" "$S" edge run --config "$T/edge.toml" --data "$2"
  open $EDGE; open $EDGETLS
}

echo "preparing: a hub with ten devices, a gateway with ten senders and a receiver" >&2
unset SELVEDGE_HUB SELVEDGE_HUB_ADDRESS SELVEDGE_CA
hub 0 "$T/hub"
"$S" hub ca --data "$T/hub" >"$T/root.pem"
op() { "$S" "$@" --hub-data "$T/hub" --quiet >/dev/null || die "selvedge $*"; }
for i in $(seq 0 9); do op device create "dev$i" --primary-key "$KEY" --secondary-key "$KEY"; done
op device create gw --edge
for m in pub0 pub1 pub2 pub3 pub4 pub5 pub6 pub7 pub8 pub9 sub0; do
  op module create gw $m --primary-key "$KEY" --secondary-key "$KEY"
done
cat >"$T/manifest.json" <<'JSON'
{"modulesContent": {
  "$edgeAgent": {"properties.desired": {"schemaVersion": "1.1", "runtime": {"type": "docker", "settings": {}},
    "systemModules": {"edgeAgent": {"type": "docker", "settings": {"image": "selvedge/edge"}},
      "edgeHub": {"type": "docker", "status": "running", "restartPolicy": "always", "settings": {"image": "selvedge/edge"}}},
    "modules": {}}},
  "$edgeHub": {"properties.desired": {"schemaVersion": "1.1",
    "routes": {"all": "FROM /messages/modules/* INTO BrokeredEndpoint(\"/modules/sub0/inputs/in\")"},
    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}}}}
JSON
op deployment set-modules gw "$T/manifest.json"
umask 077
cat >"$T/edge.toml" <<TOML
hostname = "localhost"
trust_bundle_cert = "file://$T/root.pem"
[provisioning]
source = "manual"
connection_string = "$("$S" device connection-string gw --hub-data "$T/hub")"
[upstream]
mqtt = "127.0.0.1:$HUBTLS"
https = "127.0.0.1:$HTTPS"
[broker]
mqtt = "127.0.0.1:$EDGETLS"
amqp = ""
https = ""
plain_mqtt = "127.0.0.1:$EDGE"
plain_amqp = "127.0.0.1:$EDGEAMQP"
TOML
edge 0 "$T/edge"
as_module=(-azure -hub localhost -key "$KEY" -pubid 'gw/pub{i}' -subid 'gw/sub{i}')
P99='latency":{[^}]*"p99_us' # of the way to the receiver
as_guest=(-auth plain -user guest -pass guest -hub vhost:/ -pubtopic '/queue/lg' -subtopic '/queue/lg')
as_device=(-azure -hub localhost -key "$KEY" -pubid 'dev{i}')
# The gateway learns its modules and its routes: one small run before data is copied.
for _ in $(seq 30); do
  "$T/loadgen" run -addr "127.0.0.1:$EDGE" "${as_module[@]}" -pubs 10 -subs 1 -copies 1 -rate 100 -warmup 200ms -dur 300ms \
    -drain 2s -json "$T/first.json" >"$T/first.log" 2>&1 && grep -q '"lost":0,' "$T/first.json" && break
  rm -f "$T/first.json"
  sleep 0.5
done
[ -s "$T/first.json" ] || { cat "$T/first.log" >&2; die "no message came through the gateway"; }
sleep 10 # at rest
rss() { awk '/^VmRSS/ {printf "%.1f", $2 / 1024}' "/proc/$1/status"; }
HUB_RSS=$(rss "${pids[0]}") EDGE_RSS=$(rss "${pids[1]}")
stop
# At rest means at rest: programs that never saw a message.
hub 0 "$T/hub"; edge 0 "$T/edge"
sleep 10
HUB_IDLE=$(rss "${pids[0]}") EDGE_IDLE=$(rss "${pids[1]}")
stop

# measure SUBJECT SCENARIO FIELD loadgen-arguments…
measure() {
  local subject=$1 scenario=$2 field=$3
  shift 3
  rm -f "$T/one.json"
  taskset -c 1 "$T/loadgen" run -qos 1 -size 256 -dur "$DUR" -pid "${BEAM:-${pids[-1]}}" -json "$T/one.json" "$@" >"$T/run.log" 2>&1 ||
    { cat "$T/run.log" >&2; die "$subject, $scenario"; }
  local value lost cpu
  value=$(sed -n "s/.*\"$field\":\([0-9.e+]*\).*/\1/p" "$T/one.json")
  lost=$(sed -n 's/.*"lost":\(-\{0,1\}[0-9]*\).*/\1/p' "$T/one.json")
  cpu=$(sed -n 's/.*"srv_cpu_us_per_msg":\([0-9.e+-]*\).*/\1/p' "$T/one.json")
  grep -q '"error":' "$T/one.json" && { cat "$T/run.log" >&2; die "$subject, $scenario: the run failed"; }
  [ "${lost:-0}" -le 0 ] || echo "bench: $subject, $scenario: $lost messages did not come" >&2
  printf '%s|%s|%.0f|%s\n' "$scenario" "$subject" "$value" "${cpu:-0}" >>"$T/results"
  printf '  %-26s %-22s %10.0f/s\n' "$scenario" "$subject" "$value" >&2
  stop
  BEAM=
  rm -rf "$T/run" && mkdir "$T/run"
}
null() { mkdir -p "$T/run"; run 0 "$T/loadgen" null -listen "127.0.0.1:$NULL" -wal "$T/run/wal"; open $NULL; }
mosquitto_up() {
  mkdir -p "$T/run"
  printf '%s\n' "listener $MOSQ 127.0.0.1" "allow_anonymous true" "persistence false" "max_queued_messages 0" \
    "max_inflight_messages 1000" "set_tcp_nodelay true" "user root" >"$T/run/mosquitto.conf"
  run 0 mosquitto -c "$T/run/mosquitto.conf"
  open $MOSQ
}
hub_up() { mkdir -p "$T/run"; cp -a "$T/hub" "$T/run/hub"; hub 0 "$T/run/hub"; }
edge_up() { # the hub rests on the generator's core
  mkdir -p "$T/run"; cp -a "$T/hub" "$T/edge" "$T/run/"; hub 1 "$T/run/hub"; edge 0 "$T/run/edge"
}

rabbit_up() { # Debian's, with its AMQP 1.0 plug-in; a queue that is named is durable
  mkdir -p "$T/run"
  echo '[rabbitmq_amqp1_0].' >"$T/run/plugins"
  printf '%s\n' "listeners.tcp.default = 127.0.0.1:$RABBIT" "distribution.listener.interface = 127.0.0.1" "log.console = false" >"$T/run/rabbit.conf"
  run 0 env HOME="$T/run" RABBITMQ_NODENAME=bench@localhost RABBITMQ_MNESIA_BASE="$T/run/db" RABBITMQ_LOG_BASE="$T/run/log" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$T/run/plugins" RABBITMQ_CONFIG_FILE="$T/run/rabbit" RABBITMQ_DIST_PORT=$RABBITDIST \
    RABBITMQ_PID_FILE="$T/run/rabbit.pid" /usr/lib/rabbitmq/bin/rabbitmq-server
  open $RABBIT
  BEAM=$(cat "$T/run/rabbit.pid")
}

wants() { [[ $1 =~ $ONLY ]]; }
for round in $(seq "$ROUNDS"); do
  echo "round $round of $ROUNDS" >&2
  if wants ingest; then
    ten=(-pubs 10 -subs 0) one=(-pubs 1 -subs 0 -window 1)
    null;         measure null-wal  "ingest, 10 senders" acked_per_s -addr "127.0.0.1:$NULL" "${ten[@]}"
    mosquitto_up; measure mosquitto "ingest, 10 senders" acked_per_s -addr "127.0.0.1:$MOSQ" "${ten[@]}"
    hub_up;       measure hub       "ingest, 10 senders" acked_per_s -addr "127.0.0.1:$HUB" "${as_device[@]}" "${ten[@]}"
    hub_up;       measure hub-tls   "ingest, 10 senders" acked_per_s -tls -insecure -addr "127.0.0.1:$HUBTLS" "${as_device[@]}" "${ten[@]}"
    null;         measure null-wal  "ingest, 1 waits" acked_per_s -addr "127.0.0.1:$NULL" "${one[@]}"
    hub_up;       measure hub       "ingest, 1 waits" acked_per_s -addr "127.0.0.1:$HUB" "${as_device[@]}" "${one[@]}"
    hub_up;       measure hub-tls   "ingest, 1 waits" acked_per_s -tls -insecure -addr "127.0.0.1:$HUBTLS" "${as_device[@]}" "${one[@]}"
  fi
  if wants routed; then
    ten=(-pubs 10 -subs 1 -copies 1) one=(-pubs 1 -subs 1 -copies 1 -window 1)
    null;         measure null-wal  "routed, 10 modules" recv_per_s -addr "127.0.0.1:$NULL" "${ten[@]}"
    mosquitto_up; measure mosquitto "routed, 10 modules" recv_per_s -addr "127.0.0.1:$MOSQ" "${ten[@]}"
    edge_up;      measure edge      "routed, 10 modules" recv_per_s -addr "127.0.0.1:$EDGE" "${as_module[@]}" "${ten[@]}"
    edge_up;      measure edge-tls  "routed, 10 modules" recv_per_s -tls -insecure -addr "127.0.0.1:$EDGETLS" "${as_module[@]}" "${ten[@]}"
    null;         measure null-wal  "routed, 1 waits" recv_per_s -addr "127.0.0.1:$NULL" "${one[@]}"
    edge_up;      measure edge      "routed, 1 waits" recv_per_s -addr "127.0.0.1:$EDGE" "${as_module[@]}" "${one[@]}"
    edge_up;      measure edge-tls  "routed, 1 waits" recv_per_s -tls -insecure -addr "127.0.0.1:$EDGETLS" "${as_module[@]}" "${one[@]}"
  fi
  if wants amqp; then
    amqp=(-proto amqp) ten=(-pubs 10 -subs 1 -copies 1) one=(-pubs 1 -subs 1 -copies 1 -window 1)
    hub_up;    measure hub      "ingest over AMQP"   acked_per_s "${amqp[@]}" -addr "127.0.0.1:$AMQP" "${as_device[@]}" -pubs 10 -subs 0
    hub_up;    measure hub-mqtt "ingest over AMQP"   acked_per_s -addr "127.0.0.1:$HUB" "${as_device[@]}" -pubs 10 -subs 0
    # The same rate for both: what is shared by many messages, syncs above all, weighs as much.
    hub_up;    measure hub      "AMQP, 50,000/s"     acked_per_s "${amqp[@]}" -addr "127.0.0.1:$AMQP" "${as_device[@]}" -pubs 10 -subs 0 -rate 50000
    hub_up;    measure hub-mqtt "AMQP, 50,000/s"     acked_per_s -addr "127.0.0.1:$HUB" "${as_device[@]}" -pubs 10 -subs 0 -rate 50000
    edge_up;   measure edge     "routed over AMQP"   recv_per_s "${amqp[@]}" -addr "127.0.0.1:$EDGEAMQP" "${as_module[@]}" "${ten[@]}"
    rabbit_up; measure rabbitmq "routed over AMQP"   recv_per_s "${amqp[@]}" -addr "127.0.0.1:$RABBIT" "${as_guest[@]}" "${ten[@]}" -drain 60s
    edge_up;   measure edge     "AMQP, 1 waits"      recv_per_s "${amqp[@]}" -addr "127.0.0.1:$EDGEAMQP" "${as_module[@]}" "${one[@]}"
    rabbit_up; measure rabbitmq "AMQP, 1 waits"      recv_per_s "${amqp[@]}" -addr "127.0.0.1:$RABBIT" "${as_guest[@]}" "${one[@]}"
    edge_up;   measure edge     "AMQP, 1,000/s, p99" "$P99" "${amqp[@]}" -addr "127.0.0.1:$EDGEAMQP" "${as_module[@]}" "${ten[@]}" -rate 1000
    edge_up;   measure edge-mqtt "AMQP, 1,000/s, p99" "$P99" -addr "127.0.0.1:$EDGE" "${as_module[@]}" "${ten[@]}" -rate 1000
  fi
done

echo
echo "$(date -u +%F), $("$S" version), $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(stat -f -c %T "$T")"
echo "QoS 1, 256 B, $ROUNDS rounds of $DUR, medians; server and generator on one core each"
echo
awk -F'|' '
  function median(list,   n, i, j, t, v) {
    n = split(list, v, " ")
    for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++) if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
  }
  { key = $1 "|" $2
    if (!(key in rates)) order[++rows] = key
    rates[key] = rates[key] " " $3; cpus[key] = cpus[key] " " $4 }
  END {
    printf "%-20s %-10s %11s %8s %10s %10s  %s\n", "scenario", "subject", "msg/s", "CPU µs", "x null-wal", "x mosq.", "bar"
    for (i = 1; i <= rows; i++) {
      split(order[i], k, "|")
      m = median(rates[order[i]]); base = median(rates[k[1] "|null-wal"])
      mosq = (k[1] "|mosquitto") in rates ? median(rates[k[1] "|mosquitto"]) : 0
      bar = "-"
      if (k[1] ~ /AMQP/) {
        cpu = median(cpus[order[i]]); mqtt = median(cpus[k[1] "|hub-mqtt"])
        rate = median(rates[k[1] "|rabbitmq"]); rcpu = median(cpus[k[1] "|rabbitmq"])
        if (k[2] == "hub") bar = (cpu <= 2 * mqtt ? "met" : "MISSED") ": CPU <= 2 x MQTT"
        else if (k[2] == "edge" && k[1] ~ /p99/) bar = (m < 5000 ? "met" : "MISSED") ": p99 in µs < 5000"
        else if (k[2] == "edge" && k[1] ~ /waits/) bar = (m >= 2000 ? "met" : "MISSED") ": >= 2000"
        else if (k[2] == "edge") bar = (m >= 2 * rate && cpu <= rcpu / 5 ? "met" : "MISSED") ": >= 2 x RabbitMQ at <= 1/5 of its CPU"
      } else if (k[2] == "hub" || k[2] == "edge") {
        if (k[1] ~ /10/) bar = (m >= 0.4 * base && m > mosq ? "met" : "MISSED") ": >= 0.4 x null-wal, > mosquitto"
        else bar = (m >= 0.7 * base ? "met" : "MISSED") ": >= 0.7 x null-wal"
      }
      printf "%-20s %-10s %11.0f %8.1f %10s %10s  %s\n", k[1], k[2], m, median(cpus[order[i]]), base ? sprintf("%.2f", m / base) : "-", mosq ? sprintf("%.2f", m / mosq) : "-", bar
    }
  }' "$T/results"
echo
bar() { awk -v v="$1" -v most="$2" 'BEGIN {printf "%s: <= %s MB", v <= most ? "met" : "MISSED", most}'; }
printf '%-31s %8s MB  %s\n' "edge, idle" "$EDGE_IDLE" "$(bar "$EDGE_IDLE" 30)" "hub, idle" "$HUB_IDLE" "$(bar "$HUB_IDLE" 60)"
printf '%-31s %8s MB\n' "edge, at rest after 11 modules" "$EDGE_RSS" "hub, at rest after registering" "$HUB_RSS"
exit
}
