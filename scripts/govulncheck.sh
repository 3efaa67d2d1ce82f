#!/usr/bin/env bash
# Look for known vulnerabilities; say so plainly when the database is out of reach.
set -uo pipefail
out=$(go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./... 2>&1)
rc=$?
echo "$out"
if [ $rc -ne 0 ] && grep -qiE 'fetching vulnerabilities|dial tcp|no such host|vuln.go.dev' <<< "$out"; then
  echo "govulncheck: its database cannot be reached from here; nothing was checked"
  exit 0
fi
exit $rc
