#!/usr/bin/env bash
# Runs one step of the Makefile under a name and says how long it took.
#
#   scripts/step.sh NAME COMMAND...
set -uo pipefail

name="$1"
shift
started=$SECONDS
echo "==> $name"
"$@"
status=$?
if [ "$status" -eq 0 ]; then
  echo "    $name: $((SECONDS - started)) s"
else
  echo "    $name: FAILED after $((SECONDS - started)) s (exit status $status)" >&2
fi
exit "$status"
