#!/usr/bin/env bash
# Runs a command with a Docker Engine: the one that answers already, or else one of its own, which ends with the command
# and leaves nothing behind. The latter needs root.
#
#   scripts/docker.sh COMMAND [ARGUMENT…]
#   scripts/docker.sh --possible           whether that can be done here; says what is missing. Where CI is set it must be.
set -euo pipefail

fail() {
  echo "docker: $*" >&2
  exit 1
}

[ "$#" -gt 0 ] || fail "say what to run: scripts/docker.sh COMMAND"
if [ "$1" = --possible ]; then
  [ -z "${CI:-}" ] || exit 0
  if ! docker info >/dev/null 2>&1 && [ "$(id -u)" -ne 0 ]; then
    echo "NOT RUN: the tests of containers, since no Docker Engine answers; start one, and run make test-docker" >&2
    exit 1
  fi
  exit 0
fi
if docker info >/dev/null 2>&1; then
  exec "$@"
fi
[ "$(id -u)" -eq 0 ] || fail "no Docker Engine answers, and only root can start one; start Docker, or run this as root"

folder="$(mktemp -d)"
export DOCKER_HOST="unix://$folder/docker.sock"
dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
  >"$folder/log" 2>&1 &
engine=$!

# The engine leaves a name of a network mounted behind.
end() {
  kill "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  cut -d ' ' -f 2 /proc/mounts | { grep "^$folder/" || true; } | sort -r | xargs --no-run-if-empty umount
  rm -rf --one-file-system "$folder"
}
trap end EXIT

for _ in $(seq 300); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || fail "the engine ended: $(tail -n 3 "$folder/log")"
  sleep 0.1
done
docker info >/dev/null 2>&1 || fail "the engine does not answer after 30 s: $(tail -n 3 "$folder/log")"
"$@"
