"""The Open Inference Protocol as curl, requests and KServe's client speak it: plain JSON, and bodies made by hand."""

import json
import subprocess
import unittest

import numpy
import requests

import graphs
from server import Server

ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
TRIPLED = [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 24.0]
LENGTH = "Inference-Header-Content-Length"


def setUpModule():
    global server
    server = Server()
    unittest.addModuleCleanup(server.stop)
    server.deploy("tripled", graphs.scaled(3.0))
    server.deploy("simple", graphs.add_sub())
    server.deploy("texts", graphs.texts())


class Curl(unittest.TestCase):
    def test_json(self):
        body = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ROWS}]}
        status, answer = self.curl("/v2/models/tripled/infer", "--json", json.dumps(body))
        self.assertEqual(status, 200)
        (output,) = answer["outputs"]
        self.assertEqual(output, {"name": "y", "shape": [2, 4], "datatype": "FP32", "data": TRIPLED})

    def test_any_content_type(self):
        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        # This is what `curl -d` sends unless told otherwise.
        status, _ = self.curl("/v2/models/tripled/infer", "-d", json.dumps(body))
        self.assertEqual(status, 200)

    def test_readiness_by_status(self):
        self.assertEqual(self.curl("/v2/health/ready")[0], 200)
        self.assertEqual(self.curl("/v2/models/tripled/ready")[0], 200)
        self.assertEqual(self.curl("/v2/models/nobody/ready")[0], 404)

    def test_http2_without_tls(self):
        body = json.dumps({"x": ROWS})
        _, answer = self.curl("/models/tripled/predict", "--http2-prior-knowledge", "--json", body)
        self.assertEqual(numpy.ravel(answer["y"]).tolist(), TRIPLED)

    def test_a_large_answer_that_is_compressed(self):
        command = ["curl", "-s", "--compressed", "--json", "@-", f"{server.url}/models/tripled/predict"]
        body = json.dumps({"x": ROWS * 5000})
        done = subprocess.run(command, input=body, capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(numpy.ravel(json.loads(done.stdout)["y"]).tolist(), TRIPLED * 5000)

    def curl(self, path, *options):
        command = ["curl", "-s", "-w", "\n%{http_code}", *options, f"{server.url}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        body, status = done.stdout.rsplit("\n", 1)
        return int(status), json.loads(body)


class Rest(unittest.TestCase):
    def test_what_kserve_sends(self):
        """`InferRequest.to_rest()`: parameters on the request and on each tensor, an id, data flat."""
        tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {}, "data": sum(ROWS, [])}
        body = {"id": "4be4e82f", "parameters": {"content_type": "np"}, "inputs": [tensor]}
        answer = self.infer("tripled", json=body)
        self.assertEqual(answer.headers["content-type"], "application/json")
        answer = answer.json()
        self.assertEqual(answer["id"], "4be4e82f")
        self.assertEqual(answer["model_name"], "tripled")
        self.assertEqual(answer["outputs"][0]["data"], TRIPLED)

    def test_headers_of_an_answer(self):
        answer = self.infer("tripled", json={"inputs": [tensor("x", ROWS)]}, headers={"x-request-id": "mine"})
        self.assertEqual(answer.headers["x-request-id"], "mine")
        self.assertGreater(float(answer.headers["x-wattle-energy-joules"]), 0.0)

    def test_a_raw_body_is_the_only_input(self):
        for rows in (1, 3):
            values = numpy.arange(4 * rows, dtype=numpy.float32).reshape(rows, 4)
            answer = self.infer("tripled", data=values.tobytes(), headers={LENGTH: "0"})
            length = int(answer.headers[LENGTH])
            (output,) = json.loads(answer.content[:length])["outputs"]
            self.assertEqual(output["shape"], [rows, 4])
            self.assertEqual(output["parameters"]["binary_data_size"], values.nbytes)
            self.assertEqual(answer.content[length:], (3 * values).tobytes())

    def test_raw_bodies_that_say_too_little(self):
        self.refused("simple", b"\0" * 64, "0", "several")
        self.refused("tripled", b"\0" * 15, "0", "15")

    def test_binary_bodies_that_lie(self):
        values = numpy.array(ROWS, numpy.float32).tobytes()
        self.refused("tripled", *binary(values, size=len(values) + 1))
        self.refused("tripled", *binary(values, size=len(values) - 4))
        self.refused("tripled", *binary(values, size=-1))
        self.refused("tripled", *binary(values, size=2**64))
        self.refused("tripled", *binary(values + b"left over", size=len(values)))
        self.refused("tripled", *binary(values, size=len(values), shape=[2, 5]))
        self.refused("tripled", *binary(values, size=len(values), shape=[2**62, 4]))
        self.refused("tripled", *binary(values, size=len(values), datatype="FP64"))
        body, length = binary(values, size=len(values))
        for wrong in ("1000000", "-1", "x", "", str(2**64), str(length - 1), str(length + 1)):
            self.refused("tripled", body, wrong)
        # Each of these says that a text is longer than what follows.
        for text in (b"\4\0\0\0abc", b"\xff\xff\xff\xffabc", b"\4\0\0"):
            self.refused("texts", *binary(text, size=len(text), name="TEXT", datatype="BYTES", shape=[1, 1]))
        self.assertEqual(self.infer("tripled", data=body, headers={LENGTH: str(length)}).status_code, 200)

    def test_answers_in_binary_where_asked(self):
        inputs = [tensor("INPUT0", [list(range(16))], "INT32"), tensor("INPUT1", [[1] * 16], "INT32")]
        as_json = self.infer("simple", json={"inputs": inputs})
        self.assertNotIn(LENGTH, as_json.headers)
        asked = {"name": "OUTPUT1", "parameters": {"binary_data": True}}
        answer = self.infer("simple", json={"inputs": inputs, "outputs": [{"name": "OUTPUT0"}, asked]})
        length = int(answer.headers[LENGTH])
        first, second = json.loads(answer.content[:length])["outputs"]
        self.assertEqual(first["data"], list(range(1, 17)))
        self.assertNotIn("data", second)
        self.assertEqual(numpy.frombuffer(answer.content[length:], numpy.int32).tolist(), list(range(-1, 15)))

    def test_a_version_that_is_not_there(self):
        body = {"inputs": [tensor("x", ROWS)]}
        self.assertEqual(self.infer("tripled", version="1", json=body).json()["model_version"], "1")
        answer = requests.post(f"{server.url}/v2/models/tripled/versions/9/infer", json=body, timeout=60)
        self.assertEqual(answer.status_code, 404)
        self.assertIn("9", answer.json()["error"])

    def infer(self, model, version=None, **options):
        path = f"/v2/models/{model}/infer" if version is None else f"/v2/models/{model}/versions/{version}/infer"
        answer = requests.post(f"{server.url}{path}", timeout=60, **options)
        self.assertEqual(answer.status_code, 200, answer.text)
        return answer

    def refused(self, model, body, length, word=""):
        headers = {LENGTH: str(length)}
        answer = requests.post(f"{server.url}/v2/models/{model}/infer", data=body, headers=headers, timeout=60)
        self.assertEqual(answer.status_code, 400, (body[:200], length, answer.text))
        self.assertIn(word, answer.json()["error"])


def tensor(name, rows, datatype="FP32"):
    return {"name": name, "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": rows}


def binary(values, size, name="x", datatype="FP32", shape=(2, 4)):
    """A body with one binary tensor that may lie about it, and the length of its JSON."""
    described = {"name": name, "shape": list(shape), "datatype": datatype, "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [described]}).encode()
    return text + values, len(text)


if __name__ == "__main__":
    unittest.main()
