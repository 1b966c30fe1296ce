#!/usr/bin/env python3
"""Serving speed, beside what else answers the same call: one run, all peers taking turns, the median of the rounds.

    scripts/bench_serving.py [--wattle PROGRAM] [--bare PROGRAM] [--rounds 3] [--seconds 3] [--only PART] [--json FILE]

Needs `wrk`, and numpy, flask, gunicorn, onnx and onnxruntime. The parts:

- `predict`: the founding example, `POST /predict` with one row, under wrk: Wattle, Flask's development server, gunicorn
  with two workers, and a bare axum handler that answers a constant; 1 to 1,000 connections for the two that take them;
- `resnet`: ResNet-18 by binary tensors of the Open Inference Protocol, one image a call, from one caller and from 16, beside
  ONNX Runtime called from Python threads in its own process;
- `many`: a hundred models behind a memory budget for ten: whether calls of all of them fail, how long a cold call takes,
  and a warm one while others are loaded;
- `idle`: memory and processor time of a server that nobody calls.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from serving import many, processes
from serving.processes import ROOT, Wattle, in_process, wrk

CONNECTIONS = [1, 8, 64, 256, 1000]
# One process, or two, in Python: more connections only make its queue longer.
PYTHON_CONNECTIONS = [8, 64]
CALLERS = [1, 16]
IDLE_SECONDS = 20


def main():
    parts = {"predict": predict, "resnet": resnet, "many": many_models, "idle": idle}
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wattle", default=target / "wattle", help="the release binary")
    parser.add_argument("--bare", default=target / "bare", help="the bare handler's release binary")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--seconds", type=int, default=3, help="how long each measurement lasts")
    parser.add_argument("--only", choices=parts, action="append", help="one part; may be given again")
    parser.add_argument("--json", help="write the numbers to this file too")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("bench_serving: wrk is missing; `scripts/setup.sh bench` installs it")
    # A thousand connections are as many files, here and in the servers.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    report = {"machine": machine(), "rounds": arguments.rounds, "seconds": arguments.seconds}
    for name, part in parts.items():
        if not arguments.only or name in arguments.only:
            report[name] = part(arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def predict(arguments):
    """Requests a second and latency of one row's call, by server and connections."""
    with contextlib.ExitStack() as stack:
        wattle = stack.enter_context(Wattle(arguments.wattle))
        wattle.deploy_founding()
        servers = {
            "Wattle": wattle,
            "bare handler": stack.enter_context(processes.Server([arguments.bare])),
            "gunicorn, 2 workers": stack.enter_context(processes.gunicorn(sys.executable)),
            "Flask's server": stack.enter_context(processes.flask(sys.executable)),
        }
        for server in servers.values():
            assert server.post("/predict", {"x": [1.0]}) == {"y_pred": [[3.0]]}

        def measure(name, connections):
            return wrk(servers[name], connections, arguments.seconds)

        few = {name: PYTHON_CONNECTIONS for name in ["gunicorn, 2 workers", "Flask's server"]}
        cases = [(name, count) for count in CONNECTIONS for name in servers if count in few.get(name, CONNECTIONS)]
        measured = in_turn(measure, cases, arguments.rounds)
    show("POST /predict, one row", ["server", "connections"], measured)
    found = {f"{name} at {count}": figures for (name, count), figures in measured.items()}
    targets = {}
    for count in PYTHON_CONNECTIONS:
        ours, bare = (measured[name, count] for name in ["Wattle", "bare handler"])
        targets |= {
            f"rate by Flask's server's at {count}": (
                ours["per_second"] / measured["Flask's server", count]["per_second"], ">=", 30),
            f"rate by the bare handler's at {count}": (ours["per_second"] / bare["per_second"], ">=", 0.6),
            f"p99 by the bare handler's at {count}": (ours["p99_ms"] / bare["p99_ms"], "<=", 1.5),
        }  # fmt: skip
    rates = [measured["Wattle", count]["per_second"] for count in CONNECTIONS]
    targets["lowest rate from 8 to 1000 connections by the highest"] = (min(rates[1:]) / max(rates[1:]), ">=", 0.5)
    return {"figures": found, "targets": judge(targets)}


def resnet(arguments):
    """Calls a second and latency of one image's call."""
    with tempfile.TemporaryDirectory(prefix="wattle-bench-") as folder, Wattle(arguments.wattle) as wattle:
        path = pathlib.Path(folder) / "resnet18.onnx"
        subprocess.run([sys.executable, ROOT / "scripts" / "make_resnet18.py", path], check=True)
        wattle.call("models", "import", "--name", "resnet18", path)
        wattle.call("deploy", "resnet18")
        # It takes some tens of calls to say anything of a p99.
        seconds = 2 * arguments.seconds

        def measure(name, callers):
            if name == "in process":
                return in_process(path, callers, seconds)
            return wattle.bench("resnet18", "--protocol", "v2-binary", "--concurrency", callers,
                                "--duration", f"{seconds}s", "--warmup", "500ms")  # fmt: skip

        cases = [(name, callers) for callers in CALLERS for name in ["Wattle", "in process"]]
        measured = in_turn(measure, cases, arguments.rounds)
    show("ResNet-18, one image a call", ["", "callers"], measured)
    targets = {
        "p50 by that in process, one caller": (
            measured["Wattle", 1]["p50_ms"] / measured["in process", 1]["p50_ms"], "<=", 1.05),
        "rate by that in process, 16 callers": (
            measured["Wattle", 16]["per_second"] / measured["in process", 16]["per_second"], ">=", 1.0),
    }  # fmt: skip
    found = {f"{name} from {callers}": figures for (name, callers), figures in measured.items()}
    return {"figures": found, "targets": judge(targets)}


