"""Models from elsewhere answer as onnxruntime computes them, by every protocol, alone and in batches with others."""

import concurrent.futures
import unittest

import numpy
import onnxruntime
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import np_to_triton_dtype

import exports
from server import Server

TOLERANCE = 1e-5
CLIENTS = 16
SEED = 7


class Table(unittest.TestCase):
    """The pipeline and the trees: many rows, small rows."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        cls.models = {}
        for name, (model, inputs) in {"penguins": exports.penguins(), "boosted": exports.boosted()}.items():
            cls.server.deploy(name, model)
            cls.models[name] = Reference(model, inputs)

    def test_by_every_protocol(self):
        for name, reference in self.models.items():
            for protocol, call in PROTOCOLS.items():
                with self.subTest(model=name, protocol=protocol):
                    rows = range(reference.rows)
                    reference.check(call(self.server, name, reference.inputs_of(rows)), rows)

    def test_all_at_once(self):
        for name, reference in self.models.items():
            with self.subTest(model=name):
                at_once(self.server, name, reference, sizes=(1, 2, 3, 5, 8, 13, 32), calls=6)


class Vision(unittest.TestCase):
    """ResNet-18: few rows, each of them 588 KiB."""

    @classmethod
    def setUpClass(cls):
        # All bodies under way share four times this room, and these are images in JSON.
        cls.server = Server("--max-body-bytes", str(64 << 20))
        cls.addClassCleanup(cls.server.stop)
        model = exports.resnet18()
        cls.server.deploy("resnet18", model)
        random = numpy.random.default_rng(SEED)
        # Images that differ in brightness and contrast, as noise alone would look the same to the network.
        images = random.normal(size=(3, 3, 224, 224)) * random.uniform(0.2, 3.0, (3, 3, 1, 1))
        images += random.uniform(-2.0, 2.0, (3, 3, 1, 1))
        cls.reference = Reference(model, {"image": images.astype(numpy.float32)})

    def test_by_every_protocol(self):
        for protocol, call in PROTOCOLS.items():
            with self.subTest(protocol=protocol):
                rows = range(2)
                self.reference.check(call(self.server, "resnet18", self.reference.inputs_of(rows)), rows)

    def test_all_at_once(self):
        at_once(self.server, "resnet18", self.reference, sizes=(1, 2), calls=1)


class Reference:
    """Rows of a model's inputs, and what onnxruntime answers to them."""

    def __init__(self, model, inputs):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        self.inputs = inputs
        self.rows = len(next(iter(inputs.values())))
        names = [output.name for output in session.get_outputs()]
        self.outputs = dict(zip(names, session.run(names, inputs)))

    def inputs_of(self, rows):
        return {name: values[rows] for name, values in self.inputs.items()}

    def check(self, answer, rows):
        assert answer.keys() == self.outputs.keys(), answer.keys()
        for name, expected in self.outputs.items():
            expected, values = expected[rows], answer[name]
            assert values.shape == expected.shape, (name, values.shape, expected.shape)
            if expected.dtype == numpy.object_:
                assert list(map(as_text, values)) == list(map(as_text, expected)), name
            else:
                numpy.testing.assert_allclose(values, expected, rtol=TOLERANCE, atol=TOLERANCE)


def at_once(server, name, reference, sizes, calls):
    """Clients of all protocols send different numbers of different rows at the same time."""

    def client(number):
        random = numpy.random.default_rng([SEED, number])
        call = list(PROTOCOLS.values())[number % len(PROTOCOLS)]
        for _ in range(calls):
            rows = random.choice(reference.rows, random.choice(sizes), replace=False)
            reference.check(call(server, name, reference.inputs_of(rows)), rows)

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client, number) for number in range(CLIENTS)]:
            done.result()


def predict(server, name, inputs):
    columns = {name: values.tolist() for name, values in inputs.items()}
    answer = requests.post(f"{server.url}/models/{name}/predict", json=columns, timeout=120)
    assert answer.status_code == 200, answer.text
    return {name: numpy.array(values) for name, values in answer.json().items()}


def v2_json(server, name, inputs):
    return v2(server, name, inputs, binary=False)


def v2_binary(server, name, inputs):
    return v2(server, name, inputs, binary=True)


def v2(server, name, inputs, binary):
    tensors = [
        triton_http.InferInput(name, values.shape, np_to_triton_dtype(values.dtype)).set_data_from_numpy(values, binary)
        for name, values in inputs.items()
    ]
    with triton_http.InferenceServerClient(server.address, network_timeout=120) as client:
        wanted = [output["name"] for output in client.get_model_metadata(name)["outputs"]]
        outputs = [triton_http.InferRequestedOutput(output, binary_data=binary) for output in wanted]
        result = client.infer(name, tensors, outputs=outputs)
    return {output: result.as_numpy(output) for output in wanted}


def grpc(server, name, inputs):
    tensors = [
        triton_grpc.InferInput(name, values.shape, np_to_triton_dtype(values.dtype)).set_data_from_numpy(values)
        for name, values in inputs.items()
    ]
    with triton_grpc.InferenceServerClient(server.address) as client:
        result = client.infer(name, tensors, client_timeout=120)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


PROTOCOLS = {"predict": predict, "v2 in JSON": v2_json, "v2 in binary": v2_binary, "gRPC": grpc}


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    unittest.main()
