"""Models as people export them: pipelines of scikit-learn and a vision network."""

import runpy

import numpy
import pandas
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from server import EXAMPLES, ROOT

OPSET = 17


def resnet18():
    return runpy.run_path(str(ROOT / "scripts" / "make_resnet18.py"))["resnet18"]()


def penguins():
    """A pipeline over columns of two kinds, and the rows that it was trained on."""
    table = pandas.read_csv(EXAMPLES / "penguins.csv").dropna()
    species = table.pop("species")
    categories = ["island", "sex"]
    numbers = [name for name in table.columns if name not in categories]
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("numbers", StandardScaler(), numbers), ("categories", encoder, categories)])
    pipeline = Pipeline([("columns", columns), ("classes", LogisticRegression(max_iter=1000))])
    pipeline.fit(table, species)
    kinds = [
        (name, StringTensorType([None, 1]) if name in categories else FloatTensorType([None, 1]))
        for name in table.columns
    ]
    inputs = {
        name: table[[name]].to_numpy(numpy.object_ if name in categories else numpy.float32) for name in table.columns
    }
    return exported(pipeline, kinds), inputs


def boosted():
    """Boosted trees over one matrix of numbers, and the rows that they were trained on."""
    table = pandas.read_csv(EXAMPLES / "breast_cancer.csv")
    diagnosis = table.pop("diagnosis")
    rows = table.to_numpy(numpy.float32)
    trees = GradientBoostingClassifier(n_estimators=50, random_state=0).fit(rows, diagnosis)
    return exported(trees, [("x", FloatTensorType([None, rows.shape[1]]))]), {"x": rows}


def exported(estimator, kinds):
    # Without zipmap off, probabilities would be a sequence of dictionaries, which is no tensor.
    return convert_sklearn(estimator, initial_types=kinds, options={"zipmap": False}, target_opset=OPSET)
