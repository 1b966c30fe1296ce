"""What Wattle answers equals what onnxruntime in Python computes from the exported file, on raw columns."""

import csv
import json
import os
import unittest

import numpy
import onnxruntime
import requests

from server import EXAMPLES, Server

# Rows of a table that are sent; the first hold gaps.
ROWS = 25


class ExportedModels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def test_a_line(self):
        session, exported, answer = self.train_and_call("linear-regression", "line.csv", "y")
        numpy.testing.assert_allclose(answer["y_pred"], exported["y_pred"], rtol=1e-12)
        (slope,) = numpy.diff(session.run(["y_pred"], {"x": numpy.array([[0.0], [1.0]])})[0].ravel())
        self.assertAlmostEqual(slope, 2.0, delta=0.05)

    def test_a_real_table_of_numbers(self):
        _, exported, answer = self.train_and_call("linear-regression", "diabetes.csv", "target")
        numpy.testing.assert_allclose(answer["y_pred"], exported["y_pred"], rtol=1e-12)

    def test_categories_and_gaps(self):
        _, exported, answer = self.train_and_call("logistic-regression", "penguins.csv", "species")
        self.assertEqual(answer["y_pred"], exported["y_pred"].tolist())
        numpy.testing.assert_allclose(answer["probabilities"], exported["probabilities"], rtol=1e-12)

    def train_and_call(self, algorithm, table, target):
        """Trains on a table of examples/, and returns the exported model, its answer and the server's."""
        name = table.removesuffix(".csv")
        self.server.command(
            "train", "--algorithm", algorithm, "--data", EXAMPLES / table, "--target", target, "--name", name
        )
        self.server.command("deploy", name)
        folder = self.server.path(f"exported-{name}")
        self.server.command("models", "export", name, folder)
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as manifest:
            self.assertIsInstance(json.load(manifest), dict)

        session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"))
        rows = read_rows(EXAMPLES / table, session)
        reply = requests.post(f"{self.server.url}/models/{name}/predict", json=rows, timeout=30)
        self.assertEqual(reply.status_code, 200, reply.text)
        self.assertGreater(float(reply.headers["x-wattle-energy-joules"]), 0.0)
        self.assertTrue(reply.headers["x-wattle-energy-label"])

        outputs = [output.name for output in session.get_outputs()]
        exported = dict(zip(outputs, session.run(outputs, columns(rows, session))))
        return session, exported, reply.json()


def is_text(put):
    return put.type == "tensor(string)"


def read_rows(path, session):
    """The table's first rows and its rows with gaps, as JSON has them: numbers, texts and null."""
    with open(path, encoding="utf-8", newline="") as table:
        records = list(csv.DictReader(table))
    gaps = [record for record in records if "NA" in record.values()]
    return [
        {
            put.name: None if record[put.name] == "NA" else record[put.name] if is_text(put) else float(record[put.name])
            for put in session.get_inputs()
        }
        for record in [*gaps, *records[:ROWS]]
    ]


def columns(rows, session):
    """The same rows as the tensors of the graph: a gap is NaN in numbers and the empty text in categories."""
    tensors = {}
    for put in session.get_inputs():
        values = [row[put.name] for row in rows]
        if is_text(put):
            tensors[put.name] = numpy.array([[value or ""] for value in values], dtype=object)
        else:
            tensors[put.name] = numpy.array([[numpy.nan if value is None else value] for value in values])
    return tensors


if __name__ == "__main__":
    unittest.main()
