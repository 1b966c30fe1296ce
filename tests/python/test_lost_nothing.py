"""64 clients call without a pause while revisions change and when the server is told to end: nothing is lost."""

import asyncio
import collections
import json
import os
import pathlib
import signal
import unittest

import aiohttp
import grpc
import numpy
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

import graphs
from server import Server

CLIENTS = 64
VERSIONS = 6
# What is waited for happens within this time, or the test fails instead of hanging.
WITHIN_SECONDS = 120
# Turns of the slow model: some tenths of a second, so that there are always calls that compute and calls that wait.
TURNS = 500


class Revisions(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.stop)
        for version in range(1, VERSIONS + 1):
            self.server.import_model("scaled", graphs.scaled(float(version)))
        self.server.command("deploy", "scaled:1")

    async def test_a_switch_loses_no_call_and_none_goes_back(self):
        # What was asked for last, and what has been confirmed last.
        asked, confirmed, done = 1, 1, False
        answers = collections.Counter()

        async def client(number, call):
            while not done:
                least = confirmed
                factor = await call(float(number + 1))
                self.assertTrue(least <= factor <= asked, (least, factor, asked))
                answers[factor] += 1

        async with Callers(self.server, "scaled", width=4) as callers:
            clients = [asyncio.create_task(client(number, callers.call(number))) for number in range(CLIENTS)]
            for version in range(1, VERSIONS + 1):
                if version > 1:
                    asked = version
                    await asyncio.to_thread(self.server.command, "deploy", f"scaled:{version}")
                    confirmed = version
                # Each version answers for a while before the next one takes its place.
                while answers[version] < 2 * CLIENTS:
                    self.assertFalse([task.result() for task in clients if task.done()])
                    await asyncio.sleep(0.01)
            done = True
            await asyncio.wait_for(asyncio.gather(*clients), WITHIN_SECONDS)
        self.assertEqual(set(answers), set(range(1, VERSIONS + 1)))
        self.assertEqual(await requests_in_ledger(self.server, "scaled"), sum(answers.values()))


class Sigterm(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = Server("--grace-seconds", str(WITHIN_SECONDS))
        self.addCleanup(self.server.stop)
        self.server.deploy("slow", graphs.slow())

    async def test_whoever_was_let_in_is_answered(self):
        # One by one, so that most wait when the server is told to end, however fast the machine is.
        self.server.command("deploy", "slow", "--max-batch-size", "1")
        calls = 0

        async def client(call):
            nonlocal calls
            answer = await call(TURNS)
            calls += 1
            return answer

        async with Callers(self.server, "slow", width=1) as callers:
            clients = [asyncio.create_task(client(callers.call(number))) for number in range(CLIENTS)]
            # Some are answered; all others have been let in, and wait or compute. What ends meanwhile counts once.
            while calls + (waiting := await callers.in_flight()) < CLIENTS:
                await asyncio.sleep(0.01)
            self.assertGreater(waiting, 0)
            self.server.process.send_signal(signal.SIGTERM)
            factors = await asyncio.wait_for(asyncio.gather(*clients), WITHIN_SECONDS)
        self.assertEqual(factors, [1] * CLIENTS)
        self.assertEqual(await asyncio.to_thread(self.server.process.wait, WITHIN_SECONDS), 0)
        await asyncio.to_thread(self.server.start)
        self.assertEqual(await requests_in_ledger(self.server, "slow"), CLIENTS)

    async def test_clients_that_go_on_are_answered_or_refused(self):
        outcomes = collections.Counter()

        async def client(call):
            while True:
                try:
                    self.assertEqual(await call(TURNS), 1)
                    outcomes["answered"] += 1
                except Refused:
                    outcomes["refused"] += 1
                    await asyncio.sleep(0.01)
                except Gone:
                    return

        async with Callers(self.server, "slow", width=1) as callers:
            clients = [asyncio.create_task(client(callers.call(number))) for number in range(CLIENTS)]
            while outcomes["answered"] < 2 * CLIENTS:
                self.assertFalse([task.result() for task in clients if task.done()])
                await asyncio.sleep(0.01)
            self.server.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*clients), WITHIN_SECONDS)
        self.assertEqual(await asyncio.to_thread(self.server.process.wait, WITHIN_SECONDS), 0)
        await asyncio.to_thread(self.server.start)
        # Whatever the server began to compute, some client has the answer of.
        self.assertEqual(await requests_in_ledger(self.server, "slow"), outcomes["answered"])


