"""Triton's own Python client over gRPC, unmodified: single calls, streams, time limits, compression, asyncio."""

import asyncio
import queue
import threading
import unittest

import grpc
import numpy
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import graphs
from graphs import DATATYPES, same
from server import Server

LEFT = numpy.arange(32, dtype=numpy.int32).reshape(2, 16)
RIGHT = numpy.full((2, 16), 3, numpy.int32)
# An answer takes at most this long, or the test fails instead of hanging.
ANSWER_WITHIN_SECONDS = 60
# Turns of the slow model, which take several times as long as the time limits below.
MANY_TURNS = 40_000


def setUpModule():
    global server
    server = Server()
    unittest.addModuleCleanup(server.stop)
    server.deploy("simple", graphs.add_sub())
    server.deploy("echo", graphs.echo())
    server.deploy("texts", graphs.texts())
    server.deploy("slow", graphs.slow())


class TritonGrpc(unittest.TestCase):
    def setUp(self):
        self.client = triton.InferenceServerClient(server.address)
        self.addCleanup(self.client.close)

    def test_server_and_models_are_ready(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready("simple"))
        self.assertTrue(self.client.is_model_ready("simple", "1"))
        # Triton's own answer for what it does not know is an answer too, and no error.
        self.assertFalse(self.client.is_model_ready("simple", "2"))
        self.assertFalse(self.client.is_model_ready("nobody"))

    def test_metadata(self):
        about = self.client.get_server_metadata()
        self.assertEqual(about.name, "wattle")
        self.assertTrue(about.version)
        self.assertIn("model_repository", about.extensions)
        for version in ("", "1"):
            metadata = self.client.get_model_metadata("simple", version)
            self.assertEqual(metadata.name, "simple")
            self.assertEqual(list(metadata.versions), ["1"])
            for side, tensors in (("INPUT", metadata.inputs), ("OUTPUT", metadata.outputs)):
                found = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]
                self.assertEqual(found, [(f"{side}{number}", "INT32", [-1, 16]) for number in range(2)])
        as_json = self.client.get_model_metadata("simple", as_json=True)
        self.assertEqual(as_json["inputs"][0]["shape"], ["-1", "16"])

    def test_config(self):
        config = self.client.get_model_config("simple").config
        self.assertEqual(config.name, "simple")
        dims = [16] if config.max_batch_size else [-1, 16]
        self.assertEqual([put.name for put in config.input], ["INPUT0", "INPUT1"])
        self.assertEqual([put.name for put in config.output], ["OUTPUT0", "OUTPUT1"])
        for tensor in [*config.input, *config.output]:
            self.assertEqual(triton.model_config_pb2.DataType.Name(tensor.data_type), "TYPE_INT32")
            self.assertEqual(list(tensor.dims), dims)

    def test_statistics(self):
        before = self.statistics("simple")
        self.infer()
        self.infer()
        with self.assertRaises(InferenceServerException):
            self.client.infer("simple", [put("INPUT0", LEFT)])
        after = self.statistics("simple")
        self.assertEqual(after.inference_stats.success.count - before.inference_stats.success.count, 2)
        self.assertEqual(after.inference_count - before.inference_count, 4)
        self.assertEqual(after.execution_count - before.execution_count, 2)
        self.assertGreater(after.inference_stats.success.ns, before.inference_stats.success.ns)
        everything = self.client.get_inference_statistics().model_stats
        self.assertLessEqual({"simple", "echo", "texts", "slow"}, {stats.name for stats in everything})

    def test_repository(self):
        index = {model.name: model for model in self.client.get_model_repository_index().models}
        self.assertLessEqual({"simple", "echo", "texts", "slow"}, index.keys())
        self.assertEqual(index["simple"].version, "1")
        self.assertEqual(index["simple"].state, "READY")
        self.client.load_model("simple")
        self.client.unload_model("simple")
        self.client.load_model("simple")
        self.assertTrue(self.client.is_model_ready("simple"))
        self.check(self.infer())
        for change in (self.client.load_model, self.client.unload_model):
            with self.assertRaises(InferenceServerException) as refused:
                change("nobody")
            self.assertIn("nobody", refused.exception.message())

    def test_infer(self):
        options = {"priority": 1, "timeout": 5_000_000}
        options["parameters"] = {"text": "mine", "number": 7, "share": 0.5, "yes": True}
        result = self.infer(request_id="seven", model_version="1", **options)
        self.check(result)
        response = result.get_response()
        self.assertEqual((response.id, response.model_name, response.model_version), ("seven", "simple", "1"))

    def test_requested_outputs(self):
        result = self.infer(outputs=[triton.InferRequestedOutput("OUTPUT1")])
        self.assertIsNone(result.as_numpy("OUTPUT0"))
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)
        with self.assertRaises(InferenceServerException) as refused:
            self.infer(outputs=[triton.InferRequestedOutput("OUTPUT9")])
        self.assertEqual(refused.exception.status(), "StatusCode.INVALID_ARGUMENT")
        self.assertIn("OUTPUT9", refused.exception.message())

    def test_every_datatype(self):
        inputs = [put(f"INPUT_{name}", values) for name, (_, values) in DATATYPES.items()]
        result = self.client.infer("echo", inputs)
        for name, (_, values) in DATATYPES.items():
            with self.subTest(datatype=name):
                self.assertEqual(result.get_output(f"OUTPUT_{name}").datatype, name)
                same(result.as_numpy(f"OUTPUT_{name}"), values)

    def test_typed_contents(self):
        """What hand-written clients send: one repeated field for each datatype; the 16-bit floats have none."""
        fields = {"INT8": "int", "INT16": "int", "INT32": "int", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint"}
        fields |= {name: name.lower() for name in ("BOOL", "BYTES", "FP32", "FP64", "INT64", "UINT64")}
        request = service_pb2.ModelInferRequest(model_name="typed")
        for name, field in fields.items():
            values = DATATYPES[name][1]
            tensor = request.inputs.add(name=f"INPUT_{name}", datatype=name, shape=values.shape)
            getattr(tensor.contents, f"{field}_contents").extend(values.ravel().tolist())
        server.deploy("typed", graphs.echo(fields))
        with grpc.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            response = stub.ModelInfer(request, timeout=ANSWER_WITHIN_SECONDS)
        result = triton.InferResult(response)
        for name in fields:
            with self.subTest(datatype=name):
                same(result.as_numpy(f"OUTPUT_{name}"), DATATYPES[name][1])

    def test_texts_of_any_length(self):
        for values in ([[b""]], [[b"a", b"", b"ccc"]], [["🦎".encode() * 1000]], [[b"x" * 100_000]]):
            texts = numpy.array(values, numpy.object_)
            same(self.client.infer("texts", [put("TEXT", texts)]).as_numpy("SAME"), texts)

    def test_compression(self):
        rows = numpy.arange(16 * 4096, dtype=numpy.int32).reshape(4096, 16)
        for algorithm in ("gzip", "deflate"):
            with self.subTest(algorithm=algorithm):
                inputs = [put("INPUT0", rows), put("INPUT1", rows)]
                result = self.client.infer("simple", inputs, compression_algorithm=algorithm)
                numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * rows)

    def test_large_messages(self):
        # Twice 6 MiB: more than the 4 MiB at which gRPC libraries stop unless told otherwise.
        rows = numpy.arange(6 << 18, dtype=numpy.int32).reshape(-1, 16)
        result = self.client.infer("simple", [put("INPUT0", rows), put("INPUT1", rows)])
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), rows - rows)

    def test_many_at_once(self):
        answers = queue.Queue()
        for number in range(64):
            inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT)]
            callback = lambda result, error: answers.put((result, error))
            self.client.async_infer("simple", inputs, callback, request_id=str(number))
        seen = set()
        for _ in range(64):
            result, error = answers.get(timeout=ANSWER_WITHIN_SECONDS)
            self.assertIsNone(error)
            number = int(result.get_response().id)
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + number + RIGHT)
            seen.add(number)
        self.assertEqual(len(seen), 64)

    def test_a_time_limit_ends_the_call(self):
        with self.assertRaises(InferenceServerException) as late:
            self.client.infer("slow", [turns(MANY_TURNS)], client_timeout=0.2)
        self.assertEqual(late.exception.status(), "StatusCode.DEADLINE_EXCEEDED")
        self.check(self.infer())

    def test_a_call_can_be_cancelled(self):
        answers = queue.Queue()
        callback = lambda result, error: answers.put((result, error))
        call = self.client.async_infer("slow", [turns(MANY_TURNS)], callback)
        call.cancel()
        result, error = answers.get(timeout=ANSWER_WITHIN_SECONDS)
        self.assertIsNone(result)
        self.assertEqual(error.status(), "StatusCode.CANCELLED")
        self.check(self.infer())

    def test_stream(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(64):
            inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT)]
            # Every eighth request is wrong, which must cost it alone.
            model = "simple" if number % 8 else "nobody"
            self.client.async_stream_infer(model, inputs, request_id=str(number))
        seen, refused = set(), 0
        for _ in range(64):
            result, error = answers.get(timeout=ANSWER_WITHIN_SECONDS)
            if error is not None:
                self.assertIn("nobody", error.message())
                refused += 1
                continue
            number = int(result.get_response().id)
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT + number - RIGHT)
            seen.add(number)
        self.assertEqual(refused, 8)
        self.assertEqual(seen, {number for number in range(64) if number % 8})
        within(ANSWER_WITHIN_SECONDS, self.client.stop_stream)
        self.assertTrue(answers.empty())

    def test_stream_of_several_models_and_its_final_flag(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
        texts = numpy.array([[b"hello"]], numpy.object_)
        self.client.async_stream_infer("texts", [put("TEXT", texts)], request_id="a", enable_empty_final_response=True)
        inputs = [put("INPUT0", LEFT), put("INPUT1", RIGHT)]
        outputs = [triton.InferRequestedOutput("OUTPUT0")]
        self.client.async_stream_infer("simple", inputs, request_id="b", outputs=outputs)
        results = {}
        for _ in range(2):
            result, error = answers.get(timeout=ANSWER_WITHIN_SECONDS)
            self.assertIsNone(error)
            results[result.get_response().id] = result
        within(ANSWER_WITHIN_SECONDS, self.client.stop_stream)
        same(results["a"].as_numpy("SAME"), texts)
        self.assertTrue(results["a"].get_response().parameters["triton_final_response"].bool_param)
        numpy.testing.assert_array_equal(results["b"].as_numpy("OUTPUT0"), LEFT + RIGHT)

    def test_a_stream_can_be_given_up(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        self.client.async_stream_infer("slow", [turns(MANY_TURNS)])
        within(ANSWER_WITHIN_SECONDS, lambda: self.client.stop_stream(cancel_requests=True))
        _, error = answers.get(timeout=ANSWER_WITHIN_SECONDS)
        self.assertEqual(error.status(), "StatusCode.CANCELLED")
        self.check(self.infer())

    def test_errors_say_what_is_wrong(self):
        left, right = put("INPUT0", LEFT), put("INPUT1", RIGHT)
        wide = put("INPUT1", numpy.zeros((2, 17), numpy.int32))
        floats = put("INPUT1", RIGHT.astype(numpy.float32))
        unknown = put("INPUT2", RIGHT)
        longer = put("INPUT1", numpy.zeros((3, 16), numpy.int32))
        nothing = put("INPUT0", numpy.empty((0, 16), numpy.int32))
        shared = triton.InferInput("INPUT0", LEFT.shape, "INT32")
        shared.set_shared_memory("region", LEFT.nbytes)
        cases = [
            ("nobody", "", [left, right], "NOT_FOUND", "nobody"),
            ("simple", "7", [left, right], "NOT_FOUND", "7"),
            ("simple", "", [left], "INVALID_ARGUMENT", "INPUT1"),
            ("simple", "", [left, wide], "INVALID_ARGUMENT", "INPUT1"),
            ("simple", "", [left, floats], "INVALID_ARGUMENT", "INPUT1"),
            ("simple", "", [left, right, unknown], "INVALID_ARGUMENT", "INPUT2"),
            ("simple", "", [left, longer], "INVALID_ARGUMENT", "INPUT1"),
            ("simple", "", [nothing, right], "INVALID_ARGUMENT", "at least one row"),
        ]
        for model, version, inputs, status, word in cases:
            with self.subTest(model=model, version=version, inputs=[tensor.name() for tensor in inputs]):
                with self.assertRaises(InferenceServerException) as refused:
                    self.client.infer(model, inputs, model_version=version)
                self.assertEqual(refused.exception.status(), f"StatusCode.{status}")
                self.assertIn(word, refused.exception.message())
        with self.assertRaises(InferenceServerException) as refused:
            self.client.infer("simple", [shared, right])
        self.assertIn("shared", refused.exception.message())
        with self.assertRaises(InferenceServerException) as refused:
            self.client.get_system_shared_memory_status()
        self.assertEqual(refused.exception.status(), "StatusCode.UNIMPLEMENTED")
        self.check(self.infer())

    def infer(self, **options):
        inputs = [put("INPUT0", LEFT), put("INPUT1", RIGHT)]
        return self.client.infer("simple", inputs, client_timeout=ANSWER_WITHIN_SECONDS, **options)

    def check(self, result):
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + RIGHT)
        numpy.testing.assert_array_equal(result.as_numpy("OUTPUT1"), LEFT - RIGHT)

    def statistics(self, name):
        (stats,) = self.client.get_inference_statistics(name).model_stats
        return stats


class TritonGrpcAsyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.client = triton_aio.InferenceServerClient(server.address)
        self.addAsyncCleanup(self.client.close)

    async def test_about_the_server(self):
        self.assertTrue(await self.client.is_server_live())
        self.assertTrue(await self.client.is_server_ready())
        self.assertTrue(await self.client.is_model_ready("simple"))
        self.assertEqual((await self.client.get_server_metadata()).name, "wattle")
        self.assertEqual((await self.client.get_model_metadata("simple")).versions, ["1"])
        self.assertEqual((await self.client.get_model_config("simple")).config.name, "simple")
        index = await self.client.get_model_repository_index()
        self.assertIn("simple", [model.name for model in index.models])
        stats = await self.client.get_inference_statistics("simple")
        self.assertEqual(stats.model_stats[0].name, "simple")

    async def test_many_at_once(self):
        async def call(number):
            inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT)]
            algorithm = [None, "gzip", "deflate"][number % 3]
            result = await self.client.infer("simple", inputs, compression_algorithm=algorithm)
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + number + RIGHT)

        await asyncio.gather(*map(call, range(64)))

    async def test_stream(self):
        async def requests():
            for number in range(32):
                inputs = [put("INPUT0", LEFT + number), put("INPUT1", RIGHT)]
                yield {"model_name": "simple", "inputs": inputs, "request_id": str(number)}

        seen = set()
        async for result, error in self.client.stream_infer(requests(), stream_timeout=ANSWER_WITHIN_SECONDS):
            self.assertIsNone(error)
            number = int(result.get_response().id)
            numpy.testing.assert_array_equal(result.as_numpy("OUTPUT0"), LEFT + number + RIGHT)
            seen.add(number)
        self.assertEqual(seen, set(range(32)))

    async def test_errors(self):
        with self.assertRaises(InferenceServerException) as refused:
            await self.client.infer("nobody", [put("INPUT0", LEFT)])
        self.assertEqual(refused.exception.status(), "StatusCode.NOT_FOUND")
        with self.assertRaises(InferenceServerException) as late:
            await self.client.infer("slow", [turns(MANY_TURNS)], client_timeout=0.2)
        self.assertEqual(late.exception.status(), "StatusCode.DEADLINE_EXCEEDED")


def put(name, values):
    datatype = np_to_triton_dtype(values.dtype)
    return triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def turns(number):
    return put("x", numpy.array([[number]], numpy.float32))


def within(seconds, work):
    """Runs what may hang in a thread of its own, and fails when it takes longer than this."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"not done within {seconds} s"


if __name__ == "__main__":
    unittest.main()
