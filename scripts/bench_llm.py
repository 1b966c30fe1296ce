#!/usr/bin/env python3
"""Language models beside llama.cpp's own server: the same file, threads and callers, in turn, the median of the rounds.

    scripts/bench_llm.py --llama-server FOLDER [--wattle PROGRAM] [--rounds 3] [--only PART] [--json FILE]

Needs numpy. The model has SmolLM-135M's shape and random weights, at Q8_0. The parts:

- `one`: one caller, a prompt of about 130 tokens, 128 tokens of answer;
- `eight`: 8 callers with prompts of their own of about 130 tokens, 64 tokens of answer;
- `shared`: 8 callers, 24 requests whose first 500 tokens are the same, 64 tokens of answer;
- `long`: 8 callers with prompts of their own of about 500 tokens, 64 tokens of answer;
- `arriving`: the same, and the callers begin half a second one after the other. In all other parts they begin at once, so that
  a server that reads all prompts before it writes the answers goes on in lockstep with them;
- `residency`: ten such models behind a budget for three, and 200 requests at random; Wattle alone.
"""

import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from serving import gguf, speech
from serving.processes import ROOT, Server, Wattle, free_port

SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "ignore_eos": True}
# Part, callers, requests, tokens of the prompt, of them in common, tokens of the answer, seconds between the callers.
PARTS = {
    "one": (1, 4, 130, 0, 128, 0.0),
    "eight": (8, 24, 130, 0, 64, 0.0),
    "shared": (8, 24, 530, 500, 64, 0.0),
    "long": (8, 24, 500, 0, 64, 0.0),
    "arriving": (8, 24, 500, 0, 64, 0.5),
}
ASKED = {
    "one": "tokens per second at least 1.0",
    "eight": "tokens per second at least 1.0",
    "shared": "tokens per second at least 3, p95 to the first token at most 0.25",
    "long": "p99 between tokens at most 0.25, tokens per second at least 1.0",
    "arriving": "as of `long`",
}
FIGURES = [
    ("tokens_per_second", "tokens/s", "{:.1f}"),
    ("first_p50_ms", "first token p50 (ms)", "{:.0f}"),
    ("first_p95_ms", "first token p95 (ms)", "{:.0f}"),
    ("between_p50_ms", "between tokens p50 (ms)", "{:.1f}"),
    ("between_p99_ms", "between tokens p99 (ms)", "{:.1f}"),
]


def main():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wattle", default=target / "wattle", help="the release binary")
    parser.add_argument("--llama-server", type=pathlib.Path, help="the folder that scripts/llama_server.sh prints")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--only", choices=[*PARTS, "residency"], action="append", help="one part; may be given again")
    parser.add_argument("--json", help="write the numbers to this file too")
    arguments = parser.parse_args()
    wanted = arguments.only or [*PARTS, "residency"]

    report = {"rounds": arguments.rounds}
    with tempfile.TemporaryDirectory(prefix="wattle-bench-llm-") as folder:
        model = pathlib.Path(folder) / "smollm.gguf"
        gguf.write(model, "smollm")
        parts = [part for part in PARTS if part in wanted]
        if parts:
            report["peers"] = compare(arguments, model, parts)
        if "residency" in wanted:
            report["residency"] = residency(arguments, pathlib.Path(folder))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=2))


def compare(arguments, model, parts):
    """Each part and round from one peer after the other, which is started anew for each part."""
    measured = {part: {} for part in parts}
    for part in parts:
        for number in range(arguments.rounds):
            for name, start in [("wattle", wattle), ("llama-server", llama_server)]:
                with start(arguments, model) as (url, extra):
                    measure(url, extra, part, -1)
                    measured[part].setdefault(name, []).append(measure(url, extra, part, number))
        table(part, measured[part])
    return measured


def measure(url, extra, part, number):
    """One round of a part, or, of the number -1, a brief one before it that warms everything."""
    callers, requests, prompt, common, answer, apart = PARTS[part]
    drawn = random.Random(f"{part} {number}")
    beginning = words(drawn, common)
    if number < 0:
        requests, answer, apart = callers, 8, 0.0
    bodies = [
        {"prompt": beginning + words(drawn, prompt - common), "max_tokens": answer, **SAMPLING, **extra, "seed": seed}
        for seed in range(requests)
    ]
    answers, seconds = speech.run(url, callers, bodies, apart)
    failed = [one.error for one in answers if one.error or one.tokens == 0]
    if failed:
        sys.exit(f"bench_llm: {part} at {url}: {len(failed)} of {requests} failed: {failed[0]}")
    firsts = [one.first_seconds for one in answers if one.first_seconds is not None]
    gaps = [gap for one in answers for gap in one.gaps]
    return {
        "tokens_per_second": sum(one.tokens for one in answers) / seconds,
        "first_p50_ms": 1000 * speech.quantile(firsts, 0.5),
        "first_p95_ms": 1000 * speech.quantile(firsts, 0.95),
        "between_p50_ms": 1000 * speech.quantile(gaps, 0.5),
        "between_p99_ms": 1000 * speech.quantile(gaps, 0.99),
        "cached_tokens": sum(one.cached for one in answers),
    }


def words(drawn, length):
    """A text of so many letters and spaces, each of which is a token."""
    text = ""
    while len(text) < length:
        text += "".join(drawn.choice("abcdefgijklmnopqrsuvwxyz") for _ in range(drawn.randint(2, 7))) + " "
    return text[:length]


