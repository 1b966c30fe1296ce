#!/usr/bin/env bash
# Runs tests/python against the debug binary, in the pinned environment of scripts/requirements-test.txt.
set -euo pipefail

target="${CARGO_TARGET_DIR:-target}"
WATTLE_BINARY="$(realpath "$target/debug/wattle")"
export WATTLE_BINARY
python="$(scripts/venv.sh test)"
# Compiled modules are kept beside the environment, and not in the tree.
PYTHONPYCACHEPREFIX="$(dirname "$(dirname "$python")")/pycache"
export PYTHONPYCACHEPREFIX
exec "$python" -m unittest discover --start-directory tests/python "$@"
