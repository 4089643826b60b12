"""What others do with an exported model: quantizes, narrows and simplifies it, and compares.

    check_downstream.py MODEL

onnxruntime's quantize_dynamic and quantize_static, onnxconverter-common's float16 and onnxsim must give models that load, and
whose answers are near. Prints `ok` with each one's error relative to the answers' mean size.
"""

import sys

import numpy as np
import onnx
import onnxruntime
import onnxsim
from onnxconverter_common import float16
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

onnxruntime.set_default_logger_severity(3)


def session(model, half: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if half:
        # The library's extended optimizations crash on half precision LSTMs and attention, also of PyTorch's own files.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs(path: str, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    shapes = {i.name: [d if isinstance(d, int) else 2 for d in i.shape] for i in session(path).get_inputs()}
    types = {i.name: kinds[i.type] for i in session(path).get_inputs()}
    return {name: rng.normal(size=shape).astype(types[name]) for name, shape in shapes.items()}


class Batches(CalibrationDataReader):
    def __init__(self, path: str) -> None:
        self.batches = iter([inputs(path, seed) for seed in range(8)])

    def get_next(self):
        return next(self.batches, None)


def main() -> None:
    path = sys.argv[1]
    given = inputs(path, 100)
    expected = session(path).run(None, given)[0]
    quantize_dynamic(path, "dynamic.onnx", weight_type=QuantType.QInt8)
    products = sum(node.op_type == "MatMulInteger" for node in onnx.load("dynamic.onnx").graph.node)
    assert products or not any(node.op_type == "MatMul" for node in onnx.load(path).graph.node), "nothing was quantized"
    quantize_static(path, "static.onnx", Batches(path), quant_format=QuantFormat.QDQ, per_channel=True)
    simplified, checked = onnxsim.simplify(onnx.load(path))
    assert checked
    onnx.save(simplified, "simplified.onnx")
    # Simplified first: the converter does not know casts and sequences of tensors, as PyTorch's exporters write them.
    onnx.save(float16.convert_float_to_float16(simplified), "float16.onnx")
    errors = {}
    for name, limit in [("dynamic", 0.3), ("static", 0.5), ("float16", 0.02), ("simplified", 1e-4)]:
        half = name == "float16"
        values = given
        if half:
            values = {key: x.astype(np.float16) if x.dtype == np.float32 else x for key, x in given.items()}
        found = session(f"{name}.onnx", half).run(None, values)[0].astype(np.float32)
        errors[name] = float(np.abs(found - expected).mean() / np.abs(expected).mean())
        assert errors[name] <= limit, (name, errors[name])
    print("ok:", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))


if __name__ == "__main__":
    main()
