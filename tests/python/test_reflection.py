"""gRPC without any generated code, as grpcurl works: the server itself says what can be called and how."""

import unittest

import grpc
import numpy
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

import graphs
from server import Server

SERVICE = "inference.GRPCInferenceService"
# An answer takes at most this long, or the test fails instead of hanging.
ANSWER_WITHIN_SECONDS = 60
METHODS = {
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
}


class Reflection(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        cls.server.deploy("scaled", graphs.scaled(3.0))

    def setUp(self):
        self.channel = grpc.insecure_channel(self.server.address)
        self.addCleanup(self.channel.close)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def test_services_are_listed(self):
        services = set(self.database.get_services())
        self.assertLessEqual({SERVICE, "grpc.health.v1.Health"}, services)
        # Each that is listed can be described.
        for service in services:
            self.assertTrue(self.pool.FindServiceByName(service).methods_by_name, service)

    def test_both_versions_of_reflection_answer(self):
        """This client knows the first version alone; newer ones ask the second first, whose messages are the same."""
        for version in ("v1alpha", "v1"):
            ask = self.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )
            (answer,) = ask(iter([ServerReflectionRequest(list_services="")]), timeout=ANSWER_WITHIN_SECONDS)
            self.assertIn(SERVICE, [service.name for service in answer.list_services_response.service], version)

    def test_methods_are_described(self):
        methods = self.pool.FindServiceByName(SERVICE).methods_by_name
        self.assertLessEqual(METHODS, set(methods))
        with self.assertRaises((KeyError, grpc.RpcError)):
            self.pool.FindServiceByName("inference.Nobody")

    def test_models_are_called_by_description_alone(self):
        about = self.call("ServerMetadata")
        self.assertEqual(about["name"], "wattle")
        metadata = self.call("ModelMetadata", name="scaled")
        (only,) = metadata["inputs"]
        self.assertEqual((only["name"], only["datatype"], only["shape"]), ("x", "FP32", ["-1", "4"]))

        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [1, 2, 3, 4]}}
        raw = self.call("ModelInfer", as_message=True, model_name="scaled", inputs=[tensor])
        answer = numpy.frombuffer(raw.raw_output_contents[0], numpy.float32)
        self.assertEqual(answer.tolist(), [3, 6, 9, 12])

        with self.assertRaises(grpc.RpcError) as refused:
            self.call("ModelMetadata", name="nobody")
        self.assertEqual(refused.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_health(self):
        stub = health_pb2_grpc.HealthStub(self.channel)
        check = lambda service: stub.Check(
            health_pb2.HealthCheckRequest(service=service), timeout=ANSWER_WITHIN_SECONDS
        )
        for service in ("", SERVICE):
            self.assertEqual(check(service).status, health_pb2.HealthCheckResponse.SERVING)
        with self.assertRaises(grpc.RpcError) as unknown:
            check("nobody")
        self.assertEqual(unknown.exception.code(), grpc.StatusCode.NOT_FOUND)

    def call(self, name, /, as_message=False, **fields):
        """Calls a method with a message that is made from what the server says of it."""
        method = self.pool.FindServiceByName(SERVICE).methods_by_name[name]
        asks, answers = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        call = self.channel.unary_unary(
            f"/{SERVICE}/{name}", request_serializer=asks.SerializeToString, response_deserializer=answers.FromString
        )
        answer = call(json_format.ParseDict(fields, asks()), timeout=ANSWER_WITHIN_SECONDS)
        return answer if as_message else json_format.MessageToDict(answer, preserving_proto_field_name=True)


class Health(unittest.TestCase):
    def test_watchers_hear_of_the_end(self):
        server = Server()
        self.addCleanup(server.stop)
        with grpc.insecure_channel(server.address) as channel:
            states = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=""), timeout=ANSWER_WITHIN_SECONDS
            )
            self.assertEqual(next(states).status, health_pb2.HealthCheckResponse.SERVING)
            server.process.terminate()
            self.assertEqual(next(states).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            # A watcher does not hold the server up.
            self.assertEqual(server.process.wait(ANSWER_WITHIN_SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
