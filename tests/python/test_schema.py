"""A tester makes up requests from /openapi.json, right ones and wrong ones; no answer may be a surprise."""

import os
import pathlib
import subprocess
import sys
import unittest

import graphs
from server import EXAMPLES, Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
MAX_EXAMPLES = 25
SEED = 1
WITHIN_SECONDS = 300
# Made-up names find nothing, so the second run puts names of what exists into the paths. What removes things stays out
# of it: the rest would find nothing either.
EXISTING = """
[parameters]
"path.deployment" = "scaled"
"path.name" = "scaled"
"path.version" = "1"
"path.alias" = "champion"
"""


class Schema(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        cls.server.deploy("scaled", graphs.scaled(3.0))
        cls.server.command("models", "alias", "scaled:1", "champion")
        cls.server.command("data", "add", "scaled", EXAMPLES / "line.csv")

    def test_made_up_requests(self):
        self.check("")

    def test_made_up_requests_to_what_exists(self):
        # A log that is followed ends with the server.
        endless = "/api/v1/deployments/{name}/logs/events"
        self.check(EXISTING, "--exclude-method", "DELETE", "--exclude-path", endless)

    def check(self, configuration, *options):
        folder = self.server.path(self.id())
        os.mkdir(folder)
        file = pathlib.Path(folder, "schemathesis.toml")
        file.write_text(configuration)
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(file), "run"]
        command += [f"{self.server.url}/openapi.json", "--checks", CHECKS, "--max-examples", str(MAX_EXAMPLES)]
        command += ["--seed", str(SEED), "--request-timeout", "30", "--no-color", *options]
        # What the tester remembers of earlier runs would make this one another.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WITHIN_SECONDS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(self.server.is_running(), self.server.words())


if __name__ == "__main__":
    unittest.main()
