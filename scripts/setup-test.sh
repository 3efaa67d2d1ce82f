#!/usr/bin/env bash
# Install what the tests need beyond Go: a C compiler for the race detector, Node
# and the Azure SDKs, mosquitto's clients, Qpid Proton, openssl. Quick where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

need=()
command -v gcc >/dev/null || need+=(gcc libc6-dev)
command -v node >/dev/null || need+=(nodejs)
command -v npm >/dev/null || need+=(npm)
command -v mosquitto_pub >/dev/null || need+=(mosquitto-clients)
/usr/bin/python3 -c 'import proton' 2>/dev/null || need+=(python3-qpid-proton)
command -v openssl >/dev/null || need+=(openssl)
[ -e /etc/ssl/certs/ca-certificates.crt ] || need+=(ca-certificates)
if [ ${#need[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "the tests need: ${need[*]}; install them, or run this as root" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

cd test/sdk
# npm keeps a copy of the lock file there: the same, so nothing to do.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --loglevel=error
  touch node_modules/.package-lock.json
fi
