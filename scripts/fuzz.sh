#!/usr/bin/env bash
# Run every fuzz target for the time given (30s), one after another, and stop at the
# first that finds something: fuzz.sh [TIME] [PATTERN OF TARGETS]
set -euo pipefail
time=${1:-30s} only=${2:-.}
cd "$(dirname "$0")/.."

targets=$(git ls-files --cached --others --exclude-standard '*_test.go' | xargs -r grep -oHE '^func Fuzz[A-Za-z0-9_]*' |
  sed -E 's#/[^/]*:func # #' | sort -u | grep -E -- "$only" || true)
[ -n "$targets" ] || { echo "fuzz: no target matches $only" >&2; exit 1; }
ran=0
while read -r dir target; do
  echo "== $dir $target"
  go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null
  ran=$((ran + 1))
done <<<"$targets"
echo "fuzz: $ran targets, $time each, nothing found"
