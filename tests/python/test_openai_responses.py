"""OpenAI's own client asks a language model for responses: text, thoughts, tools, forms and streams."""

import json
import unittest
from typing import Literal

import openai
from pydantic import BaseModel

import speaker
from server import Server

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    name: Literal["Ann", "Bob"]
    is_tall: bool


class Responses(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        speaker.deploy(cls.server, "tiny")
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)

    def respond(self, **more):
        return self.client.responses.create(**{"model": "tiny", "input": "Hello!", "max_output_tokens": 12, **more})

    def test_a_response_has_text_and_says_what_it_took(self):
        response = self.respond(instructions="Be brief.", metadata={"who": "test"}, temperature=0.7, extra_body={"seed": 1})
        self.assertEqual((response.object, response.status), ("response", "incomplete"))
        self.assertEqual(response.incomplete_details.reason, "max_output_tokens")
        self.assertTrue(response.output_text)
        self.assertEqual(response.output[0].role, "assistant")
        self.assertEqual((response.temperature, response.metadata), (0.7, {"who": "test"}))
        self.assertEqual((response.instructions, response.store), ("Be brief.", False))
        usage = response.usage
        self.assertEqual((usage.output_tokens, usage.total_tokens), (12, usage.input_tokens + 12))
        self.assertEqual(usage.output_tokens_details.reasoning_tokens, 0)
        self.assertGreater(usage.energy["joules"]["mid"], 0)

    def test_a_stream_adds_up_to_the_same_response(self):
        whole = self.respond(extra_body={"seed": 7})
        events = list(self.respond(extra_body={"seed": 7}, stream=True))
        kinds = [event.type for event in events]
        self.assertEqual(kinds[:4], [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        ])  # fmt: skip
        self.assertEqual(kinds[-4:], [
            "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
        ])  # fmt: skip
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, whole.output_text)
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        self.assertEqual(events[-1].response.usage.output_tokens, 12)
        self.assertEqual(events[0].response.id, events[-1].response.id)

    def test_the_clients_own_stream_ends_with_the_response(self):
        with self.client.responses.stream(
            model="tiny", input="Who?", text_format=Person, max_output_tokens=200
        ) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            response = stream.get_final_response()
        self.assertEqual((response.status, response.output_text), ("completed", text))
        self.assertIsInstance(response.output_parsed, Person)

    def test_the_clients_own_models_are_parsed(self):
        response = self.client.responses.parse(model="tiny", input="Who?", text_format=Person, max_output_tokens=200)
        self.assertIsInstance(response.output_parsed, Person)

    def test_a_tool_is_called_and_its_answer_taken(self):
        question = [{"role": "user", "content": "Will it rain?"}]
        asked = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 300}
        response = self.respond(input=question, **asked)
        self.assertEqual(response.status, "completed")
        call = next(item for item in response.output if item.type == "function_call")
        self.assertEqual((call.name, call.status), ("weather", "completed"))
        arguments = json.loads(call.arguments)
        self.assertLessEqual(arguments["days"], 9)
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        again = self.respond(input=[*question, *response.output, output], tools=[WEATHER])
        self.assertGreater(again.usage.input_tokens, response.usage.input_tokens)
        self.assertTrue(again.output)

    def test_a_call_is_streamed(self):
        with self.client.responses.stream(
            model="tiny",
            input="Will it rain?",
            tools=[WEATHER],
            tool_choice={"type": "function", "name": "weather"},
            parallel_tool_calls=False,
            max_output_tokens=300,
        ) as stream:
            parts = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
            response = stream.get_final_response()
        call = next(item for item in response.output if item.type == "function_call")
        self.assertEqual("".join(parts), call.arguments)
        self.assertEqual(set(call.parsed_arguments), {"city", "days"})

    def test_probabilities_are_told(self):
        response = self.respond(include=["message.output_text.logprobs"], top_logprobs=2)
        told = response.output[0].content[0].logprobs
        self.assertEqual(len(told), 12)
        for token in told:
            self.assertLess(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 2)

    def test_what_cannot_be_is_refused(self):
        for more, word in [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"tools": [{"type": "web_search"}]}, "web_search"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
            ({"input": "a" * 100_000}, "tokens"),
        ]:
            with self.subTest(word), self.assertRaises(openai.BadRequestError) as caught:
                self.respond(**more)
            self.assertIn(word, str(caught.exception))
        with self.assertRaises(openai.NotFoundError) as caught:
            self.respond(model="nobody")
        self.assertEqual((caught.exception.param, caught.exception.code), ("model", "model_not_found"))


if __name__ == "__main__":
    unittest.main()
