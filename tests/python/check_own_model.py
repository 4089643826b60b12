"""Checks what `emg-train fit --model ORIGINAL.onnx` exported: onnx.checker, the original's names, and its errors in
Python's onnxruntime against `emg-train eval`.

    check_own_model.py ORIGINAL.onnx EXPORTED.onnx INFO_JSON DATASET EVAL_JSON

INFO_JSON is the output of `emg-cache info KEY --json`, EVAL_JSON that of `emg-train eval RUN --json`. The windows are
cut anew here, from what h5py reads, in original units; EMG by recording is fed as `emg_mean` and `emg_std`. Prints
`ok: ...` and exits 0, or says what differs and exits 1.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
from check_export import windows


def to_rows(y: np.ndarray, joints: int, rows: int) -> np.ndarray:
    """[rows, joints] from what a model gives for one window: turned and interpolated as emg-train does."""
    y = y[0]
    if y.ndim == 1:
        y = y[None]
    if y.shape[1] != joints:
        y = y.T
    at = np.clip((np.arange(rows) + 0.5) * len(y) / rows - 0.5, 0, len(y) - 1)
    return np.stack([np.interp(at, np.arange(len(y)), y[:, joint]) for joint in range(joints)], axis=1)


def main() -> int:
    original, exported, info_path, dataset, eval_path = sys.argv[1:]
    info, report = (json.loads(Path(path).read_text()) for path in (info_path, eval_path))
    settings = info["settings"]
    before, after = onnx.load(original), onnx.load(exported)
    onnx.checker.check_model(after, full_check=True)
    added = {"emg_mean", "emg_std"}  # by the export, where EMG is normalized by recording
    names = [[[value.name for value in values if value.name not in added] for values in (m.graph.input, m.graph.output)]
             for m in (before, after)]
    if names[0] != names[1]:
        print(f"inputs and outputs were {names[0]}, are {names[1]}")
        return 1
    _, (angles_name,) = names[1]
    inputs = [value.name for value in after.graph.input]
    emg_name = inputs[0]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    context, after = int(about["left_context"]), int(about["right_context"])
    shape = [value.shape for value in session.get_inputs() if value.name == emg_name][0]
    channels_first = shape[1] == settings["emg_channels"]
    joints = settings["joint_angles_channels"]
    absolute, rows = 0.0, 0
    for recording, first, size in windows(info, report["split"]):
        with h5py.File(Path(dataset) / recording["path"]) as file:
            table = file[settings["layout"]["table"]][first : first + size]
        angles = table["joint_angles"].astype(np.float64)[context : size - after]
        emg = table["emg"].astype(np.float32)
        feed = {emg_name: (emg.T if channels_first else emg)[None]}
        if "emg_mean" in inputs:
            statistics = recording["statistics"]["emg"]
            std = np.array(statistics["std"])
            feed["emg_mean"] = np.array(statistics["mean"], np.float32)[None]
            feed["emg_std"] = np.where(std < 1e-6, 1.0, std + 1e-8).astype(np.float32)[None]
        valid = ~np.all(np.isclose(angles, 0), axis=1)
        if "initial_pose" in inputs:
            if not valid[0]:
                continue
            feed["initial_pose"] = angles[:1].astype(np.float32)
        (y,) = session.run([angles_name], feed)
        absolute += np.abs(to_rows(y, joints, len(angles)) - angles)[valid].sum()
        rows += int(valid.sum())
    mae = np.degrees(absolute / (rows * joints))
    expected = report["metrics"]["mae_deg"]
    if abs(mae - expected) > 1e-4 * expected:
        print(f"mae {mae} deg by onnxruntime, {expected} by emg-train eval")
        return 1
    print(f"ok: mae {mae:.4f} deg over {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