def many_models(arguments):
    """A hundred small models behind a budget for ten."""
    found = many.measure(arguments.wattle, arguments.rounds, 2 * arguments.seconds)
    quiet, busy = found["warm_without_loads"], found["warm_with_loads"]
    print(f"\n{many.MODELS} models, memory for {many.FIT}\n\n| | |\n|---|---|")
    rows = {
        f"calls of all, by popularity, from {many.CALLERS} callers": f"{found['calls']}",
        "of these failed": f"{found['failures']}",
        "calls a second": f"{found['calls_per_second']:.0f}",
        "budget, MB": f"{found['budget_bytes'] / 1e6:.1f}",
        "most that models took, MB": f"{found['peak_bytes'] / 1e6:.1f}",
        "cold call, p50, ms": f"{found['cold_p50_ms']:.1f}",
        "warm call, p50, ms; without and with loads of others": f"{quiet['p50_ms']:.2f}, {busy['p50_ms']:.2f}",
        "warm call, p99, ms; without and with loads of others": f"{quiet['p99_ms']:.2f}, {busy['p99_ms']:.2f}",
    }
    for row, cell in rows.items():
        print(f"| {row} | {cell} |")
    failures = found["failures"] + sum(runs["errors"] + runs["background_failures"] for runs in [quiet, busy])
    targets = {
        "failures": (failures, "<=", 0),
        "most memory by budget": (found["peak_bytes"] / found["budget_bytes"], "<=", 1),
        "cold call, p50, ms": (found["cold_p50_ms"], "<=", 50),
    }
    return {"figures": found, "targets": judge(targets)}


def idle(arguments):
    """Memory and processor time of a server that nobody calls, without a model and with a small one."""
    found, targets = {}, {}
    for state in ["no model", "a small model loaded"]:
        with Wattle(arguments.wattle) as wattle:
            if state != "no model":
                wattle.deploy_founding()
            time.sleep(2)
            before = wattle.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            found[state] = wattle.memory() | {"cpu_percent": (wattle.cpu_seconds() - before) / IDLE_SECONDS * 100}
        targets[f"resident megabytes, {state}"] = (found[state]["resident_mb"], "<=", 60)
        targets[f"percent of a processor, {state}"] = (found[state]["cpu_percent"], "<=", 0.5)
    print(f"\nIdle for {IDLE_SECONDS} s\n")
    print("| | resident, MB | of these not from files, MB | processor, % |\n|---|---|---|---|")
    for state, figures in found.items():
        print(f"| {state} | {figures['resident_mb']:.1f} | {figures['anonymous_mb']:.1f} | {figures['cpu_percent']:.2f} |")
    return {"figures": found, "targets": judge(targets)}


def in_turn(measure, cases, rounds):
    """The medians of every case. Each round takes all of them, so that what disturbs the machine disturbs all alike."""
    runs = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            runs[case].append(measure(*case))
    medians = {}
    for case, found in runs.items():
        errors = sum(figures["errors"] for figures in found)
        middle = {key: statistics.median(figures[key] for figures in found) for key in found[0] if key != "errors"}
        medians[case] = middle | {"errors": errors}
    return medians


def show(title, head, measured):
    print(f"\n{title}\n")
    print(f"| {' | '.join([*head, 'calls a second', 'p50, ms', 'p99, ms', 'errors'])} |\n{'|---' * (len(head) + 4)}|")
    for case, figures in measured.items():
        cells = [*map(str, case), f"{figures['per_second']:.0f}" if figures["per_second"] >= 1000 else
                 f"{figures['per_second']:.1f}", f"{figures['p50_ms']:.2f}", f"{figures['p99_ms']:.2f}",
                 str(figures["errors"])]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def judge(targets):
    """Prints each figure beside what it should be."""
    print("\n| | is | should be | |\n|---|---|---|---|")
    judged = {}
    for name, (value, sign, wanted) in targets.items():
        met = value >= wanted if sign == ">=" else value <= wanted
        print(f"| {name} | {value:.2f} | {sign} {wanted} | {'yes' if met else 'NO'} |")
        judged[name] = {"value": value, "target": f"{sign} {wanted}", "met": met}
    sys.stdout.flush()
    return judged


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory, 1)}


if __name__ == "__main__":
    main()
