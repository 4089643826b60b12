"""Writes a model, without its digest, with other metadata, or weights that are not numbers: edit_model.py MODEL OUT key=value.. | nan | batch=N"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper

source, out, *edits = sys.argv[1:]
model = onnx.load(source)
for edit in edits:
    if edit == "nan":
        for weight in model.graph.initializer:
            if weight.name == "decoder.linear.bias":
                weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, np.nan, np.float32), weight.name))
        continue
    key, value = edit.split("=", 1)
    if key == "batch":
        for port in model.graph.input:
            if port.name == "emg":
                port.type.tensor_type.shape.dim[0].dim_value = int(value)
        continue
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
for entry in [entry for entry in model.metadata_props if entry.key == "digest"]:
    model.metadata_props.remove(entry)
onnx.save(model, out)
