"""Small ONNX graphs for the tests beside this file."""

import ml_dtypes
import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
# Columns of a tensor in `echo`.
ECHO_COLUMNS = 2

# What the protocol calls a datatype: what ONNX calls it, and two rows of it with the values at its ends.
DATATYPES = {
    "BOOL": (TensorProto.BOOL, numpy.array([[True, False], [False, True]])),
    "UINT8": (TensorProto.UINT8, numpy.array([[0, 1], [254, 255]], numpy.uint8)),
    "UINT16": (TensorProto.UINT16, numpy.array([[0, 1], [2, 65535]], numpy.uint16)),
    "UINT32": (TensorProto.UINT32, numpy.array([[0, 1], [2, 2**32 - 1]], numpy.uint32)),
    "UINT64": (TensorProto.UINT64, numpy.array([[0, 2**53 + 1], [2**63, 2**64 - 1]], numpy.uint64)),
    "INT8": (TensorProto.INT8, numpy.array([[-128, 0], [1, 127]], numpy.int8)),
    "INT16": (TensorProto.INT16, numpy.array([[-(2**15), 0], [1, 2**15 - 1]], numpy.int16)),
    "INT32": (TensorProto.INT32, numpy.array([[-(2**31), 0], [1, 2**31 - 1]], numpy.int32)),
    "INT64": (TensorProto.INT64, numpy.array([[-(2**63), -(2**53) - 1], [2**53 + 1, 2**63 - 1]], numpy.int64)),
    "FP16": (TensorProto.FLOAT16, numpy.array([[0.1, -65504], [6e-8, 1.5]], numpy.float16)),
    "BF16": (TensorProto.BFLOAT16, numpy.array([[0.1, -3e38], [1e-38, 1.5]], ml_dtypes.bfloat16)),
    "FP32": (TensorProto.FLOAT, numpy.array([[0.1, -3.4e38], [1e-45, 16777217]], numpy.float32)),
    "FP64": (TensorProto.DOUBLE, numpy.array([[0.1, -1.7e308], [5e-324, 1 / 3]], numpy.float64)),
    "BYTES": (TensorProto.STRING, numpy.array([[b"", "naïve 🦎".encode()], [b'"\\\n', b"x" * 300]], numpy.object_)),
}


def add_sub(columns=16):
    """What Triton's examples call `simple`: the sum and the difference of two rows of numbers."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs = [put(name, TensorProto.INT32, "n", columns) for name in ("INPUT0", "INPUT1")]
    outputs = [put(name, TensorProto.INT32, "n", columns) for name in ("OUTPUT0", "OUTPUT1")]
    return model("simple", nodes, inputs, outputs)


def echo(datatypes=DATATYPES):
    """One input and one output of each datatype: `INPUT_FP32` comes back as `OUTPUT_FP32`."""
    nodes = [helper.make_node("Identity", [f"INPUT_{name}"], [f"OUTPUT_{name}"]) for name in datatypes]
    inputs, outputs = (
        [put(f"{side}_{name}", DATATYPES[name][0], "n", ECHO_COLUMNS) for name in datatypes]
        for side in ("INPUT", "OUTPUT")
    )
    return model("echo", nodes, inputs, outputs)


def texts():
    """A tensor of texts of any shape with two dimensions comes back as it is."""
    shape = [TensorProto.STRING, "n", "m"]
    nodes = [helper.make_node("Identity", ["TEXT"], ["SAME"])]
    return model("texts", nodes, [put("TEXT", *shape)], [put("SAME", *shape)])


def slow():
    """Answers `x` with itself, after as many products of matrices as the largest value of `x` says."""
    width = 128
    state = [TensorProto.FLOAT, width, width]
    rotation = numpy.roll(numpy.eye(width, dtype=numpy.float32), 1, axis=0)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["more_after"]),
            helper.make_node("MatMul", ["state", "rotation"], ["state_after"]),
        ],
        "turn",
        [put("turn", TensorProto.INT64), put("more", TensorProto.BOOL), put("state", *state)],
        [put("more_after", TensorProto.BOOL), put("state_after", *state)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "always", "rotation"], ["turned"], body=body),
        # The answer has to need the loop, or it would be left out.
        helper.make_node("ReduceMin", ["turned"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rotation, "rotation"),
        numpy_helper.from_array(numpy.array(True), "always"),
    ]
    return model("slow", nodes, [put("x", TensorProto.FLOAT, "n", 1)], [put("y", TensorProto.FLOAT, "n", 1)], weights)


def scaled(factor, columns=4):
    """Rows of `x` times a factor, by which a test knows which version answered."""
    shape = [TensorProto.FLOAT, "n", columns]
    weights = [numpy_helper.from_array(numpy.array(factor, numpy.float32), "factor")]
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    return model("scaled", nodes, [put("x", *shape)], [put("y", *shape)], weights)


def same(answer, values):
    """Fails unless both arrays have the same shape and the same values, bit for bit but for NaN."""
    assert answer.shape == values.shape, (answer.shape, values.shape)
    assert answer.tolist() == values.tolist(), (answer, values)


def put(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model(name, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = IR_VERSION
    onnx.checker.check_model(made, full_check=True)
    return made
