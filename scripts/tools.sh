#!/usr/bin/env bash
# Finds the cargo tools that `make lint` and `make test` call, and builds those that are missing.
#
#   scripts/tools.sh NAME...     cargo-deny, cargo-machete, cargo-nextest
#
# A tool on PATH is taken as it is; otherwise it is installed at the version pinned below into the user's cache, without
# optimisation, because it is built far more often than it is waited for. The Makefile puts that folder at the end of PATH.
set -euo pipefail

declare -A versions=(
  [cargo-deny]=0.20.2
  [cargo-machete]=0.9.2
  [cargo-nextest]=0.9.143
)

root="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/tools"
build="$root/build"

for tool in "$@"; do
  version="${versions[$tool]:-}"
  if [ -z "$version" ]; then
    echo "tools: no version of $tool is pinned; add it to scripts/tools.sh" >&2
    exit 1
  fi
  if command -v "$tool" >/dev/null || [ -x "$root/bin/$tool" ]; then
    continue
  fi
  started=$SECONDS
  echo "tools: building $tool $version"
  mkdir -p "$root"
  # One build folder for all of them, since they share many dependencies.
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
    cargo install --quiet --locked --debug --no-track --root "$root" --target-dir "$build" "$tool@$version"
  echo "tools: $tool $version took $((SECONDS - started)) s"
done
rm -rf "$build"
