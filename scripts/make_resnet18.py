#!/usr/bin/env python3
"""Writes a ResNet-18 with seeded random weights as one ONNX file: input [n, 3, 224, 224], output [n, 1000].

    scripts/make_resnet18.py PATH

It is the real network (He et al. 2015, "Deep Residual Learning for Image Recognition", table 1), whose weights would
have to be fetched from somewhere: for how fast it runs and whether two runtimes agree, their values are of no matter as
long as the numbers stay as tame from layer to layer as those of a trained network do. Needs `numpy` and `onnx`.
"""

import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 18
CLASSES = 1000
IMAGE = [3, 224, 224]
# Channels of the four stages; each has two blocks, and all but the first halve height and width.
STAGES = [64, 128, 256, 512]
BLOCKS = 2
OPSET = 17
IR_VERSION = 9


class Graph:
    """Nodes and weights, in the order in which they are asked for."""

    def __init__(self):
        self.random = numpy.random.default_rng(SEED)
        self.nodes = []
        self.weights = []

    def weight(self, name, values):
        self.weights.append(numpy_helper.from_array(values.astype(numpy.float32), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, name, x, channels, to, kernel, stride):
        # The scale of He et al. keeps the variance from layer to layer.
        values = self.random.normal(0.0, numpy.sqrt(2.0 / (channels * kernel * kernel)), (to, channels, kernel, kernel))
        size = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [kernel // 2] * 4}
        return self.node("Conv", [x, self.weight(f"{name}.weight", values)], name, **size)

    def normalisation(self, name, x, channels, scale=1.0):
        parameters = {
            "scale": scale * self.random.uniform(0.8, 1.2, channels),
            "bias": self.random.normal(0.0, 0.1, channels),
            "mean": self.random.normal(0.0, 0.1, channels),
            "variance": self.random.uniform(0.8, 1.2, channels),
        }
        weights = [self.weight(f"{name}.{part}", values) for part, values in parameters.items()]
        return self.node("BatchNormalization", [x, *weights], name, epsilon=1e-5)

    def unit(self, name, x, channels, to, kernel, stride, scale=1.0):
        convolved = self.convolution(f"{name}.conv", x, channels, to, kernel, stride)
        return self.normalisation(f"{name}.bn", convolved, to, scale)

    def block(self, name, x, channels, to, stride):
        """Two convolutions whose result is added to what came in, brought to the same shape where it changed."""
        inner = self.node("Relu", [self.unit(f"{name}.1", x, channels, to, 3, stride)], f"{name}.1.relu")
        # Eight additions in a row would make the numbers grow if each added as much as it found.
        inner = self.unit(f"{name}.2", inner, to, to, 3, 1, scale=0.5)
        changed = stride != 1 or channels != to
        shortcut = self.unit(f"{name}.shortcut", x, channels, to, 1, stride) if changed else x
        return self.node("Relu", [self.node("Add", [inner, shortcut], f"{name}.add")], f"{name}.relu")


def resnet18():
    graph = Graph()
    x = graph.node("Relu", [graph.unit("stem", "image", IMAGE[0], STAGES[0], 7, 2)], "stem.relu")
    x = graph.node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = STAGES[0]
    for stage, to in enumerate(STAGES, start=1):
        for block in range(1, BLOCKS + 1):
            halves = stage > 1 and block == 1
            x = graph.block(f"stage{stage}.{block}", x, channels, to, 2 if halves else 1)
            channels = to
    x = graph.node("GlobalAveragePool", [x], "pool")
    x = graph.node("Flatten", [x], "features", axis=1)
    weight = graph.random.normal(0.0, numpy.sqrt(1.0 / channels), (CLASSES, channels))
    weights = [graph.weight("head.weight", weight), graph.weight("head.bias", graph.random.normal(0.0, 0.1, CLASSES))]
    graph.node("Gemm", [x, *weights], "logits", transB=1)

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *IMAGE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
    made = helper.make_graph(graph.nodes, "resnet18", [image], [logits], graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="wattle")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("make_resnet18: give the path of the file to write")
    onnx.save(resnet18(), sys.argv[1])
