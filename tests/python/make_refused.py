"""Models that cannot be trained as they are, for the messages that say so: make_refused.py GRU.onnx writes NAME.onnx each."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(nodes, tensors=(), shape=(None, 40, 4), kind=TensorProto.FLOAT, more=()):
    dims = ["batch" if size is None else size for size in shape]
    given = [helper.make_tensor_value_info("emg", kind, dims), *more]
    y = helper.make_tensor_value_info("y", kind, None)
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "weight")
    initial = [weight, *(numpy_helper.from_array(value, name) for name, value in tensors)]
    graph = helper.make_graph(nodes, "refused", given, [y], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, name=f"{operator}_node", **attributes)


def port(name, columns):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", columns])


linear = node("MatMul", ["emg", "weight"], ["y"])
made = {
    "twice": model([node("Neg", ["emg"], ["x"]), node("Abs", ["emg"], ["x"]), node("MatMul", ["x", "weight"], ["y"])]),
    "silent": model([linear, helper.make_node("Abs", ["emg"], [], name="silent_node")]),
    "half": model([linear], kind=TensorProto.FLOAT16),
    "batch": model([node("MatMul", ["emg", "weight"], ["x"]), node("Add", ["x", "token"], ["y"])],
                   [("token", np.ones((8, 1, 3), np.float32))], (8, 40, 4)),
    "unknown": model([node("MatMul", ["emg", "weight"], ["x"]), node("Unique", ["x"], ["y"])]),
    "depends": model([node("NonZero", ["emg"], ["n"]), node("Cast", ["n"], ["f"], to=1), node("ReduceSum", ["f"], ["s"], keepdims=0),
                      node("MatMul", ["emg", "weight"], ["x"]), node("Add", ["x", "s"], ["y"])]),
    "merged": model([node("Transpose", ["emg"], ["t"], perm=[0, 2, 1]),
                     node("BatchNormalization", ["t", "one", "zero", "zero", "one"], ["n"]),
                     node("Transpose", ["n"], ["u"], perm=[0, 2, 1]), node("MatMul", ["u", "weight"], ["y"])],
                    [("one", np.ones(4, np.float32)), ("zero", np.zeros(4, np.float32))]),
    "statistics": model([linear], more=[port("emg_mean", 4), port("emg_std", 7)]),
    "mean": model([linear], more=[port("emg_mean", 4)]),
    "pose": model([linear], more=[port("initial_pose", 7)]),
    "inputs": model([linear], more=[port("other", 7)]),
}
for name, value in made.items():
    onnx.save(value, f"{name}.onnx")
