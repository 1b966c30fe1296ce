"""A small language model of random weights, deployed for the tests beside this file."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

from serving import gguf  # noqa: E402

# Or a real one, whose answers mean something.
GIVEN = os.environ.get("WATTLE_TEST_GGUF")
# What `scripts/minilm.sh` fetches: a folder as it is on the hub.
MINILM = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "wattle/minilm/0.1.0"


def deploy(server, name, *flags, shape="tiny", seed=0):
    """Imports a model and deploys it in a process of its own, on one thread: tests run beside each other."""
    file = GIVEN if shape == "tiny" else None
    if not file:
        file = server.path(f"{name}.gguf")
        gguf.write(file, shape, seed)
    server.command("models", "import", "--name", name, file)
    server.command("deploy", name, "--threads", "1", *flags)
