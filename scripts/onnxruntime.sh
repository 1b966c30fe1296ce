#!/usr/bin/env bash
# Puts the ONNX Runtime shared library into the user's cache, where the binary looks for it.
#
# The library comes out of the PyPI wheel `onnxruntime`, pinned by version and by the SHA-256 of the wheel for each
# architecture; pip checks the hash before anything is unpacked. A library that is there already is left alone.
set -euo pipefail

version=1.32.0
# Every wheel of one architecture holds the same library; the one for CPython 3.12 is taken, whatever Python runs here.
python_version=3.12
case "$(uname -m)" in
  x86_64)
    platform=manylinux_2_28_x86_64
    sha256=99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8
    ;;
  aarch64)
    platform=manylinux_2_28_aarch64
    sha256=e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054
    ;;
  *)
    echo "onnxruntime: no wheel is pinned for $(uname -m); build ONNX Runtime $version and name its library in ORT_DYLIB_PATH" >&2
    exit 1
    ;;
esac

folder="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/onnxruntime/$version"
library="$folder/libonnxruntime.so"
if [ -s "$library" ]; then
  exit 0
fi

mkdir -p "$folder"
# Inside the target folder, so that the last step is a rename on one file system.
work="$(mktemp -d "$folder/.fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "onnxruntime: fetching $version ($platform) from PyPI"
"$(dirname "$0")/wheel.sh" "$work" "onnxruntime==$version" "$sha256" \
  --implementation cp --python-version "$python_version" --abi "cp${python_version/./}" --platform "$platform"

python3 - "$work"/wheel/*.whl "onnxruntime/capi/libonnxruntime.so.$version" "$work/libonnxruntime.so" <<'PYTHON'
import os
import shutil
import sys
import zipfile

wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
    out.flush()
    os.fsync(out.fileno())
os.chmod(target, 0o755)
PYTHON
mv -f "$work/libonnxruntime.so" "$library"
echo "onnxruntime: $library"
