#!/usr/bin/env python3
"""Quantizes an exported model with ONNX Runtime's own tool, and compares: check_quantized.py MODEL. Prints `ok: N products`."""

import sys

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

quantize_dynamic(sys.argv[1], "quantized.onnx", weight_type=QuantType.QUInt8)
products = sum(node.op_type == "MatMulInteger" for node in onnx.load("quantized.onnx").graph.node)
assert products, "nothing was quantized"
answers = []
for path in sys.argv[1], "quantized.onnx":
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = [size if isinstance(size, int) else 2 for size in session.get_inputs()[0].shape]
    emg = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    answers.append(session.run(None, {session.get_inputs()[0].name: emg})[0])
error, size = np.abs(answers[0] - answers[1]).mean(), np.abs(answers[0]).mean()
assert error < 0.2 * size, (error, size)
print(f"ok: {products} products")
