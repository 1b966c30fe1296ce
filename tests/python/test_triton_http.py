"""Triton's own Python client over HTTP, unmodified: binary tensors, as it sends and wants them, and JSON."""

import asyncio
import unittest

import numpy
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

import graphs
from graphs import DATATYPES, same
from server import Server

LEFT = numpy.arange(32, dtype=numpy.int32).reshape(2, 16)
RIGHT = numpy.full((2, 16), 3, numpy.int32)


def setUpModule():
    global server
    server = Server()
    unittest.addModuleCleanup(server.stop)
    server.deploy("simple", graphs.add_sub())
    server.deploy("echo", graphs.echo())
    server.deploy("texts", graphs.texts())


class TritonHttp(unittest.TestCase):
    def setUp(self):
        self.client = triton.InferenceServerClient(server.address, concurrency=4)
        self.addCleanup(self.client.close)

    def test_server_and_models_are_ready(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("simple"))
        self.assertTrue(self.client.is_model_ready("simple", "1"))
        self.assertFalse(self.client.is_model_ready("simple", "2"))
        self.assertFalse(self.client.is_model_ready("nobody"))

    def test_metadata(self):
        about = self.client.get_server_metadata()
        self.assertEqual(about["name"], "wattle")
        self.assertIn("binary_tensor_data", about["extensions"])
        self.assertIn("model_repository", about["extensions"])
        tensors = lambda *names: [{"name": name, "datatype": "INT32", "shape": [-1, 16]} for name in names]
        for version in ("", "1"):
            metadata = self.client.get_model_metadata("simple", version)
            self.assertEqual(metadata["name"], "simple")
            self.assertEqual(metadata["versions"], ["1"])
            self.assertTrue(metadata["platform"])
            self.assertEqual(metadata["inputs"], tensors("INPUT0", "INPUT1"))
            self.assertEqual(metadata["outputs"], tensors("OUTPUT0", "OUTPUT1"))

    def test_config(self):
        config = self.client.get_model_config("simple")
        self.assertEqual(config["name"], "simple")
        self.assertGreaterEqual(config["max_batch_size"], 0)
        # A model that batches has its rows in max_batch_size instead of its dimensions.
        dims = [16] if config["max_batch_size"] else [-1, 16]
        for side, names in (("input", ["INPUT0", "INPUT1"]), ("output", ["OUTPUT0", "OUTPUT1"])):
            self.assertEqual([tensor["name"] for tensor in config[side]], names)
            for tensor in config[side]:
                self.assertEqual(tensor["data_type"], "TYPE_INT32")
                self.assertEqual(tensor["dims"], dims)

    def test_statistics(self):
        before = self.statistics("simple")
        self.infer()
        self.infer()
        with self.assertRaises(InferenceServerException):
            self.client.infer("simple", [put("INPUT0", LEFT)])
        after = self.statistics("simple")
        succeeded = lambda stats, part: stats["inference_stats"][part]["count"]
        self.assertEqual(succeeded(after, "success") - succeeded(before, "success"), 2)
        self.assertEqual(succeeded(after, "compute_infer") - succeeded(before, "compute_infer"), 2)
        # Each of the two calls had two rows.
        self.assertEqual(after["inference_count"] - before["inference_count"], 4)
        self.assertEqual(after["execution_count"] - before["execution_count"], 2)
        self.assertEqual(after["version"], "1")
        self.assertGreater(after["inference_stats"]["success"]["ns"], before["inference_stats"]["success"]["ns"])
        everything = self.client.get_inference_statistics()["model_stats"]
        self.assertLessEqual({"simple", "echo", "texts"}, {stats["name"] for stats in everything})

    def test_repository(self):
        index = {model["name"]: model for model in self.client.get_model_repository_index()}
        self.assertLessEqual({"simple", "echo", "texts"}, index.keys())
        self.assertEqual(index["simple"]["version"], "1")
        self.assertEqual(index["simple"]["state"], "READY")
        self.client.load_model("simple")
        self.client.unload_model("simple")
        self.client.load_model("simple")
        self.assertTrue(self.client.is_model_ready("simple"))
        self.check(self.infer())
        for change in (self.client.load_model, self.client.unload_model):
            with self.assertRaises(InferenceServerException) as refused:
                change("nobody")
            self.assertIn("nobody", refused.exception.message())

    def test_binary_both_ways_is_the_default(self):
        result = self.infer()
        self.check(result)
        for output in result.get_response()["outputs"]:
            self.assertNotIn("data", output)
            self.assertEqual(output["parameters"]["binary_data_size"], LEFT.nbytes)

    def test_json_both_ways(self):
        outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in ("OUTPUT0", "OUTPUT1")]
        result = self.infer(binary=False, outputs=outputs)
        self.check(result)
        for output in result.get_response()["outputs"]:
            self.assertEqual(len(output["data"]), LEFT.size)

    def test_binary_and_json_mixed(self):
        inputs = [put("INPUT0", LEFT, binary=False), put("INPUT1", RIGHT)]
        for second in (False, True):
            outputs = [
                triton.InferRequestedOutput("OUTPUT0", binary_data=not second),
                triton.InferRequestedOutput("OUTPUT1", binary_data=second),
            ]
            self.check(self.client.infer("simple", inputs, outputs=outputs))

    def test_requested_outputs(self):
        result = self.infer(outputs=[triton.InferRequestedOutput("OUTPUT1")])
        self.assertIsNone(result.as_numpy("OUTPUT0"))
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)
        with self.assertRaises(InferenceServerException) as refused:
            self.infer(outputs=[triton.InferRequestedOutput("OUTPUT9")])
        self.assertEqual(refused.exception.status(), "400")
        self.assertIn("OUTPUT9", refused.exception.message())

    def test_id_version_and_parameters(self):
        options = {"priority": 1, "timeout": 5_000_000, "parameters": {"of": "mine"}}
        result = self.infer(request_id="seven", model_version="1", **options)
        response = result.get_response()
        self.assertEqual(response["id"], "seven")
        self.assertEqual(response["model_name"], "simple")
        self.assertEqual(response["model_version"], "1")
        self.assertNotIn("id", self.infer().get_response())

    def test_compression(self):
        rows = numpy.arange(16 * 4096, dtype=numpy.int32).reshape(4096, 16)
        inputs = [put("INPUT0", rows), put("INPUT1", rows)]
        for sent in (None, "gzip", "deflate"):
            for wanted in (None, "gzip", "deflate"):
                with self.subTest(sent=sent, wanted=wanted):
                    result = self.client.infer(
                        "simple",
                        inputs,
                        request_compression_algorithm=sent,
                        response_compression_algorithm=wanted,
                    )
                    numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * rows)

    def test_many_at_once(self):
        calls = []
        for number in range(32):
            inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT)]
            calls.append(self.client.async_infer("simple", inputs, request_id=str(number)))
        for number, call in enumerate(calls):
            result = call.get_result()
            self.assertEqual(result.get_response()["id"], str(number))
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT + number - RIGHT)

    def test_every_datatype_in_binary(self):
        inputs = [put(f"INPUT_{name}", values) for name, (_, values) in DATATYPES.items()]
        result = self.client.infer("echo", inputs)
        for name, (_, values) in DATATYPES.items():
            with self.subTest(datatype=name):
                self.assertEqual(result.get_output(f"OUTPUT_{name}")["datatype"], name)
                same(result.as_numpy(f"OUTPUT_{name}"), values)

    def test_every_datatype_in_json(self):
        # The client itself refuses BF16 in JSON.
        in_json = [name for name in DATATYPES if name != "BF16"]
        inputs = [
            put(f"INPUT_{name}", values, binary=name not in in_json) for name, (_, values) in DATATYPES.items()
        ]
        outputs = [triton.InferRequestedOutput(f"OUTPUT_{name}", binary_data=False) for name in in_json]
        result = self.client.infer("echo", inputs, outputs=outputs)
        for name in in_json:
            with self.subTest(datatype=name):
                values = DATATYPES[name][1]
                answer = result.as_numpy(f"OUTPUT_{name}")
                # Texts in JSON are texts.
                same(answer, numpy.vectorize(bytes.decode)(values) if name == "BYTES" else values)

    def test_what_is_not_a_number(self):
        values = numpy.array([[numpy.nan, numpy.inf], [-numpy.inf, -0.0]])
        inputs = [
            put(f"INPUT_{name}", values.astype(first.dtype) if name == "FP64" else first)
            for name, (_, first) in DATATYPES.items()
        ]
        result = self.client.infer("echo", inputs, outputs=[triton.InferRequestedOutput("OUTPUT_FP64")])
        self.assertEqual(result.as_numpy("OUTPUT_FP64").tobytes(), values.tobytes())

    def test_texts_of_any_length(self):
        for values in ([[b""]], [[b"a", b"", b"ccc"]], [["🦎" * 1000], ["line\nline"]], [[b"x" * 100_000]]):
            texts = numpy.array(values, numpy.object_)
            answer = self.client.infer("texts", [put("TEXT", texts)]).as_numpy("SAME")
            same(answer, numpy.array([[as_bytes(text) for text in row] for row in values], numpy.object_))

    def test_no_rows_are_refused(self):
        nothing = numpy.empty((0, 16), numpy.int32)
        with self.assertRaises(InferenceServerException) as refused:
            self.client.infer("simple", [put("INPUT0", nothing), put("INPUT1", nothing)])
        self.assertEqual(refused.exception.status(), "400")
        self.assertIn("at least one row", refused.exception.message())

    def test_errors_say_what_is_wrong(self):
        left, right = put("INPUT0", LEFT), put("INPUT1", RIGHT)
        wide = put("INPUT1", numpy.zeros((2, 17), numpy.int32))
        floats = put("INPUT1", RIGHT.astype(numpy.float32))
        unknown = put("INPUT2", RIGHT)
        longer = put("INPUT1", numpy.zeros((3, 16), numpy.int32))
        cases = [
            ("nobody", "", [left, right], "404", "nobody"),
            ("simple", "7", [left, right], "404", "7"),
            ("simple", "", [left], "400", "INPUT1"),
            ("simple", "", [left, wide], "400", "INPUT1"),
            ("simple", "", [left, floats], "400", "INPUT1"),
            ("simple", "", [left, right, unknown], "400", "INPUT2"),
            ("simple", "", [left, longer], "400", "INPUT1"),
        ]
        for model, version, inputs, status, word in cases:
            with self.subTest(model=model, version=version, inputs=[tensor.name() for tensor in inputs]):
                with self.assertRaises(InferenceServerException) as refused:
                    self.client.infer(model, inputs, model_version=version)
                self.assertEqual(refused.exception.status(), status)
                self.assertIn(word, refused.exception.message())
        self.check(self.infer())

    def test_what_needs_shared_memory_is_refused(self):
        shared = triton.InferInput("INPUT0", LEFT.shape, "INT32")
        shared.set_shared_memory("region", LEFT.nbytes)
        with self.assertRaises(InferenceServerException) as refused:
            self.client.infer("simple", [shared, put("INPUT1", RIGHT)])
        self.assertIn("shared", refused.exception.message())
        for call in (self.client.get_system_shared_memory_status, self.client.get_trace_settings):
            with self.assertRaises(InferenceServerException) as refused:
                call()
            # The text is the server's, and not the client's complaint about an answer that it cannot read.
            self.assertNotIn("client", refused.exception.message())

    def infer(self, binary=True, **options):
        inputs = [put("INPUT0", LEFT, binary), put("INPUT1", RIGHT, binary)]
        return self.client.infer("simple", inputs, **options)

    def check(self, result):
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + RIGHT)
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)

    def statistics(self, name):
        (stats,) = self.client.get_inference_statistics(name)["model_stats"]
        return stats




class TritonHttpAsyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = triton_aio.InferenceServerClient(server.address)
        self.addAsyncCleanup(self.client.close)

    async def test_about_the_server(self):
        self.assertTrue(await self.client.is_server_live())
        self.assertTrue(await self.client.is_server_ready())
        self.assertTrue(await self.client.is_model_ready("simple"))
        self.assertEqual((await self.client.get_server_metadata())["name"], "wattle")
        self.assertEqual((await self.client.get_model_metadata("simple"))["versions"], ["1"])
        self.assertEqual((await self.client.get_model_config("simple"))["name"], "simple")
        index = await self.client.get_model_repository_index()
        self.assertIn("simple", [model["name"] for model in index])
        await self.client.load_model("texts")
        await self.client.unload_model("texts")
        stats = await self.client.get_inference_statistics("simple")
        self.assertEqual(stats["model_stats"][0]["name"], "simple")

    async def test_many_at_once(self):
        async def call(number):
            inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT, binary=number % 3 != 0)]
            outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=number % 2 == 0)]
            algorithm = [None, "gzip", "deflate"][number % 3]
            result = await self.client.infer(
                "simple",
                inputs,
                outputs=outputs,
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + number + RIGHT)

        await asyncio.gather(*map(call, range(64)))

    async def test_errors(self):
        with self.assertRaises(InferenceServerException) as refused:
            await self.client.infer("nobody", [put("INPUT0", LEFT)])
        self.assertEqual(refused.exception.status(), "404")
        self.assertIn("nobody", refused.exception.message())


def put(name, values, binary=True):
    datatype = triton.np_to_triton_dtype(values.dtype)
    return triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


if __name__ == "__main__":
    unittest.main()
