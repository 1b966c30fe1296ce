"""A hundred small models behind a memory budget for ten of them."""

import contextlib
import http.client
import itertools
import json
import tempfile
import threading
import time
import urllib.request

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from .processes import PATIENCE_SECONDS, Wattle

MODELS = 100
FIT = 10
CALLS = 5000
CALLERS = 8
# So many of the models stay in memory whatever else is called of them.
WARM = 4
BACKGROUND_PER_SECOND = 100
WARM_PER_SECOND = 200
WIDTHS = [128, 384, 384, 8]
SEED = 100
BODY = json.dumps({"x": [[0.5] * WIDTHS[0]]})
JSON = {"Content-Type": "application/json"}


def write_models(folder):
    """Models of a few layers, alike but for their weights, about 800 kB each."""
    random = numpy.random.default_rng(SEED)
    for index in range(MODELS):
        weights, nodes, x = [], [], "x"
        for layer, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
            values = random.normal(0, before**-0.5, (before, after)).astype(numpy.float32)
            weights.append(numpy_helper.from_array(values, f"w{layer}"))
            last = layer == len(WIDTHS) - 2
            nodes.append(helper.make_node("MatMul", [x, f"w{layer}"], ["y" if last else f"h{layer}"]))
            if not last:
                nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            x = f"r{layer}"
        taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTHS[0]])
        given = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTHS[-1]])
        graph = helper.make_graph(nodes, "small", [taken], [given], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        onnx.save(model, f"{folder}/{name(index)}.onnx")


def measure(program, rounds, seconds):
    """Everything that is to be known of them, by name."""
    with contextlib.ExitStack() as stack:
        models = stack.enter_context(tempfile.TemporaryDirectory(prefix="wattle-bench-"))
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="wattle-bench-"))
        write_models(models)
        with Wattle(program, folder=data) as wattle:
            for index in range(MODELS):
                wattle.call("models", "import", "--name", name(index), f"{models}/{name(index)}.onnx")
                wattle.call("deploy", name(index))
            # What one takes is measured by the server as it loads it, and differs by a little.
            Caller(wattle.url).call_all(range(FIT))
            one_bytes = max(resident(wattle))
        budget_bytes = FIT * one_bytes
        with Wattle(program, "--memory-budget", budget_bytes, folder=data) as wattle:
            cold_ms = Caller(wattle.url).call_all(range(MODELS))
            calls, peak_bytes = watch(wattle, lambda: call_by_popularity(wattle.url))
            figures = {
                "model_bytes": one_bytes,
                "budget_bytes": budget_bytes,
                "peak_bytes": peak_bytes,
                "cold_p50_ms": float(numpy.median(cold_ms)),
                "cold_p99_ms": float(numpy.percentile(cold_ms, 99)),
                **calls,
            }
            quiet, busy = [], []
            for _ in range(rounds):
                quiet.append(beside(wattle, WARM, seconds))
                busy.append(beside(wattle, MODELS, seconds))
        for where, runs in [("without_loads", quiet), ("with_loads", busy)]:
            figures[f"warm_{where}"] = {key: float(numpy.median([run[key] for run in runs])) for key in runs[0]}
        return figures


def call_by_popularity(url):
    """Calls of all models from several callers at once, the n-th model being called 1/n times as often as the first."""
    popularity = 1 / numpy.arange(1, MODELS + 1)
    chosen = numpy.random.default_rng(SEED).choice(MODELS, CALLS, p=popularity / popularity.sum())
    parts = [chosen[caller::CALLERS] for caller in range(CALLERS)]
    callers = [Caller(url) for _ in parts]
    started = time.perf_counter()
    in_parallel(lambda caller, part: caller.call_all(part), callers, parts)
    return {
        "calls": CALLS,
        "failures": sum(caller.failures for caller in callers),
        "calls_per_second": CALLS / (time.perf_counter() - started),
    }


def beside(wattle, models, seconds):
    """Latency of one warm model's calls while so many models, itself among them, are called at a constant rate."""
    done = threading.Event()
    random = numpy.random.default_rng(SEED)
    popularity = 1 / numpy.arange(1, models + 1)
    caller = Caller(wattle.url)

    def background():
        due = time.perf_counter()
        while not done.is_set():
            due += 1 / BACKGROUND_PER_SECOND
            time.sleep(max(0, due - time.perf_counter()))
            caller.call_all(random.choice(models, 1, p=popularity / popularity.sum()))

    thread = threading.Thread(target=background)
    thread.start()
    try:
        figures = wattle.bench(name(0), "--rps", WARM_PER_SECOND, "--duration", f"{seconds}s", "--warmup", "1s")
    finally:
        done.set()
        thread.join()
    return figures | {"background_failures": caller.failures}


def watch(wattle, work):
    """What the work returns, and the most that the models took meanwhile, as the server says."""
    done, most = threading.Event(), [0]

    def look():
        while not done.wait(0.05):
            most[0] = max(most[0], sum(resident(wattle)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        return work(), most[0]
    finally:
        done.set()
        thread.join()


def resident(wattle):
    with urllib.request.urlopen(f"{wattle.url}/api/v1/deployments", timeout=PATIENCE_SECONDS) as response:
        return [deployment["resident_bytes"] for deployment in json.load(response)]


def in_parallel(work, *arguments):
    threads = [threading.Thread(target=work, args=each) for each in zip(*arguments, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Caller:
    """One connection, and how many of its calls failed."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
        self.failures = 0

    def call_all(self, models):
        """Calls one model after the other; the milliseconds that each took."""
        times = []
        for index in models:
            started = time.perf_counter()
            try:
                self.connection.request("POST", f"/models/{name(index)}/predict", BODY, JSON)
                answer = self.connection.getresponse()
                failed = answer.status != 200
                answer.read()
            except (OSError, http.client.HTTPException):
                failed = True
                self.connection.close()
            self.failures += failed
            times.append((time.perf_counter() - started) * 1e3)
        return times


def name(index):
    return f"m{index:02}"
