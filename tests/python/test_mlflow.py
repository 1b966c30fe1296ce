"""MLflow's own scoring client, unmodified, and every other body that its scoring protocol has."""

import io
import json
import unittest

import numpy
import onnxruntime
import pandas
import requests
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

import exports
import graphs
from server import Server

CSV, JSON, PARQUET = "text/csv", "application/json", "application/vnd.apache.parquet"
ROWS = 20


def setUpModule():
    global server, table, labels, probabilities
    server = Server()
    unittest.addModuleCleanup(server.stop)
    model, columns = exports.penguins()
    server.deploy("penguins", model)
    # /invocations goes where /predict goes.
    server.command("deploy", "penguins", "--default")
    server.deploy("matrix", graphs.scaled(3.0))
    server.deploy("named", graphs.add_sub(2))
    columns = {name: values[:ROWS] for name, values in columns.items()}
    table = pandas.DataFrame({name: values.ravel() for name, values in columns.items()})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    labels, probabilities = session.run(["label", "probabilities"], columns)


class Client(unittest.TestCase):
    def setUp(self):
        self.client = ScoringServerClient("127.0.0.1", server.port)

    def test_the_server_is_there(self):
        self.client.wait_server_ready(timeout=10)
        self.client.ping()
        self.assertTrue(self.client.get_version())

    def test_a_data_frame(self):
        check(self.client.invoke(table))

    def test_a_data_frame_in_another_order_and_with_an_index(self):
        shuffled = table[table.columns[::-1]].set_index(pandas.Index(range(100, 100 + ROWS)))
        check(self.client.invoke(shuffled))

    def test_a_data_frame_with_gaps(self):
        # The client writes a gap as NaN, which is no JSON.
        gaps = table.copy()
        gaps.loc[3, "bill_length_mm"] = numpy.nan
        gaps.loc[4, "sex"] = None
        records = self.client.invoke(gaps)["predictions"]
        self.assertEqual(len(records), ROWS)
        whole = [record["probabilities"] for record in records[:3]]
        numpy.testing.assert_allclose(whole, probabilities[:3], atol=1e-5)

    def test_params(self):
        check(self.client.invoke(table, params={"temperature": 0.5}))

    def test_errors_are_raised(self):
        for wrong in (table.drop(columns=["year"]), table.astype({"bill_length_mm": str}).replace("39.1", "long"), "{"):
            with self.assertRaisesRegex(Exception, "error code 400"):
                self.client.invoke(wrong)


class Bodies(unittest.TestCase):
    def test_ping_and_health(self):
        for path in ("ping", "health"):
            answer = requests.get(f"{server.url}/{path}", timeout=30)
            self.assertEqual((answer.status_code, answer.text), (200, "\n"))
        self.assertEqual(requests.get(f"{server.url}/version", timeout=30).status_code, 200)

    def test_forms_of_columns(self):
        records = table.to_dict(orient="records")
        split = table.to_dict(orient="split")
        bodies = {
            "split": {"dataframe_split": split},
            "split without index": {"dataframe_split": {name: split[name] for name in ("columns", "data")}},
            "records": {"dataframe_records": records},
            "instances": {"instances": records},
            "inputs": {"inputs": table.to_dict(orient="list")},
        }
        for name, body in bodies.items():
            with self.subTest(form=name):
                check(answered(post(body)))

    def test_csv(self):
        check(answered(post(table.to_csv(index=False), CSV)))
        check(answered(post(table.to_csv(index=False), f"{CSV}; charset=utf-8")))

    def test_parquet(self):
        file = io.BytesIO()
        table.to_parquet(file)
        check(answered(post(file.getvalue(), PARQUET)))

    def test_forms_of_one_tensor(self):
        rows = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
        tripled = [[3.0, 6.0, 9.0, 12.0], [15.0, 18.0, 21.0, 24.0]]
        named = [{"x": row} for row in rows]
        for body in ({"inputs": rows}, {"instances": rows}, {"inputs": {"x": rows}}, {"instances": named}):
            with self.subTest(body=body):
                answer = answered(post(body, deployment="matrix"))
                self.assertEqual(answer["predictions"], tripled)

    def test_forms_of_named_tensors(self):
        for body in (
            {"inputs": {"INPUT0": [[1, 2], [3, 4]], "INPUT1": [[10, 20], [30, 40]]}},
            {"instances": [{"INPUT0": [1, 2], "INPUT1": [10, 20]}, {"INPUT0": [3, 4], "INPUT1": [30, 40]}]},
        ):
            with self.subTest(body=body):
                predictions = answered(post(body, deployment="named"))["predictions"]
                self.assertEqual(predictions["OUTPUT0"], [[11, 22], [33, 44]])
                self.assertEqual(predictions["OUTPUT1"], [[-9, -18], [-27, -36]])

    def test_values_that_json_does_not_have(self):
        answer = answered(post('{"inputs": [[NaN, Infinity, -Infinity, null]]}', deployment="matrix"))
        # A strict reader of JSON must be able to read the answer.
        self.assertEqual(answer["predictions"], [[None, None, None, None]])

    def test_types_that_are_not_known(self):
        for kind in ("text/plain", "application/xml", f"{JSON}; format=pandas-split", f"{CSV}; charset=latin-1"):
            with self.subTest(kind=kind):
                answer = post(table.to_csv(index=False), kind)
                self.assertEqual(answer.status_code, 415, answer.text)

    def test_what_is_wrong_is_400_and_named(self):
        split = table.to_dict(orient="split")
        texts = [["x"] * len(table.columns)]
        cases = {
            "no form": ({}, "dataframe_split"),
            "two forms": ({"dataframe_split": split, "dataframe_records": []}, "dataframe_split"),
            "a list": ([1], "dataframe_split"),
            "no JSON": ("nonsense", ""),
            "a column is missing": ({"dataframe_records": [{"island": "Biscoe"}]}, "bill_length_mm"),
            "a text is no number": ({"dataframe_split": {**split, "data": texts}}, "bill_length_mm"),
            "ragged": ({"dataframe_split": {**split, "data": [[1]]}}, ""),
        }
        for name, (body, word) in cases.items():
            with self.subTest(case=name):
                answer = post(body)
                self.assertEqual(answer.status_code, 400, answer.text)
                self.assertIn(word, answer.text)
        self.assertEqual(post("", CSV).status_code, 400)
        # The last words before the mark are taken for a length, which is too large.
        self.assertIn(post(b"PAR1 no parquet PAR1", PARQUET).status_code, (400, 413))
        self.assertEqual(post({"inputs": [[1.0]]}, deployment="nobody").status_code, 404)


def post(body, kind=JSON, deployment=None):
    path = "/invocations" if deployment is None else f"/models/{deployment}/invocations"
    body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return requests.post(f"{server.url}{path}", data=body, headers={"Content-Type": kind}, timeout=60)


def answered(answer):
    assert answer.status_code == 200, (answer.status_code, answer.text)
    return answer.json()


def check(answer):
    """A table is answered with a record for each row, tensors with an array for each output."""
    predictions = answer["predictions"]
    if isinstance(predictions, list):
        predictions = {name: [record[name] for record in predictions] for name in ("label", "probabilities")}
    assert predictions["label"] == labels.tolist(), predictions["label"]
    numpy.testing.assert_allclose(predictions["probabilities"], probabilities, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
