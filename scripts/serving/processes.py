"""Servers that are started for a measurement and stopped after it, and the tools that put load on them."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATIENCE_SECONDS = 60
JSON = {"Content-Type": "application/json"}


class Server:
    """A process that answers at `url` until the `with` block ends."""

    def __init__(self, command, url=None, **more):
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.DEVNULL if url else subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            **more,
        )
        self.url = url
        if not url:
            line = self.process.stdout.readline()
            self.url = next((word for word in line.split() if word.startswith("http://")), None)
            if not self.url:
                sys.exit(f"{command[0]} does not say where it listens: {line!r}")
        host, port = self.url.removeprefix("http://").split(":")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    sys.exit(f"{command[0]} does not answer at {self.url}")
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)

    def post(self, path, body):
        request = urllib.request.Request(self.url + path, data=json.dumps(body).encode(), headers=JSON)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            return json.load(response)

    def memory(self):
        """Resident megabytes: all of them, the peak, and those that are neither the program nor a library."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        fields = {line.split(":")[0]: line.split()[1] for line in lines if "kB" in line}
        return {name: int(fields[key]) * 1024 / 1e6 for name, key in
                [("resident_mb", "VmRSS"), ("peak_mb", "VmHWM"), ("anonymous_mb", "RssAnon")]}  # fmt: skip

    def forget_peak(self):
        """Lets the peak count from now on."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Wattle(Server):
    """`wattle serve`, with a data folder that is thrown away unless one is given."""

    def __init__(self, program, *arguments, folder=None):
        self.program = program
        self.own = None if folder else tempfile.TemporaryDirectory(prefix="wattle-bench-")
        folder = folder or self.own.name
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data-dir", folder, *arguments]
        super().__init__(command, env=dict(os.environ, WATTLE_LOG="warn"))

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.own:
            self.own.cleanup()

    def call(self, *arguments):
        """Runs a command of `wattle` against this server and reads what it answers."""
        command = [self.program, *map(str, arguments), "--url", self.url, "-o", "json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    def deploy_founding(self):
        """Imports and deploys the founding example's arrays, and calls them once."""
        examples = ROOT / "examples"
        self.call("models", "import", "--name", "founding", "--coef", examples / "model.npy",
                  "--intercept", examples / "intercept.npy")  # fmt: skip
        self.call("deploy", "founding", "--default")
        assert self.post("/predict", {"x": [1.0]}) == {"y_pred": [[3.0]]}

    def bench(self, name, *arguments):
        """`wattle bench`, in the words of the other tools."""
        report = self.call("bench", name, *arguments)
        latency = report.get("latency_ms", {})
        return {
            "per_second": report["answered_per_second"],
            "p50_ms": latency.get("p50"),
            "p99_ms": latency.get("p99"),
            "errors": report["requests"] - report["answered"],
        }


def flask(python):
    """The founding example on Flask's development server."""
    port = free_port()
    command = [python, "-m", "flask", "--app", "founding_flask", "run", "--port", port]
    return Server(command, f"http://127.0.0.1:{port}", cwd=HERE)


def gunicorn(python):
    """The founding example behind gunicorn with two workers."""
    port = free_port()
    command = [python, "-m", "gunicorn", "--workers", 2, "--bind", f"127.0.0.1:{port}", "founding_flask:app"]
    return Server(command, f"http://127.0.0.1:{port}", cwd=HERE)


def wrk(server, connections, seconds):
    """Posts to the founding example from one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / "wrk.lua", f"{server.url}/predict"]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_process(model, threads, seconds):
    """ONNX Runtime without a server."""
    command = [sys.executable, HERE / "in_process.py", model, threads, seconds]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
