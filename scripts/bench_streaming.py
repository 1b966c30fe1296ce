"""Measures that a table larger than memory can be added and trained on: time, and peak memory of server and trainer.

Usage: scripts/bench_streaming.py [GIGABYTES] [WATTLE]   (default: 5, target/release/wattle)
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

GIGABYTES = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
WATTLE = sys.argv[2] if len(sys.argv) > 2 else "target/release/wattle"
FEATURES = 20
CHUNK_ROWS = 100_000
MEMORY = "512MiB"


def write_table(path):
    """CSV with numbers, a category and gaps: one chunk of random rows, repeated until the file is large enough."""
    generator = random.Random(1)
    weights = [generator.gauss(0, 1) for _ in range(FEATURES)]
    lines = []
    for _ in range(CHUNK_ROWS):
        x = [generator.gauss(0, 1) for _ in range(FEATURES)]
        y = sum(a * b for a, b in zip(weights, x)) + generator.gauss(0, 0.1)
        colour = generator.choice(["red", "green", "blue", ""])
        lines.append(",".join(f"{value:.6f}" for value in x) + f",{y:.6f},{colour}\n")
    chunk = "".join(lines).encode()
    with open(path, "wb") as file:
        file.write((",".join(f"x{i}" for i in range(FEATURES)) + ",y,colour\n").encode())
        for _ in range(max(1, round(GIGABYTES * 1e9 / len(chunk)))):
            file.write(chunk)
    return path.stat().st_size


def peak_mib(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def child_of(pid):
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(pid):
                return int(entry.name)
        except OSError:
            continue
    return None


def main():
    with tempfile.TemporaryDirectory(prefix="wattle-bench-") as folder:
        folder = pathlib.Path(folder)
        size = write_table(folder / "table.csv")
        server = subprocess.Popen(
            [WATTLE, "serve", "--no-config", "--listen", "127.0.0.1:0", "--data-dir", folder / "data"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = next(word for word in server.stdout.readline().split() if word.startswith("http://"))
            environment = dict(os.environ, WATTLE_URL=url)

            def wattle(*arguments):
                output = subprocess.run(
                    [WATTLE, *arguments, "-o", "json"], env=environment, check=True, capture_output=True, text=True
                )
                return json.loads(output.stdout)

            started = time.monotonic()
            rows = wattle("data", "add", "table", str(folder / "table.csv"))["rows"]
            add_seconds = time.monotonic() - started
            (folder / "table.csv").unlink()

            started = time.monotonic()
            job = wattle(
                "train", "--algorithm", "linear-regression", "--data", "table", "--target", "y",
                "--memory", MEMORY, "--detach",
            )  # fmt: skip
            trainer_peak = 0.0
            while job["state"] in ("queued", "running"):
                trainer_peak = max(trainer_peak, peak_mib(child_of(server.pid)) or 0.0)
                time.sleep(0.25)
                job = wattle("jobs", "show", job["id"])
            train_seconds = time.monotonic() - started
            result = {
                "csv_gigabytes": round(size / 1e9, 2),
                "rows": rows,
                "add_seconds": round(add_seconds, 1),
                "server_peak_mib": round(peak_mib(server.pid)),
                "train_state": job["state"],
                "train_seconds": round(train_seconds, 1),
                "trainer_memory_setting": MEMORY,
                "trainer_peak_mib": round(trainer_peak),
            }
            print(json.dumps(result, indent=2))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
