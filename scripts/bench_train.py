#!/usr/bin/env python3
"""Training speed beside scikit-learn: the same generated rows, from memory to model, each side in its own process.

    python3 scripts/bench_train.py [--rows 1000000] [--features 20] [--epochs 20] [--repeats 3] [--json FILE]

Needs numpy and scikit-learn. Two comparisons:

- epochs a second of stochastic gradient descent on squared error (SGDRegressor; both one pass over all rows an epoch);
- time to the same objective of logistic regression by L-BFGS (LogisticRegression with its default tolerance; the same
  mean loss and the same l2 penalty on the weights alone). Wattle stops the clock once its objective is at most
  scikit-learn's last one.

The clock starts with the rows as one array of doubles in memory, and so counts Wattle's encoding into shards and
scikit-learn's checks. The best of the repeats counts on both sides. Memory is the peak of the process, rows included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

L2 = 1e-4
BATCH = 256
WATTLE_RATE = 0.01


def generate(folder, rows, features):
    import numpy as np

    random = np.random.default_rng(20240607)
    # Features correlate a little, as those of tables do.
    mix = np.eye(features) + 0.2 * random.standard_normal((features, features))
    x = random.standard_normal((rows, features)) @ mix
    x = np.ascontiguousarray((x - x.mean(axis=0)) / x.std(axis=0))
    weights = random.standard_normal(features) / features**0.5
    z = x @ weights + 0.5
    np.save(f"{folder}/x.npy", x)
    np.save(f"{folder}/y_line.npy", z + random.standard_normal(rows))
    np.save(f"{folder}/y_class.npy", (random.random(rows) < 1 / (1 + np.exp(-2 * z))).astype(float))


def peer(folder, task, epochs):
    import numpy as np

    x = np.load(f"{folder}/x.npy")
    if task == "sgd":
        from sklearn.linear_model import SGDRegressor

        y = np.load(f"{folder}/y_line.npy")
        model = SGDRegressor(alpha=0.0, penalty=None, max_iter=epochs, tol=None, random_state=0)
        started = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - started
        peak = peak_memory_bytes()
        loss = 0.5 * float(np.mean((model.predict(x) - y) ** 2))
        return {"seconds": seconds, "epochs_per_second": epochs / seconds, "loss": loss, "peak_memory_bytes": peak}
    from sklearn.linear_model import LogisticRegression

    y = np.load(f"{folder}/y_class.npy")
    model = LogisticRegression(C=1 / (L2 * len(y)), solver="lbfgs", max_iter=1000)
    started = time.perf_counter()
    model.fit(x, y)
    seconds = time.perf_counter() - started
    peak = peak_memory_bytes()
    w = model.coef_[0]
    z = x @ w + model.intercept_[0]
    objective = float(np.mean(np.logaddexp(0, z) - y * z) + L2 / 2 * w @ w)
    iterations = int(model.n_iter_[0])
    return {"seconds": seconds, "iterations": iterations, "objective": objective, "peak_memory_bytes": peak}


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def best(command, repeats, key="seconds"):
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout))
    missed = [run for run in runs if run[key] is None]
    if missed:
        sys.exit(f"{' '.join(command)} did not reach the loss: {missed[0]}")
    return min(runs, key=lambda run: run[key])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the numbers to this file too")
    parser.add_argument("--peer", nargs=2, metavar=("FOLDER", "TASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        print(json.dumps(peer(*arguments.peer, arguments.epochs)))
        return

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    build = ["cargo", "build", "--release", "-p", "wattle-train", "--example", "bench_linear"]
    subprocess.run(build, check=True, cwd=root)
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    target = json.loads(subprocess.run(metadata, check=True, cwd=root, stdout=subprocess.PIPE).stdout)
    ours = os.path.join(target["target_directory"], "release", "examples", "bench_linear")

    with tempfile.TemporaryDirectory() as folder:
        generate(folder, arguments.rows, arguments.features)
        epochs = str(arguments.epochs)
        this = [sys.executable, os.path.abspath(__file__), "--epochs", epochs, "--peer", folder]
        sgd_theirs = best([*this, "sgd"], arguments.repeats)
        sgd_ours = best([ours, folder, "sgd", epochs, str(BATCH), str(WATTLE_RATE)], arguments.repeats)
        lbfgs_theirs = best([*this, "lbfgs"], arguments.repeats)
        command = [ours, folder, "lbfgs", str(L2), repr(lbfgs_theirs["objective"])]
        lbfgs_ours = best(command, arguments.repeats, "reached_seconds")

    import numpy
    import sklearn

    report = {
        "rows": arguments.rows,
        "features": arguments.features,
        "cores": len(os.sched_getaffinity(0)),
        "numpy": numpy.__version__,
        "scikit-learn": sklearn.__version__,
        "sgd": {"wattle": sgd_ours, "scikit-learn": sgd_theirs},
        "lbfgs": {"wattle": lbfgs_ours, "scikit-learn": lbfgs_theirs},
        "ratios": {
            "epochs_per_second": sgd_ours["epochs_per_second"] / sgd_theirs["epochs_per_second"],
            "time_to_same_loss": lbfgs_ours["reached_seconds"] / lbfgs_theirs["seconds"],
        },
    }
    show(report)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


def show(report):
    sgd, lbfgs, ratios = report["sgd"], report["lbfgs"], report["ratios"]

    def row(*cells):
        print(f"{cells[0]:<38}{cells[1]:>14}{cells[2]:>14}{cells[3]:>10}")

    print(f"{report['rows']} rows x {report['features']} features, {report['cores']} cores")
    row("", "Wattle", "scikit-learn", "ratio")
    ours, theirs = sgd["wattle"], sgd["scikit-learn"]
    rate = ratios["epochs_per_second"]
    row("SGD, epochs a second", f"{ours['epochs_per_second']:.1f}", f"{theirs['epochs_per_second']:.1f}", f"{rate:.1f}")
    row("  loss reached", f"{ours['loss']:.6f}", f"{theirs['loss']:.6f}", "")
    row("  peak memory, MB", *memory(ours, theirs))
    ours, theirs = lbfgs["wattle"], lbfgs["scikit-learn"]
    share = ratios["time_to_same_loss"]
    row("L-BFGS, seconds to the same loss", f"{ours['reached_seconds']:.3f}", f"{theirs['seconds']:.3f}", f"{share:.2f}")
    row("  iterations", ours["reached_iterations"], theirs["iterations"], "")
    row("  seconds to its own optimum", f"{ours['seconds']:.3f}", "", "")
    row("  objective there", f"{ours['objective']:.9f}", f"{theirs['objective']:.9f}", "")
    row("  peak memory, MB", *memory(ours, theirs))


def memory(ours, theirs):
    a, b = ours["peak_memory_bytes"], theirs["peak_memory_bytes"]
    return f"{a / 1e6:.0f}", f"{b / 1e6:.0f}", f"{a / b:.2f}"


if __name__ == "__main__":
    main()
