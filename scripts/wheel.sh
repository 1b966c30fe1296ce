#!/usr/bin/env bash
# Downloads one wheel from PyPI into a folder; pip checks its hash before it is kept.
#
#   scripts/wheel.sh FOLDER NAME==VERSION SHA256 [PIP-OPTION...]
set -euo pipefail

folder="$1" requirement="$2" sha256="$3"
shift 3

# Debian's Python comes without pip; a throw-away virtual environment brings its own.
if python3 -m pip --version >/dev/null 2>&1; then
  pip=(python3 -m pip)
else
  python3 -m venv "$folder/venv"
  pip=("$folder/venv/bin/python" -m pip)
fi

echo "$requirement --hash=sha256:$sha256" >"$folder/requirements.txt"
"${pip[@]}" download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: "$@" \
  --requirement "$folder/requirements.txt" --dest "$folder/wheel"
