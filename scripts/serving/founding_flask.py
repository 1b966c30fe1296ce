"""The founding example: two arrays behind Flask. `flask --app founding_flask run`, or `gunicorn founding_flask:app`."""

import pathlib

import numpy
from flask import Flask, request

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
COEFFICIENTS = numpy.load(EXAMPLES / "model.npy")
INTERCEPT = numpy.load(EXAMPLES / "intercept.npy")

app = Flask(__name__)


@app.post("/predict")
def predict():
    x = numpy.array(request.get_json()["x"]).reshape(-1, COEFFICIENTS.shape[-1])
    return {"y_pred": (x @ COEFFICIENTS.T + INTERCEPT).reshape(len(x), -1).tolist()}
