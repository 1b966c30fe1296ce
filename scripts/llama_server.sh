#!/usr/bin/env bash
# Builds the peer of `make bench-llm`, llama.cpp's own server, and prints the folder of its programs.
#
# Its source is what PyPI's llama-cpp-python carries, pinned. It stays in the user's cache. Silent and quick when it is there.
set -euo pipefail

version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

scripts="$(cd "$(dirname "$0")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/wattle"
target="$cache/llama-server/$version"
cmake="$(sed -n 's/^CMAKE = "\(.*\)"$/\1/p' "$scripts/../.cargo/config.toml")"

if [ ! -x "$target/llama-server" ]; then
  mkdir -p "$cache/llama-server"
  work="$(mktemp -d "$cache/llama-server/.build.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  echo "llama-server: fetching llama-cpp-python $version from PyPI" >&2
  python3 -m venv "$work/venv"
  # pip asks the package for its metadata, for which it needs what builds it.
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check scikit-build-core==1.1.2 >&2
  echo "llama-cpp-python==$version --hash=sha256:$sha256" >"$work/requirements.txt"
  PATH="$(dirname "$cmake"):$PATH" "$work/venv/bin/python" -m pip download --quiet --disable-pip-version-check \
    --require-hashes --no-deps --no-build-isolation --no-binary llama-cpp-python \
    --requirement "$work/requirements.txt" --dest "$work" >&2
  tar -xzf "$work/llama_cpp_python-$version.tar.gz" -C "$work"
  echo "llama-server: building it, which takes about ten minutes on two cores" >&2
  # The same instruction sets as ours: see scripts/llama.cmake for those that are left out.
  flags=""
  if [ "$(uname -m)" = x86_64 ]; then
    flags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
  fi
  "$cmake" -S "$work/llama_cpp_python-$version/vendor/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_APP=OFF \
    >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
  "$cmake" --build "$work/build" --parallel "$(nproc)" --target llama-server llama-bench >>"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; exit 1; }
  rm -rf "$target"
  mv -T "$work/build/bin" "$target"
fi
echo "$target"
