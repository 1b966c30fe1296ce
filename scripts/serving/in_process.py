"""ONNX Runtime in its own process, as a program that links it would call it: threads that call one session in turn.

    in_process.py MODEL THREADS SECONDS

Prints calls a second and the quantiles of their time as JSON. Session and threads have the runtime's own defaults.
"""

import json
import sys
import threading
import time

import numpy
import onnxruntime


def main(path, threads, seconds):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in taken.shape]
    values = {taken.name: numpy.zeros(shape, numpy.float32)}
    for _ in range(3):
        session.run(None, values)
    end = time.perf_counter() + seconds
    times = [[] for _ in range(threads)]

    def call(mine):
        while (started := time.perf_counter()) < end:
            session.run(None, values)
            mine.append(time.perf_counter() - started)

    started = time.perf_counter()
    callers = [threading.Thread(target=call, args=[mine]) for mine in times]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    elapsed = time.perf_counter() - started
    times = numpy.concatenate(times) * 1e3
    p50, p99 = numpy.percentile(times, [50, 99])
    print(json.dumps({"per_second": len(times) / elapsed, "p50_ms": p50, "p99_ms": p99, "errors": 0}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
