#!/usr/bin/env bash
# Brings what compiles llama.cpp, which the crate llama-cpp-sys-2 carries: CMake, and libclang for its bindings.
#
# Both come out of PyPI wheels into the user's cache, so that nobody has to be root. Cargo is told of them in
# .cargo/config.toml, which is no part of the repository: it names paths of this machine, and `cargo build` needs it as
# much as `make` does. Silent and quick when everything is there.
set -euo pipefail

cmake_version=4.4.5
libclang_version=18.1.1
case "$(uname -m)" in
  x86_64)
    cmake_sha256=85625a9b6d5e88ff99c7eb79123d85570844e77ac076366cf75c609cc0b1b579
    libclang_sha256=c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b
    ;;
  aarch64)
    cmake_sha256=25fc8469e67857124ef10c002331c0ab416eb7b8d9e1d6e4c58e84e730013ece
    libclang_sha256=54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592
    ;;
  *)
    echo "llama: no wheels are pinned for $(uname -m); build with \`--no-default-features\`, which leaves llama.cpp out" >&2
    exit 1
    ;;
esac

scripts="$(cd "$(dirname "$0")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/wattle/llama"
tools="$cache/cmake-$cmake_version-libclang-$libclang_version"

if [ ! -d "$tools" ]; then
  mkdir -p "$cache"
  # Inside the target folder, so that the last step is a rename on one file system.
  work="$(mktemp -d "$cache/.fetch.XXXXXX")"
  trap 'rm -rf "$work"' EXIT
  echo "llama: fetching CMake $cmake_version and libclang $libclang_version from PyPI"
  "$scripts/wheel.sh" "$work" "cmake==$cmake_version" "$cmake_sha256"
  "$scripts/wheel.sh" "$work" "libclang==$libclang_version" "$libclang_sha256"
  python3 - "$work" <<'PYTHON'
import pathlib
import sys
import zipfile

work = pathlib.Path(sys.argv[1])
tools = work / "tools"
for wheel in (work / "wheel").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            # cmake/data/bin/cmake becomes bin/cmake, and ….data/platlib/clang/native/libclang.so lib/libclang.so.
            if member.is_dir():
                continue
            if member.filename.startswith(("cmake/data/bin/", "cmake/data/share/")):
                path = tools / member.filename.removeprefix("cmake/data/")
            elif member.filename.endswith("clang/native/libclang.so"):
                path = tools / "lib" / "libclang.so"
            else:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))
            if path.parent.name in ("bin", "lib"):
                path.chmod(0o755)
PYTHON
  "$work/tools/bin/cmake" --version >/dev/null
  # Another run may have been quicker; its folder is as good.
  mv -T "$work/tools" "$tools" 2>/dev/null || [ -d "$tools" ]
fi

config="$scripts/../.cargo/config.toml"
first_line="# Written by scripts/llama.sh, which writes it again when it has to: what compiles llama.cpp."
if [ -e "$config" ] && [ "$(head -n 1 "$config")" != "$first_line" ]; then
  echo "llama: .cargo/config.toml is not from here; move it to ~/.cargo/config.toml and try again" >&2
  exit 1
fi
# The wheel has no headers of clang's own, such as stddef.h; those of gcc do for bindings. Without a profile llama.cpp
# would have debug information in debug builds, five times the bytes; it is always optimised. Of all that CMake is told, the
# crate looks for changes in variables of its own and of GGML's only, so that a changed file has to be named in one.
wanted="$first_line
[env]
CMAKE = \"$tools/bin/cmake\"
CMAKE_PROJECT_INCLUDE = { value = \"scripts/llama.cmake\", relative = true }
LIBCLANG_PATH = \"$tools/lib\"
BINDGEN_EXTRA_CLANG_ARGS = \"-isystem $(cc -print-file-name=include)\"
LLAMA_LIB_PROFILE = \"Release\"
GGML_WATTLE = \"$(sha256sum "$scripts/llama.cmake" | cut -c 1-12)\""
if [ "$(cat "$config" 2>/dev/null)" != "$wanted" ]; then
  mkdir -p "$(dirname "$config")"
  echo "$wanted" >"$config.$$"
  mv -f "$config.$$" "$config"
fi
