#!/usr/bin/env bash
# Brings a fresh Debian machine (Rust, gcc, make and Python 3) to where Wattle builds.
#
#   scripts/setup.sh         what `make quickstart` needs
#   scripts/setup.sh test    what `make test` needs as well: rustfmt and clippy, and the curl that the documents call
#   scripts/setup.sh docker  what `make test-docker` needs as well: a Docker Engine, and a registry to push to
#   scripts/setup.sh bench   what `make bench` needs as well: wrk, whose figures people know, and which no crate builds
#
# Missing Debian packages are installed as root or with a sudo that asks for no password; anybody else is told in one
# line what to install. Silent and quick when everything is there.
set -euo pipefail

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v cargo >/dev/null || fail "cargo is missing; install Rust as https://rustup.rs says and open a new shell"

# Cargo's own words on a compiler that is too old come late, and once for each crate.
needed="$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "$0")/../Cargo.toml")"
present="$(rustc --version | cut -d ' ' -f 2)"
if [ "$(printf '%s\n' "$needed" "${present%%-*}" | sort --version-sort | head -n 1)" != "$needed" ]; then
  fail "Rust is $present and Wattle needs $needed; run \`rustup update stable\`, or install Rust as https://rustup.rs says"
fi

# The gcc package without the C library's headers compiles nothing, so that a program is compiled and linked.
compiles() {
  echo 'int main(void) { return 0; }' | cc -include stdio.h -x c -o /dev/null - 2>/dev/null
}

# llama.cpp is C++.
compiles_cpp() {
  echo 'int main() { return 0; }' | c++ -include vector -x c++ -o /dev/null - 2>/dev/null
}

# Debian splits venv's other half, ensurepip, from Python.
makes_environments() {
  python3 -c 'import ensurepip, venv' 2>/dev/null
}

packages=()
compiles || packages+=(gcc libc6-dev)
compiles_cpp || packages+=(g++)
command -v python3 >/dev/null || packages+=(python3)
makes_environments || packages+=(python3-venv)
if [ "${1:-}" = test ] && ! command -v curl >/dev/null; then
  packages+=(curl)
fi
if [ "${1:-}" = docker ]; then
  # Any engine will do that answers already.
  docker info >/dev/null 2>&1 || { command -v docker >/dev/null && command -v dockerd >/dev/null; } || packages+=(docker.io)
  command -v docker-registry >/dev/null || packages+=(docker-registry)
fi
if [ "${1:-}" = bench ] && ! command -v wrk >/dev/null; then
  packages+=(wrk)
fi

if [ "${#packages[@]}" -gt 0 ]; then
  advice="run \`apt-get install ${packages[*]}\` as root and try again"
  command -v apt-get >/dev/null || fail "this machine has no apt-get; install what Debian calls ${packages[*]} and try again"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || fail "$advice"
  fi
  echo "setup: installing ${packages[*]}"
  log="$(mktemp)"
  if ! {
    "${as_root[@]}" apt-get update --quiet &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet --yes --no-install-recommends "${packages[@]}"
  } >"$log" 2>&1; then
    fail "apt-get failed (its words are in $log); $advice"
  fi
  rm -f "$log"
  compiles || fail "cc still compiles nothing; install gcc and libc6-dev"
  compiles_cpp || fail "c++ still compiles nothing; install g++"
  makes_environments || fail "$(command -v python3) still lacks venv and ensurepip; put a Python 3 that has them first on PATH"
fi

if [ "${1:-}" = test ]; then
  components=()
  cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
  cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
  if [ "${#components[@]}" -gt 0 ]; then
    command -v rustup >/dev/null || fail "cargo has no ${components[*]}; install the packages of that name"
    rustup --quiet component add "${components[@]}" || fail "rustup could not add ${components[*]}; see its words above"
  fi
fi
