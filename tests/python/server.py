"""A Wattle server in a throw-away folder, on a free port, for the tests beside this file."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time

import onnx
import requests

BINARY = os.environ["WATTLE_BINARY"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
READY_WITHIN_SECONDS = 30
STOPPED_WITHIN_SECONDS = 30


class Server:
    def __init__(self, *flags):
        self.folder = tempfile.TemporaryDirectory()
        self.log = open(self.path("log"), "wb")
        self.flags = flags
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.start()

    def start(self):
        """Starts the server, again if it has ended: the folder and the address stay."""
        command = [BINARY, "serve", "--no-config", "--listen", self.address]
        command += ["--data-dir", self.path("data"), *self.flags]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while time.monotonic() < deadline and self.is_running():
            try:
                if requests.get(f"{self.url}/v2/health/ready", timeout=5).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the server did not become ready:\n{self.words()}")

    def is_running(self):
        return self.process.poll() is None

    def words(self):
        return pathlib.Path(self.path("log")).read_text(errors="replace")

    def command(self, *arguments):
        """Runs `wattle` as a client of this server."""
        environment = {**os.environ, "WATTLE_URL": self.url}
        done = subprocess.run([BINARY, *map(str, arguments)], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"wattle {arguments}:\n{done.stdout}{done.stderr}\nserver:\n{self.words()}")
        return done.stdout

    def deploy(self, name, model):
        """Imports an ONNX model as the next version of `name`, and deploys that version."""
        self.import_model(name, model)
        self.command("deploy", name)

    def import_model(self, name, model):
        file = self.path(f"{name}.onnx")
        onnx.save(model, file)
        self.command("models", "import", "--name", name, file)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.folder.cleanup()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
