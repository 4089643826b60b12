"""A user's own model as streams against the model itself, over one window and over many rows at once.

    check_causal.py MODEL.onnx STREAM.onnx...

Prints `ok: ...` with the worst difference, or what differs.
"""

import os
import sys

import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../docs/examples"))
from stream import stream

TOLERANCE = 1e-2 if "half" in sys.argv[2] else 1e-5
whole = onnxruntime.InferenceSession(sys.argv[1])
about = whole.get_modelmeta().custom_metadata_map
context, after = int(about["left_context"]), int(about["right_context"])
first, last = (about[f"{name}_layout"] == "channels_first" for name in ("emg", "angles"))
channels = about["channels"].count(",") + 1
rng = np.random.default_rng(7)
emg = rng.normal(size=(333, channels)).astype(np.float32)
more = {}
for value in whole.get_inputs()[1:] + whole.get_overridable_initializers():
    more[value.name] = rng.uniform(0.5, 1.5, size=(1, value.shape[1])).astype(np.float32)
worst, largest = 0.0, 0.0
for path in sys.argv[2:]:
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    lag = int(metadata["lag"])
    assert (metadata["left_context"], metadata["right_context"]) == (str(context), str(after)), metadata
    size = whole.get_inputs()[0].shape[2 if first else 1]
    for rows in (size,) if isinstance(size, int) else (40, 41, 333):
        given = emg[None, :rows].transpose(0, 2, 1) if first else emg[None, :rows]
        (expected,) = whole.run(None, {whole.get_inputs()[0].name: np.ascontiguousarray(given), **more})
        expected = expected[0].T if last else expected[0]
        if len(expected) == rows:
            expected = expected[context : rows - after]
        found = stream(path, emg[:rows], **more)
        assert found.shape == (rows - context, expected.shape[1]), (found.shape, expected.shape)
        # Of the last rows, those that the model looks ahead from have no angles; a window may leave out more.
        assert (found[len(found) - lag :] == 0).all() and lag <= after, path
        assert found[len(found) - lag - 1].any(), path
        distance = np.abs(found[: len(expected)] - expected).max()
        worst, largest = max(worst, distance), max(largest, np.abs(expected).max())
        assert distance < TOLERANCE * max(1, np.abs(expected).max()), f"{path}: {distance} rad over {rows} rows"
print(f"ok: {worst:.1e} rad of up to {largest:.2f}")
