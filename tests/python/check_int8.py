"""An int8 export beside the float32 export of the same weights, by numpy and Python's onnxruntime.

    check_int8.py FLOAT32.onnx INT8.onnx CONVOLUTIONS PRODUCTS

Weights must be those of the float32 model, rounded to 64 steps of each output channel's largest; onnxruntime must run so many
convolutions and products with integer kernels. Prints `ok: ...`, or what differs.
"""

import collections
import os
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

PRODUCTS = ("QGemm", "MatMulIntegerToFloat", "QLinearMatMul")


def tensors(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def compared_weights(whole, quantized) -> int:
    """Weights that are tensors of both files; what is computed or folded has no other to compare with."""
    of_whole, of_quantized = tensors(whole), tensors(quantized)
    compared = 0
    for node in quantized.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in of_quantized:
            continue
        steps, scale, zero = (of_quantized[name] for name in node.input)
        axis = {a.name: a.i for a in node.attribute}["axis"]
        assert not zero.any() and zero.dtype == steps.dtype, node.input
        name = node.input[0].removesuffix("/quantized")
        if steps.dtype == np.int32:
            # A bias, called after the node that takes it.
            bias = of_whole.get(name.rpartition("/")[2])
            assert np.abs(steps.astype(np.int64)).max() < 2**31 - 1, name
            if bias is not None:
                np.testing.assert_allclose(steps * scale, bias, atol=0.51 * scale.max())
            continue
        if name not in of_whole:
            continue
        weight = of_whole[name]
        others = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(axis=others)
        # A channel whose bias needs it has larger steps.
        assert (scale >= largest / 64 * (1 - 1e-6)).all(), name
        usual = largest > 1e-4
        np.testing.assert_allclose(scale[usual], largest[usual] / 64, rtol=1e-6)
        wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        assert np.abs(steps).max() <= 64, name
        assert (np.abs(steps * wide - weight) <= 0.5001 * wide).all(), name
        compared += 1
        assert name not in of_quantized, f"{name} is in the file in float32, too"
    return compared


def operators(path) -> collections.Counter:
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return collections.Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def main() -> None:
    whole, quantized = (onnx.load(path) for path in sys.argv[1:3])
    onnx.checker.check_model(quantized, full_check=True)
    compared = compared_weights(whole, quantized)
    counts = operators(sys.argv[2])
    found, expected = [counts["QLinearConv"], sum(counts[name] for name in PRODUCTS)], [int(n) for n in sys.argv[3:]]
    assert found == expected, f"{counts}, expected {expected}"
    print(f"ok: {compared} weights, {found}")


main()
