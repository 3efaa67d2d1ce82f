#!/usr/bin/env bash
# The main job, end to end: a hub and an edge gateway as two real processes, a
# sensor and a filter as modules on the gateway, their telemetry at the hub.
# Needs neither Docker nor root. DEMO_SECONDS=20 ends by itself and fails unless
# messages arrived. Everything is kept in .demo.
set -euo pipefail
cd "$(dirname "$0")/.."

S=$PWD/bin/selvedge
D=$PWD/.demo
rm -rf "$D" && mkdir -p "$D"
unset SELVEDGE_HUB SELVEDGE_HUB_ADDRESS SELVEDGE_CA
pids=()

stop() {
  trap - EXIT INT TERM
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
}
fail() {
  echo "demo: $1" >&2
  for log in hub edge; do [ -s "$D/$log.log" ] && { echo "--- $log.log" >&2; tail -n 20 "$D/$log.log" >&2; }; done
  stop
  exit 1
}
trap 'stop; exit 1' EXIT
trap 'stop; finish' INT TERM

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# port WANTED: that port, or the next free one above 20000 when it is taken or needs root.
port() {
  local p=$1
  if [ "$p" -lt 1024 ] && [ "$(id -u)" != 0 ] && [ "$p" -lt "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" ]; then
    p=$((20000 + p))
    echo "port $1 needs root, using $p: Azure's SDKs insist on $1, Selvedge's own tools do not" >&2
  fi
  while taken "$p"; do
    local next=$((p < 20000 ? 20000 + p : p + 1))
    echo "port $p is taken, trying $next" >&2
    p=$next
  done
  echo "$p"
}
# ready LOG PID: wait until the program says it accepts connections.
ready() {
  for _ in $(seq 300); do
    grep -q 'selvedge .* ready' "$1" && return 0
    kill -0 "$2" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

MQTT=$(port 8883) AMQP=$(port 5671) HTTPS=$(port 443) OPS=$(port 9600)
EDGE=$(port 18883) EDGEAMQP=$(port 15671)

echo "1. a hub (data in .demo/hub, log in .demo/hub.log)"
"$S" hub run --data "$D/hub" --hostname localhost --mqtt "127.0.0.1:$MQTT" --amqp "127.0.0.1:$AMQP" --https "127.0.0.1:$HTTPS" \
  --ops "127.0.0.1:$OPS" 2>"$D/hub.log" &
pids+=($!)
ready "$D/hub.log" "${pids[0]}" || fail "the hub did not start"
export SELVEDGE_HUB
SELVEDGE_HUB="$("$S" hub connection-string --data "$D/hub" --hostname localhost | sed "s/HostName=localhost/HostName=localhost:$HTTPS/")"
"$S" hub ca --data "$D/hub" >"$D/root.pem"
export SELVEDGE_CA=$D/root.pem

echo "2. a gateway's registration and its deployment: sensor → filter → \$upstream"
"$S" device create gateway-1 --edge >/dev/null
"$S" deployment set-modules gateway-1 deploy/demo/manifest.json --quiet
umask 077
cat >"$D/edge.toml" <<TOML
hostname = "localhost"
trust_bundle_cert = "file://$D/root.pem"

[provisioning]
source = "manual"
connection_string = "$("$S" device connection-string gateway-1 | sed 's/:[0-9]*;/;/')"

[upstream]
amqp = "127.0.0.1:$AMQP"
mqtt = "127.0.0.1:$MQTT"
https = "127.0.0.1:$HTTPS"

[broker]
mqtt = "127.0.0.1:$EDGE"
amqp = "127.0.0.1:$EDGEAMQP"
https = ""
TOML

echo "3. the gateway (data in .demo/edge, log in .demo/edge.log)"
"$S" edge run --config "$D/edge.toml" --data "$D/edge" 2>"$D/edge.log" &
pids+=($!)
ready "$D/edge.log" "${pids[1]}" || fail "the gateway did not start"

cat <<TEXT
4. what arrives at the hub, live. Try in another terminal:
     export SELVEDGE_HUB='…' SELVEDGE_CA=.demo/root.pem      # . .demo/env sets both
     bin/selvedge device list
     bin/selvedge twin show gateway-1 -m filter
     bin/selvedge twin update gateway-1 -m filter --desired '{"TemperatureThreshold":30}'
     bin/selvedge method invoke gateway-1 reset -m sensor
     bin/selvedge edge list --data .demo/edge
     bin/selvedge edge logs sensor -f --data .demo/edge
TEXT
printf "export SELVEDGE_HUB='%s'\nexport SELVEDGE_CA='%s'\n" "$SELVEDGE_HUB" "$SELVEDGE_CA" >"$D/env"

finish() {
  local n
  n=$(wc -l <"$D/events.txt")
  if [ "$n" -gt 0 ]; then
    echo "demo: $n messages went sensor → filter → gateway → hub; stopped cleanly"
    exit 0
  fi
  echo "demo: no message arrived; see .demo/hub.log and .demo/edge.log" >&2
  exit 1
}

: >"$D/events.txt"
"$S" events --device gateway-1 --since 1h --quiet > >(tee "$D/events.txt") &
events=$!
pids+=($events)
if [ -n "${DEMO_SECONDS:-}" ]; then
  sleep "$DEMO_SECONDS" &
  wait $!
else
  echo "   Ctrl-C ends."
  wait $events || fail "the event stream broke off"
fi
stop
finish