def table(part, peers):
    callers, requests, prompt, common, answer, _ = PARTS[part]
    shared = f", {common} of them in common" if common else ""
    print(f"\n`{part}`: {callers} callers, {requests} requests of {prompt} tokens{shared}, {answer} tokens of answer")
    print(f"(asked: {ASKED[part]})\n")
    print("| | Wattle | llama-server | ratio |\n|---|---:|---:|---:|")
    for key, name, form in FIGURES:
        ours, theirs = (statistics.median(one[key] for one in peers[peer]) for peer in ("wattle", "llama-server"))
        print(f"| {name} | {form.format(ours)} | {form.format(theirs)} | {ours / theirs:.2f} |")
    sys.stdout.flush()


class wattle:
    """A server with the model deployed, and what its calls name it. Eight calls of 1024 tokens have room, as in the other's
    slots."""

    def __init__(self, arguments, model):
        self.server = Wattle(arguments.wattle)
        self.model = model

    def __enter__(self):
        self.server.__enter__()
        self.server.call("models", "import", "--name", "bench", self.model)
        self.server.call("deploy", "bench", "--threads", "2", "--context", "1024", "--kv-cells", "8192")
        return self.server.url, {"model": "bench"}

    def __exit__(self, *error):
        self.server.__exit__(*error)


class llama_server:
    """llama.cpp's server, with 8 slots of 1024 tokens."""

    def __init__(self, arguments, model):
        port = free_port()
        command = [
            arguments.llama_server / "llama-server", "--model", model, "--parallel", "8", "--ctx-size", "8192",
            "--threads", "2", "--threads-batch", "2", "--host", "127.0.0.1", "--port", port, "--offline",
        ]  # fmt: skip
        self.server = Server(command, f"http://127.0.0.1:{port}")

    def __enter__(self):
        self.server.__enter__()
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.server.url + "/health", timeout=5).close()
                return self.server.url, {}
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit("bench_llm: llama-server is not ready")
                time.sleep(0.1)

    def __exit__(self, *error):
        self.server.__exit__(*error)


def residency(arguments, folder):
    """Ten models, memory for three: whether calls of all of them are answered, and what loading them costs."""
    names = [f"model-{number}" for number in range(10)]

    def deploy(server, seed, name):
        file = folder / f"{name}.gguf"
        gguf.write(file, "smollm", seed)
        server.call("models", "import", "--name", name, file)
        file.unlink()
        server.call("deploy", name, "--threads", "2", "--kv-cells", "4096")

    with Wattle(arguments.wattle) as server:
        deploy(server, 0, names[0])
        speech.run(server.url, 1, [{"model": names[0], "prompt": "how large are you", "max_tokens": 1}])
        metrics = urllib.request.urlopen(server.url + "/metrics", timeout=10).read().decode()
        one_bytes = total(metrics, r"wattle_model_resident_bytes\{.*")
    # Three, and what rounding and a grown buffer take.
    with Wattle(arguments.wattle, "--memory-budget", f"{int(3.2 * one_bytes / 2**20)}MiB") as server:
        before, before_anonymous = resident(server), resident(server, "Pss_Anon")
        for seed, name in enumerate(names):
            deploy(server, seed, name)
        drawn = random.Random(1)
        bodies = [
            {"model": drawn.choice(names), "prompt": words(drawn, 60), "max_tokens": 8, **SAMPLING} for _ in range(200)
        ]
        answers, seconds = speech.run(server.url, 4, bodies)
        failed = [one.error for one in answers if one.error or one.tokens == 0]
        metrics = urllib.request.urlopen(server.url + "/metrics", timeout=10).read().decode()
        loads = total(metrics, r"wattle_model_load_duration_seconds_count\{.*")
        evictions = total(metrics, r'wattle_model_evictions_total\{.*reason="room".*')
        joules = total(metrics, r'wattle_energy_joules_total\{.*component="load".*')
        most = resident(server)
        for name in names:
            request = urllib.request.Request(f"{server.url}/api/v1/deployments/{name}/unload", method="POST", data=b"")
            urllib.request.urlopen(request, timeout=60).close()
        after, deadline = resident(server), time.monotonic() + 30
        while after > 1.1 * before and time.monotonic() < deadline:
            time.sleep(0.5)
            after = resident(server)
        after_anonymous = resident(server, "Pss_Anon")
    report = {
        "model_mb": one_bytes / 2**20, "requests": len(answers), "failed": len(failed), "seconds": seconds,
        "loads": loads, "load_seconds": total(metrics, r"wattle_model_load_duration_seconds_sum\{.*"),
        "evictions": evictions,
        "load_joules": joules, "resident_before_mb": before, "resident_with_models_mb": most,
        "resident_after_mb": after, "not_from_files_before_mb": before_anonymous,
        "not_from_files_after_mb": after_anonymous,
        "first_p50_ms": 1000 * speech.quantile([one.first_seconds or 0 for one in answers], 0.5),
        "first_p95_ms": 1000 * speech.quantile([one.first_seconds or 0 for one in answers], 0.95),
    }  # fmt: skip
    print("\n`residency`: 10 models, memory for 3, 200 requests at random from 4 callers\n")
    print("| | |\n|---|---:|")
    for key, value in report.items():
        print(f"| {key.replace('_', ' ')} | {value:.1f} |")
    if failed:
        print(f"\nfailed: {failed[0]}")
    return report


def resident(server, key="Pss"):
    """Megabytes of the server and all its children, of what they share with others their part; of the key `Pss_Anon`, without
    what is in files as well."""
    tree = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], check=True, stdout=subprocess.PIPE, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in tree.splitlines()]
    own = server.process.pid
    megabytes = 0
    for pid in [own, *(pid for pid, parent in pairs if parent == own)]:
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        megabytes += int(re.search(rf"^{key}: +(\d+)", rollup, re.M).group(1)) / 1024
    return megabytes


def total(metrics, pattern):
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if re.match(pattern, line))


if __name__ == "__main__":
    main()
