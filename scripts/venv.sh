#!/usr/bin/env bash
# Makes a pinned Python environment in the user's cache and prints the path of its Python.
#
#   python="$(scripts/venv.sh test)"     from scripts/requirements-test.txt
#
# The folder's name holds the requirements' hash and Python's version, so that a change of either makes a new one.
set -euo pipefail

name="${1:?give the name of an environment: test or bench}"
requirements="$(dirname "$0")/requirements-$name.txt"
[ -f "$requirements" ] || {
  echo "venv: there is no $requirements; name one of the scripts/requirements-*.txt" >&2
  exit 1
}

key="$({ python3 --version && cat "$requirements"; } | sha256sum | cut -c 1-12)"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/venv/$name-$key"
python="$folder/bin/python"

if [ ! -f "$folder/ready" ]; then
  mkdir -p "$(dirname "$folder")"
  # Two runs at once would install into the same folder.
  exec 9>"$folder.lock"
  flock 9
  if [ ! -f "$folder/ready" ]; then
    echo "venv: making the Python environment '$name'" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    # The list is complete, as `pip check` proves, so that nothing has to be resolved; and compiling all that is installed
    # would take longer than the rest, most of it for modules that nobody imports.
    "$python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-deps --no-compile \
      --requirement "$requirements" >&2
    "$python" -m pip --disable-pip-version-check check >&2
    touch "$folder/ready"
  fi
fi
echo "$python"
