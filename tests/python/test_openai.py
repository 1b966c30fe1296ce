"""OpenAI's own client against language models of random weights: what it sends is taken, what it gets it understands."""

import asyncio
import base64
import json
import os
import pathlib
import signal
import struct
import subprocess
import time
import unittest
from typing import Literal

import openai
import requests
from pydantic import BaseModel

import speaker
from server import Server

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]


class Person(BaseModel):
    name: Literal["Ann", "Bob"]
    is_tall: bool


class OpenAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        speaker.deploy(cls.server, "tiny")
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)

    def chat(self, **more):
        return self.client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 12, **more})

    def test_models_are_listed(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.client.models.retrieve("tiny").owned_by, "wattle")

    def test_a_chat_is_answered_and_metered(self):
        answer = self.chat(seed=1)
        self.assertEqual((answer.choices[0].message.role, answer.choices[0].finish_reason), ("assistant", "length"))
        self.assertTrue(answer.choices[0].message.content)
        usage = answer.usage
        self.assertEqual(usage.completion_tokens, 12)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + 12)
        energy = usage.energy
        self.assertGreater(energy["joules"]["mid"], 0)
        self.assertLessEqual(energy["joules"]["low"], energy["joules"]["high"])
        self.assertIn(energy["label"], ["measured", "estimated"])

    def test_the_same_seed_gives_the_same_answer_also_as_a_stream(self):
        whole = self.chat(seed=7, temperature=1.5).choices[0].message.content
        self.assertEqual(self.chat(seed=7, temperature=1.5).choices[0].message.content, whole)
        chunks = list(self.chat(seed=7, temperature=1.5, stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole)
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)
        self.assertEqual([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "length")

    def test_what_was_read_is_not_read_again(self):
        messages = [{"role": "system", "content": "You know all rivers. " * 8}, *HELLO[1:]]
        self.chat(messages=messages)
        usage = self.chat(messages=messages).usage
        self.assertGreater(usage.prompt_tokens_details.cached_tokens, 100)

    def test_several_answers_and_their_probabilities(self):
        answer = self.chat(n=3, logprobs=True, top_logprobs=2, seed=3)
        self.assertEqual(len({choice.index for choice in answer.choices}), 3)
        for choice in answer.choices:
            self.assertEqual(len(choice.logprobs.content), 12)
            for token in choice.logprobs.content:
                self.assertLess(token.logprob, 0)
                self.assertEqual(len(token.top_logprobs), 2)

    def test_a_stop_string_ends_an_answer_before_it(self):
        whole = self.chat(seed=5, max_tokens=40).choices[0].message.content
        stop = whole[4:7]
        answer = self.chat(seed=5, max_tokens=40, stop=[stop]).choices[0]
        self.assertEqual((answer.message.content, answer.finish_reason), (whole[: whole.index(stop)], "stop"))

    def test_structured_output_always_parses(self):
        schema = {
            "type": "object",
            "properties": {"color": {"enum": ["red", "green"]}, "count": {"type": "integer", "maximum": 99}},
            "required": ["color", "count"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
        for seed in range(4):
            choice = self.chat(seed=seed, response_format=form, max_tokens=200).choices[0]
            self.assertEqual(choice.finish_reason, "stop")
            thing = json.loads(choice.message.content)
            self.assertIn(thing["color"], ["red", "green"])
            self.assertLessEqual(thing["count"], 99)

    def test_the_clients_own_models_are_parsed(self):
        answer = self.client.chat.completions.parse(
            model="tiny", messages=HELLO, response_format=Person, max_tokens=200, seed=2
        )
        self.assertIsInstance(answer.choices[0].message.parsed, Person)

    def test_a_tool_that_must_be_called_is(self):
        answer = self.chat(tools=[WEATHER], tool_choice="required", max_tokens=400, seed=1).choices[0]
        self.assertEqual(answer.finish_reason, "tool_calls")
        for call in answer.message.tool_calls:
            self.assertEqual((call.type, call.function.name), ("function", "weather"))
            arguments = json.loads(call.function.arguments)
            self.assertLessEqual(arguments["days"], 9)
        # What a tool answers goes back to the model.
        messages = [
            *HELLO,
            answer.message.model_dump(exclude_none=True),
            *({"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in answer.message.tool_calls),
        ]
        self.assertTrue(self.chat(messages=messages, tools=[WEATHER], tool_choice="none").choices)

    def test_a_call_of_a_tool_is_streamed(self):
        choice = {"type": "function", "function": {"name": "weather"}}
        name, arguments = "", ""
        stream = self.chat(tools=[WEATHER], tool_choice=choice, max_tokens=400, seed=2, stream=True,
                           parallel_tool_calls=False)  # fmt: skip
        for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
        self.assertEqual(name, "weather")
        self.assertIn("city", json.loads(arguments))

    def test_texts_are_completed(self):
        answer = self.client.completions.create(model="tiny", prompt=["one", "two"], max_tokens=5, echo=True, seed=1)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertTrue(answer.choices[1].text.startswith("two"))
        best = self.client.completions.create(model="tiny", prompt="a", max_tokens=5, best_of=3, logprobs=1)
        self.assertEqual((len(best.choices), len(best.choices[0].logprobs.tokens)), (1, 5))
        self.assertGreaterEqual(best.usage.completion_tokens, 15)

    def test_what_is_wrong_has_the_clients_own_errors(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.chat(model="tinny")
        self.assertIn("did you mean tiny", str(raised.exception))
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(temperature=-1)
        self.assertIn("temperature", str(raised.exception))
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat(messages=[{"role": "user", "content": "word " * 3000}])
        self.assertIn("context", str(raised.exception))
        form = {"type": "json_schema", "json_schema": {"name": "none", "schema": {"type": "string", "enum": []}}}
        with self.assertRaises(openai.BadRequestError):
            self.chat(response_format=form)
        with self.assertRaises(openai.BadRequestError):
            self.client.embeddings.create(model="tiny", input="text")
        broken = requests.post(self.server.url + "/v1/chat/completions", data="{", timeout=10)
        self.assertEqual((broken.status_code, broken.json()["error"]["type"]), (400, "invalid_request_error"))
        for method, path, status in [("GET", "chat/completions", 405), ("POST", "images/generations", 404)]:
            answer = requests.request(method, f"{self.server.url}/v1/{path}", timeout=10)
            self.assertEqual((answer.status_code, answer.json()["error"]["code"]), (status, None))

    def test_who_leaves_costs_nothing_more(self):
        async def leave():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=1800, stream=True, extra_body={"ignore_eos": True}
            )
            async for _ in stream:
                break
            await stream.close()
            await client.close()

        asyncio.run(leave())
        self.wait_until(lambda: metric(self.server, 'wattle_generations{deployment="tiny"', 'state="running"') == 0)
        self.wait_until(lambda: metric(self.server, "wattle_requests_cancelled_total") >= 1)

    def test_eight_at_once_do_not_disturb_each_other(self):
        async def all_at_once():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
            ask = client.chat.completions.create
            answers = await asyncio.gather(*(
                ask(model="tiny", messages=[{"role": "user", "content": f"Number {n}"}], max_tokens=20, seed=n,
                    temperature=0, response_format={"type": "json_object"} if n % 4 == 3 else openai.NOT_GIVEN)
                for n in range(8)
            ))  # fmt: skip
            await client.close()
            return answers

        self.assertEqual(len([answer for answer in asyncio.run(all_at_once()) if answer.choices]), 8)

    def wait_until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, "it did not come about")
            time.sleep(0.1)


class Thinking(unittest.TestCase):
    """A model whose template opens its thoughts, which it never ends of itself."""

    def test_thoughts_are_no_part_of_what_is_said(self):
        server = Server()
        self.addCleanup(server.stop)
        speaker.deploy(server, "thinker", shape="thinking")
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        chat = client.chat.completions.create(model="thinker", messages=HELLO, max_tokens=12)
        message = chat.choices[0].message
        self.assertTrue(message.reasoning_content)
        self.assertFalse(message.content)
        self.assertEqual(chat.usage.completion_tokens_details.reasoning_tokens, 12)
        stream = client.chat.completions.create(model="thinker", messages=HELLO, max_tokens=12, stream=True, seed=1)
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
        self.assertTrue("".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas))
        self.assertFalse("".join(delta.content or "" for delta in deltas))
        response = client.responses.create(model="thinker", input="Hi", max_output_tokens=16)
        self.assertEqual([item.type for item in response.output], ["reasoning"])
        self.assertEqual((response.status, response.usage.output_tokens_details.reasoning_tokens), ("incomplete", 16))


class Embeddings(unittest.TestCase):
    def test_texts_that_mean_the_same_are_near(self):
        server = Server()
        self.addCleanup(server.stop)
        # The folder as it is on the hub is converted on the way.
        server.command("models", "import", "--name", "minilm", speaker.MINILM)
        server.command("deploy", "minilm")
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        texts = ["A cat sits on the mat.", "There is a cat on the rug.", "Interest rates rose again."]
        answer = client.embeddings.create(model="minilm", input=texts, encoding_format="float")
        one, same, other = (item.embedding for item in answer.data)
        self.assertEqual(len(one), 384)
        self.assertAlmostEqual(dot(one, one), 1, places=4)
        self.assertGreater(dot(one, same), dot(one, other) + 0.3)
        packed = requests.post(
            server.url + "/v1/embeddings",
            json={"model": "minilm", "input": texts[0], "encoding_format": "base64"},
            timeout=30,
        ).json()
        numbers = struct.unpack("<384f", base64.b64decode(packed["data"][0]["embedding"]))
        self.assertGreater(dot(numbers, one), 0.9999)
        self.assertGreater(answer.usage.prompt_tokens, 15)
        with self.assertRaises(openai.BadRequestError):
            client.chat.completions.create(model="minilm", messages=HELLO)


class Trouble(unittest.TestCase):
    """What must not disturb anybody else: each ends as designed."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-waiting", "64")
        cls.addClassCleanup(cls.server.stop)
        speaker.deploy(cls.server, "tiny")
        speaker.deploy(cls.server, "other", seed=1)

    def post(self, name, **more):
        body = {"model": name, "prompt": "once", "max_tokens": 8, **more}
        return requests.post(self.server.url + "/v1/completions", json=body, timeout=60)

    def test_a_killed_worker_costs_its_own_calls_alone(self):
        self.assertEqual(self.post("tiny").status_code, 200)
        self.assertEqual(self.post("other").status_code, 200)

        async def run():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
            ask = client.completions.create
            long = dict(prompt="once", max_tokens=1500, extra_body={"ignore_eos": True}, stream=True)
            victim = await ask(model="tiny", **long)
            bystander = await ask(model="other", **{**long, "max_tokens": 200})
            await anext(aiter(victim))
            self.kill_worker("tiny")
            with self.assertRaises(openai.APIError):
                async for _ in victim:
                    pass
            pieces = [piece async for piece in bystander]
            self.assertEqual(pieces[-1].choices[0].finish_reason, "length")
            await client.close()

        asyncio.run(run())
        deadline = time.monotonic() + 30
        while (again := self.post("tiny")).status_code != 200:
            self.assertEqual(again.status_code, 503)
            self.assertLess(time.monotonic(), deadline, "it does not come back")
            time.sleep(0.2)

    def kill_worker(self, name):
        """Ends the process whose order named the deployment's file, told by when it was started."""
        tree = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], check=True, capture_output=True, text=True).stdout
        workers = [line.split() for line in tree.splitlines() if "worker serve" in line]
        workers = sorted(int(words[0]) for words in workers if int(words[1]) == self.server.process.pid)
        os.kill(workers[0 if name == "tiny" else 1], signal.SIGKILL)

    def test_a_crowd_is_answered_or_told_to_come_back(self):
        async def run():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)

            async def ask(number):
                try:
                    await client.completions.create(model="other", prompt=f"{number}", max_tokens=4)
                    return "answered"
                except openai.RateLimitError as error:
                    self.assertTrue(int(error.response.headers["retry-after"]) >= 1)
                    return "refused"
                except openai.InternalServerError as error:
                    self.assertEqual(error.status_code, 503)
                    self.assertTrue(int(error.response.headers["retry-after"]) >= 1)
                    return "refused"

            outcomes = await asyncio.gather(*(ask(number) for number in range(400)))
            await client.close()
            return outcomes

        outcomes = asyncio.run(run())
        self.assertGreater(outcomes.count("answered"), 0)
        self.assertGreater(outcomes.count("refused"), 0)
        self.assertEqual(self.post("other").status_code, 200)

    def test_ten_thousand_calls_end_and_nobody_else_waits_for_them(self):
        body = json.dumps({"model": "other", "prompt": "once", "max_tokens": 2}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.server.address}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        # The client's own end: fewer than the server takes.
        sockets = asyncio.Semaphore(3000)

        async def ask():
            async with sockets:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                writer.write(request)
                answer = await asyncio.wait_for(reader.read(), 120)
                writer.close()
            status = int(answer.split(b" ", 2)[1])
            if status != 200:
                self.assertIn(status, [429, 503])
                self.assertIn(b"retry-after: ", answer)
            return status

        async def watch(crowd):
            seconds = []
            while not crowd.done():
                started = time.monotonic()
                answer = await asyncio.to_thread(self.post, "tiny", max_tokens=1)
                self.assertEqual(answer.status_code, 200)
                seconds.append(time.monotonic() - started)
                await asyncio.sleep(0.05)
            return seconds

        async def run():
            crowd = asyncio.gather(*(ask() for _ in range(10_000)))
            return await asyncio.gather(crowd, watch(crowd))

        statuses, seconds = asyncio.run(run())
        self.assertEqual(len(statuses), 10_000)
        self.assertGreater(statuses.count(200), 0)
        self.assertGreater(len(seconds), 1)
        self.assertLess(max(seconds), 20)
        self.assertEqual(self.post("other").status_code, 200)

    def test_a_file_that_is_none_is_refused(self):
        for name, bytes_ in [("short", b"GGUF"), ("wrong", b"GGUF" + b"\xff" * 400)]:
            file = self.server.path(f"{name}.gguf")
            pathlib.Path(file).write_bytes(bytes_)
            with self.assertRaises(AssertionError) as raised:
                self.server.command("models", "import", "--name", name, file)
            self.assertIn("GGUF", str(raised.exception))

    def test_models_that_are_loaded_at_once_wait_for_room(self):
        server = Server("--memory-budget", "36MiB")
        self.addCleanup(server.stop)
        names = ["a", "b", "c", "d"]
        for seed, name in enumerate(names):
            speaker.deploy(server, name, seed=seed)

        async def run():
            client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
            await asyncio.gather(*(client.completions.create(model=name, prompt="x", max_tokens=2) for name in names * 3))
            await client.close()

        asyncio.run(run())
        self.assertGreater(metric(server, "wattle_model_evictions_total{", '"room"'), 0)

    def test_who_leaves_while_a_long_prompt_is_read_ends_the_reading(self):
        tokens = 30_000
        speaker.deploy(self.server, "long", shape="long")
        self.assertEqual(self.post("long").status_code, 200)

        async def run():
            client = openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0)
            long = client.completions.create(model="long", prompt="x" * tokens, max_tokens=1)
            call = asyncio.create_task(long)
            while await asyncio.to_thread(self.kv_cells) < 500:
                self.assertFalse(call.done())
                await asyncio.sleep(0.02)
            # Whoever asks meanwhile is answered before that prompt is read.
            await client.completions.create(model="long", prompt="once", max_tokens=4)
            self.assertFalse(call.done())
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await client.close()

        asyncio.run(run())
        deadline = time.monotonic() + 30
        while metric(self.server, 'wattle_generations{deployment="long"', 'state="running"') > 0:
            self.assertLess(time.monotonic(), deadline, "it goes on for nobody")
            time.sleep(0.05)
        self.assertLess(self.kv_cells(), tokens)
        self.assertEqual(self.post("long").status_code, 200)

    def kv_cells(self):
        return metric(self.server, 'wattle_kv_cells{deployment="long"', 'state="used"')

    def test_what_was_kept_of_prompts_goes_with_the_deployment(self):
        speaker.deploy(self.server, "brief", seed=2)
        prompt = "Whatever was read once need not be read again. " * 3
        self.assertEqual([self.post("brief", prompt=prompt + end).status_code for end in "abc"], [200] * 3)
        kept = pathlib.Path(self.server.path("data")) / "prefixes" / "brief-1"
        requests.post(f"{self.server.url}/api/v1/deployments/brief/unload", timeout=30).raise_for_status()
        deadline = time.monotonic() + 30
        while not (kept.is_dir() and [file for file in kept.iterdir() if file.suffix != ".tmp"]):
            self.assertLess(time.monotonic(), deadline, "nothing was kept")
            time.sleep(0.1)
        self.server.command("gc")
        self.assertTrue(kept.is_dir())
        self.server.command("undeploy", "brief")
        self.server.command("gc")
        self.assertFalse(kept.exists())

    def test_tensors_are_not_for_a_language_model(self):
        answer = requests.post(self.server.url + "/models/tiny/predict", json={"x": [1]}, timeout=10)
        self.assertEqual(answer.status_code, 400)
        self.assertIn("language model", answer.json()["error"])


def metric(server, *parts):
    """The sum of the samples whose lines have all these parts."""
    lines = requests.get(server.url + "/metrics", timeout=10).text.splitlines()
    told = [line for line in lines if all(part in line for part in parts) and not line.startswith("#")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in told)


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    unittest.main()
