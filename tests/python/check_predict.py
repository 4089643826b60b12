"""`emg-train predict` against windows run one by one in Python's onnxruntime.

    check_predict.py MODEL.onnx RECORDING.hdf5 PREDICTED.hdf5 [PREDICTED.csv]

The predicted file is read as emg2pose's own tools do: by group, table and field. Prints `ok: ...`, or what differs.
"""

import csv
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime


def rows_of(y, joints, rows, joints_second):
    """[rows, joints] of one window's output, as emg-train brings it to rows."""
    y = y[0]
    y = y[None] if y.ndim == 1 else y.T if joints_second else y
    at = np.clip((np.arange(rows) + 0.5) * len(y) / rows - 0.5, 0, len(y) - 1)
    return y if len(y) == rows else np.stack([np.interp(at, np.arange(len(y)), y[:, j]) for j in range(joints)], axis=1)


def expected(model, table):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    onnx.checker.check_model(onnx.load(model), full_check=True)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    window, context = int(about["window"]), int(about["left_context"])
    inputs = {value.name: value.shape for value in session.get_inputs() + session.get_overridable_initializers()}
    own = about["architecture"] == "onnx"  # a network may take them by itself
    assert "emg_mean" in inputs if about["normalize_emg"] == "recording" else own or "emg_mean" not in inputs, inputs
    emg = table["emg"].astype(np.float32)
    joints = len(about["joints"].split(","))
    feeds = {}
    if "emg_mean" in inputs:  # every row is sampled: recordings here are short
        exact = table["emg"].astype(np.float64)
        std = exact.std(axis=0)
        feeds["emg_mean"] = exact.mean(axis=0)[None].astype(np.float32)
        feeds["emg_std"] = np.where(std < 1e-6, 1, std + 1e-8)[None].astype(np.float32)
    (name,) = set(inputs) - {"emg_mean", "emg_std", "initial_pose"}
    angles = np.zeros((len(emg), joints), np.float32)
    last = len(emg) - window
    starts = [*range(0, last, window - context), last]
    done = context
    for start in starts:
        if "initial_pose" in inputs:
            if done == context:
                truth = table["joint_angles"].astype(np.float32)
                valid = np.flatnonzero((np.abs(truth) > 1e-8).any(axis=1))
                pose = truth[valid[np.argmin(np.abs(valid - context))]]
            else:
                pose = angles[min(start + context, done - 1)]
            feeds["initial_pose"] = pose[None]
        x = emg[start : start + window][None]
        feeds[name] = x.transpose(0, 2, 1) if about["emg_layout"] == "channels_first" else x
        (y,) = session.run(None, feeds)
        y = rows_of(y, joints, window - context, about["angles_layout"] == "channels_first")
        angles[done : start + window] = y[done - start - context :]
        done = start + window
    assert done == len(emg)
    return angles, context, len(starts), about["joints"].split(",")


model, recording, predicted, *tables = sys.argv[1:]
with h5py.File(recording) as file:
    source = file["emg2pose"]
    attributes = dict(source.attrs)
    table = source["timeseries"][:]
wanted, context, windows, joints = expected(model, table)
with h5py.File(predicted) as file:
    group = file["emg2pose"]
    got = group["timeseries"][:]
    assert got.dtype.names == ("time", "joint_angles", "emg"), got.dtype
    for name in ["user", "session", "stage", "side", "sample_rate", "num_channels", "start", "end", "filename"]:
        assert name in group.attrs, name
    for name in ["user", "session", "stage", "side", "sample_rate", "num_channels"]:
        assert group.attrs[name] == attributes[name], name
    assert group.attrs["filename"] == Path(recording).stem
    assert (group.attrs["start"], group.attrs["end"]) == (got["time"][0], got["time"][-1])
assert np.array_equal(got["time"], table["time"]) and np.array_equal(got["emg"], table["emg"])
assert (got["joint_angles"][:context] == 0).all()
worst = np.abs(got["joint_angles"] - wanted).max()
assert worst < 1e-5, f"{worst} rad from windows run one by one"
assert np.abs(wanted).max() > 0.01
for path in tables:
    with open(path) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["time", *joints], rows[0]
    values = np.array(rows[1:], np.float64)
    assert np.array_equal(values[:, 0], got["time"])
    assert np.array_equal(values[:, 1:].astype(np.float32), got["joint_angles"])
valid = (np.abs(table["joint_angles"]) > 1e-8).any(axis=1)
valid[:context] = False
mae = np.degrees(np.abs(got["joint_angles"][valid].astype(np.float64) - table["joint_angles"][valid]).mean())
print(f"ok: {windows} windows, worst {worst:.1e} rad, mae {mae:.6f} deg")
