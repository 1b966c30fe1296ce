#!/usr/bin/env python3
"""Checks the edges between the workspace's crates: imports only go down a level, and siblings never import each other."""

import json
import subprocess
import sys

LEVELS = {
    "wattle-core": 0,
    "wattle-kernels": 0,
    "wattle-engine": 1,
    "wattle-store": 1,
    "wattle-meter": 1,
    "wattle-train": 2,
    "wattle-deploy": 2,
    "wattle-serve": 2,
    "wattle-api": 3,
    "wattle": 4,
}


def main():
    command = ["cargo", "metadata", "--no-deps", "--format-version=1"]
    answer = subprocess.run(command, stdout=subprocess.PIPE)
    if answer.returncode != 0:
        return answer.returncode
    metadata = json.loads(answer.stdout)
    members = {package["name"]: package for package in metadata["packages"]}
    problems = [f"{name} has no level; give it one in scripts/edges.py" for name in members if name not in LEVELS]
    for name, package in members.items():
        for dependency in package["dependencies"]:
            target = dependency["name"]
            if dependency.get("path") is None or name not in LEVELS or target not in LEVELS:
                continue
            if LEVELS[target] >= LEVELS[name]:
                kind = f" ({dependency['kind']})" if dependency["kind"] else ""
                problems.append(
                    f"{name} (level {LEVELS[name]}) must not import {target} (level {LEVELS[target]}){kind}; "
                    "imports only go down"
                )
    for problem in problems:
        print(f"edges: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
