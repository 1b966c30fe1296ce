"""Anthropic's own client, and what else a language model answers: reranking, tokens, the Open Inference Protocol."""

import json
import pathlib
import unittest

import anthropic
import requests

import speaker
from server import Server

HELLO = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "name": "weather",
    "description": "The weather at a place.",
    "input_schema": {
        "type": "object",
        "properties": {"days": {"type": "integer", "maximum": 9}},
        "required": ["days"],
        "additionalProperties": False,
    },
}


class Anthropic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        speaker.deploy(cls.server, "tiny")
        cls.client = anthropic.Anthropic(base_url=cls.server.url, api_key="none", max_retries=0)

    def test_a_message_is_answered_and_counted(self):
        message = self.client.messages.create(model="tiny", max_tokens=8, system="Be brief.", messages=HELLO)
        self.assertEqual((message.role, message.stop_reason, message.content[0].type), ("assistant", "max_tokens", "text"))
        self.assertEqual(message.usage.output_tokens, 8)
        self.assertGreater(message.usage.energy["joules"]["mid"], 0)
        counted = self.client.messages.count_tokens(model="tiny", system="Be brief.", messages=HELLO)
        usage = message.usage
        self.assertEqual(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)

    def test_a_stream_is_the_message_in_parts(self):
        with self.client.messages.stream(model="tiny", max_tokens=8, messages=HELLO) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        self.assertEqual((message.content[0].text, message.stop_reason), (text, "max_tokens"))

    def test_a_tool_that_must_be_called_is(self):
        ask = {"model": "tiny", "max_tokens": 400, "messages": HELLO, "tools": [WEATHER]}
        choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
        message = self.client.messages.create(**ask, tool_choice=choice)
        self.assertEqual(message.stop_reason, "tool_use")
        call = message.content[-1]
        self.assertEqual((call.type, call.name), ("tool_use", "weather"))
        self.assertLessEqual(call.input["days"], 9)
        with self.client.messages.stream(**ask, tool_choice=choice) as stream:
            streamed = stream.get_final_message()
        self.assertLessEqual(streamed.content[-1].input["days"], 9)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        turns = [*HELLO, {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]}]
        again = self.client.messages.create(
            model="tiny", max_tokens=4, messages=[*turns, {"role": "user", "content": [result]}], tools=[WEATHER]
        )
        self.assertGreater(again.usage.output_tokens, 0)

    def test_what_is_wrong_has_the_clients_own_errors(self):
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(model="none", max_tokens=4, messages=HELLO)
        with self.assertRaises(anthropic.BadRequestError) as raised:
            self.client.messages.create(model="tiny", max_tokens=4, messages=HELLO, extra_body={"temperature": 1000})
        self.assertIn("temperature", str(raised.exception))

    def test_texts_become_tokens_and_text_again(self):
        asked = {"model": "tiny", "content": "Straße"}
        tokens = requests.post(self.server.url + "/api/v1/tokenize", json=asked, timeout=30).json()["tokens"]
        self.assertEqual(len(tokens), 7)
        told = requests.post(self.server.url + "/api/v1/detokenize", json={"model": "tiny", "tokens": tokens}, timeout=30)
        self.assertEqual(told.json(), {"text": "Straße"})
        wrong = requests.post(self.server.url + "/api/v1/detokenize", json={"model": "tiny", "tokens": [9999]}, timeout=30)
        self.assertEqual(wrong.status_code, 400)

    def test_the_open_inference_protocol_generates(self):
        asked = {"text_input": "Once", "parameters": {"max_tokens": 6, "seed": 3, "details": True}}
        whole = requests.post(self.server.url + "/v2/models/tiny/generate", json=asked, timeout=30).json()
        self.assertEqual((whole["model_name"], whole["details"]["completion_tokens"]), ("tiny", 6))
        events = requests.post(self.server.url + "/v2/models/tiny/versions/1/generate_stream", json=asked, timeout=30)
        parts = [json.loads(line[6:]) for line in events.content.decode().splitlines() if line.startswith("data: ")]
        self.assertEqual("".join(part["text_output"] for part in parts), whole["text_output"])


class Reranking(unittest.TestCase):
    def test_the_document_on_the_subject_comes_first(self):
        server = Server()
        self.addCleanup(server.stop)
        server.command("models", "import", "--name", "minilm", speaker.MINILM)
        server.command("deploy", "minilm")
        documents = ["Interest rates rose again.", {"text": "A cat sleeps on the sofa."}, "Rain is expected."]
        asked = {"model": "minilm", "query": "Where is my cat?", "documents": documents, "top_n": 2}
        told = requests.post(server.url + "/v1/rerank", json=asked, timeout=60).json()
        self.assertEqual([result["index"] for result in told["results"]][:1], [1])
        self.assertEqual(len(told["results"]), 2)
        # The same on the command line.
        vectors = json.loads(server.command("embed", "minilm", "one", "two", "-o", "json"))
        self.assertEqual([len(vector) for vector in vectors["embeddings"]], [384, 384])


class CommandLine(unittest.TestCase):
    def test_models_are_talked_to(self):
        server = Server()
        self.addCleanup(server.stop)
        speaker.deploy(server, "tiny")
        said = json.loads(server.command("chat", "tiny", "-p", "Hello!", "--max-tokens", "5", "-o", "json"))
        self.assertEqual(said["usage"]["completion_tokens"], 5)
        schema = pathlib.Path(server.path("schema.json"))
        schema.write_text('{"enum": ["red", "green"]}')
        answer = server.command("generate", "tiny", "A colour: ", "--json-schema", schema)
        self.assertIn(json.loads(answer), ["red", "green"])
        self.assertRegex(server.command("generate", "tiny", "The year: ", "--regex", "[0-9]{4}"), r"^[0-9]{4}\s*$")


if __name__ == "__main__":
    unittest.main()
