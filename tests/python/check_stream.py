"""Streams against whole windows: check_stream.py FOLDER, which holds {name}.onnx and {name}.{chunk}.stream.onnx."""
import glob
import os
import sys

import numpy as np
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../docs/examples"))
from stream import stream

folder = sys.argv[1]
rng = np.random.default_rng(7)
for path in sorted(glob.glob(f"{folder}/*.onnx")):
    if ".stream." in path:
        continue
    name = path[:-5]
    session = onnxruntime.InferenceSession(path)
    inputs = {value.name: value.shape for value in session.get_inputs() + session.get_overridable_initializers()}
    window, channels = inputs["emg"][1:]
    emg = rng.normal(size=(3 * window + 1234, channels)).astype(np.float32)
    extra = {}
    if "initial_pose" in inputs:
        extra["initial_pose"] = rng.normal(size=(1, inputs["initial_pose"][1])).astype(np.float32)
    if "emg_mean" in inputs:
        extra["emg_mean"] = rng.normal(size=(1, channels)).astype(np.float32) * 0.1
        extra["emg_std"] = rng.uniform(0.5, 2.0, size=(1, channels)).astype(np.float32)
    (whole,) = session.run(None, {"emg": emg[None, :window], **extra})
    size = np.abs(whole).max()
    assert size > 0.05, f"{name}: angles of at most {size} rad say nothing"
    streams = sorted(glob.glob(f"{name}.*.stream.onnx"))
    assert len(streams) >= 2, streams
    long = []
    for path in streams:
        got = stream(path, emg[:window], **extra)
        assert got.shape == whole[0].shape, (path, got.shape, whole.shape)
        worst = np.abs(got - whole[0]).max()
        assert worst < 1e-5, f"{path}: {worst} rad from the whole window"
        # Beyond the window, and for streams that end anywhere, only other chunks can say what is right.
        long.append(stream(path, emg, **extra))
        short = stream(path, emg[: window + 777], **extra)
        settled = len(short) - 2 * int(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["lag"])
        assert np.array_equal(short[:settled], long[-1][:settled]), path
        print(os.path.basename(path), f"worst {worst:.1e} rad, angles up to {size:.2f} rad")
    if "memoryless" in name:
        stride, inside = 4, len(whole[0]) - 4
        for start in range(0, len(emg) - window, 60 * stride):
            (further,) = session.run(None, {"emg": emg[None, start : start + window]})
            worst = np.abs(further[0, :inside] - long[0][start : start + inside]).max()
            assert worst < 1e-5, f"{name}: {worst} rad from the whole window at row {start}"
    for other in long[1:]:
        worst = np.abs(other - long[0]).max()
        assert other.shape == long[0].shape and worst < 1e-4, f"{name}: chunks differ by {worst} rad"
        assert np.abs(other[len(whole[0]) :]).max() > 0.05, name
