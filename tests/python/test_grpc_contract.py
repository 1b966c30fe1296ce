"""The gRPC contract against the one that Triton's own client brings: what the server tells of itself by reflection has the
same names, numbers and types."""

import unittest

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2

from server import Server

SERVICE = "inference.GRPCInferenceService"


class Contract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        channel = grpc.insecure_channel(cls.server.address)
        cls.addClassCleanup(channel.close)
        cls.ours = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(SERVICE)
        cls.theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def test_methods_are_the_same(self):
        for method in self.ours.methods:
            theirs = self.theirs.methods_by_name[method.name]
            for ours, other in ((method.input_type, theirs.input_type), (method.output_type, theirs.output_type)):
                self.assertEqual(ours.full_name, other.full_name)
            streams = lambda method: (method.client_streaming, method.server_streaming)
            self.assertEqual(streams(method), streams(theirs), method.name)

    def test_fields_are_the_same(self):
        compared = set()
        for method in self.ours.methods:
            theirs = self.theirs.methods_by_name[method.name]
            self.compare(method.input_type, theirs.input_type, compared)
            self.compare(method.output_type, theirs.output_type, compared)
        # Both files were reached, with what is nested in their messages.
        self.assertIn("inference.ModelInferRequest.InferInputTensor", compared)
        self.assertIn("inference.ModelConfig", compared)
        self.assertGreater(len(compared), 40)

    def test_datatypes_are_the_same(self):
        config = self.ours.methods_by_name["ModelConfig"].output_type.fields_by_name["config"].message_type
        ours = config.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
        theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
        numbers = lambda enum: {value.name: value.number for value in enum.values}
        self.assertEqual(numbers(ours), numbers(theirs))

    def compare(self, ours, theirs, compared):
        """Every field of ours is theirs; they may have others."""
        self.assertEqual(ours.full_name, theirs.full_name)
        if ours.full_name in compared:
            return
        compared.add(ours.full_name)
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            shape = lambda field: (
                field.number,
                field.type,
                field.is_repeated,
                field.containing_oneof.name if field.containing_oneof else None,
            )
            self.assertEqual(shape(field), shape(other), field.full_name)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                self.compare(field.message_type, other.message_type, compared)


if __name__ == "__main__":
    unittest.main()