class KilledWorker(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.stop)
        self.server.import_model("slow", graphs.slow())
        self.server.command("deploy", "slow", "--isolation", "process")

    async def test_it_takes_no_call_with_it_but_those_in_its_hands(self):
        outcomes = collections.Counter()
        done = False

        async def client(call):
            while not done:
                try:
                    self.assertEqual(await call(TURNS), 1)
                    outcomes["answered"] += 1
                except Refused:
                    outcomes["refused"] += 1

        async def answered(more):
            until = outcomes["answered"] + more
            while outcomes["answered"] < until:
                self.assertFalse([task.result() for task in clients if task.done()])
                await asyncio.sleep(0.01)

        async with Callers(self.server, "slow", width=1) as callers:
            clients = [asyncio.create_task(client(callers.call(number))) for number in range(CLIENTS)]
            for kills in range(1, 3):
                await answered(CLIENTS)
                (worker,) = children(self.server.process.pid)
                os.kill(worker, signal.SIGKILL)
                await answered(2 * CLIENTS)
                # Each client had one call under way at most when the worker was killed.
                self.assertLessEqual(outcomes["refused"], kills * CLIENTS)
            done = True
            await asyncio.wait_for(asyncio.gather(*clients), WITHIN_SECONDS)
        self.assertTrue(self.server.is_running(), self.server.words())


class Refused(Exception):
    """The server is there and takes no further work."""


class Gone(Exception):
    """The server takes no further connection, or closed one before it took a call from it."""


class Callers:
    """The ways to call a deployment of `x` to `y`; each answers the factor by which `y` is larger."""

    def __init__(self, server, name, width):
        self.server, self.name, self.width = server, name, width

    async def __aenter__(self):
        limits = {"connector": aiohttp.TCPConnector(limit=0), "timeout": aiohttp.ClientTimeout(WITHIN_SECONDS)}
        self.session = await aiohttp.ClientSession(**limits).__aenter__()
        self.grpc = triton.InferenceServerClient(self.server.address)
        return self

    async def __aexit__(self, *raised):
        await self.grpc.close()
        await self.session.__aexit__(*raised)

    def call(self, number):
        return [self.predict, self.v2, self.over_grpc][number % 3]

    async def predict(self, value):
        answer = await self.post(f"models/{self.name}/predict", {"x": [[value] * self.width]})
        return answer["y"][0][0] / value

    async def v2(self, value):
        tensor = {"name": "x", "shape": [1, self.width], "datatype": "FP32", "data": [value] * self.width}
        answer = await self.post(f"v2/models/{self.name}/infer", {"inputs": [tensor]})
        return answer["outputs"][0]["data"][0] / value

    async def post(self, path, body):
        try:
            async with self.session.post(f"{self.server.url}/{path}", json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise Gone from error
        if answer.status == 503:
            assert "Retry-After" in answer.headers, answer.headers
            raise Refused(text)
        assert answer.status == 200, text
        return json.loads(text)

    async def in_flight(self):
        async with self.session.get(f"{self.server.url}/api/v1/deployments/{self.name}") as answer:
            return (await answer.json())["in_flight"]

    async def over_grpc(self, value):
        values = numpy.full((1, self.width), value, numpy.float32)
        put = triton.InferInput("x", values.shape, "FP32").set_data_from_numpy(values)
        try:
            result = await self.grpc.infer(self.name, [put], client_timeout=WITHIN_SECONDS)
        except InferenceServerException as error:
            if error.status() != str(grpc.StatusCode.UNAVAILABLE):
                raise
            raise (Gone if self.server.process.poll() is not None else Refused) from error
        return float(result.as_numpy("y")[0, 0]) / value


def children(process):
    lists = pathlib.Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for started in lists for child in started.read_text().split()]


async def requests_in_ledger(server, name):
    usage = await asyncio.to_thread(server.command, "usage", "--by", "deployment", "--output", "json")
    return sum(line["requests"] for line in json.loads(usage) if line["key"] == name and line["activity"] == "predict")


if __name__ == "__main__":
    unittest.main()
