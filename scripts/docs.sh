#!/usr/bin/env bash
# Writes the pages of docs/ that the binary generates, or with --check fails when one of them has drifted.
set -euo pipefail

binary="${CARGO_TARGET_DIR:-target}/debug/wattle"
# Each page, and the arguments of `wattle` that print it.
pages=(
  "docs/cli.md:docs cli"
  "docs/configuration.md:docs configuration"
)

drifted=0
page="$(mktemp)"
trap 'rm -f "$page"' EXIT
for entry in "${pages[@]}"; do
  file="${entry%%:*}"
  read -ra arguments <<<"${entry#*:}"
  "$binary" "${arguments[@]}" >"$page"
  if [ "${1:-}" = --check ]; then
    if ! diff -u --label "$file" --label "wattle ${arguments[*]}" "$file" "$page" | head -n 40; then
      echo "docs: $file differs from what \`wattle ${arguments[*]}\` prints; run \`make docs\`" >&2
      drifted=1
    fi
  elif ! cmp -s "$page" "$file"; then
    mkdir -p "$(dirname "$file")"
    cp "$page" "$file"
    echo "docs: wrote $file"
  fi
done
exit "$drifted"
