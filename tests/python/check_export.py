"""Checks an exported model: onnx.checker, and its errors in Python's onnxruntime against `emg-train eval`.

    check_export.py MODEL.onnx INFO_JSON DATASET EVAL_JSON

INFO_JSON is the output of `emg-cache info KEY --json`, EVAL_JSON that of `emg-train eval RUN --json`. The windows
are cut anew here, from what h5py reads, in original units; EMG by recording is fed as `emg_mean` and `emg_std`.
Prints `ok: ...` and exits 0, or says what differs and exits 1.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime

TOLERANCE = 1e-5


def windows(info: dict, split: str):
    """Yields (recording, first row, rows) of every window of the split."""
    settings = info["settings"]
    size, stride = (
        (settings["window_size"], settings["stride"])
        if split == "train"
        else (settings["eval_window"], settings["eval_stride"])
    )
    for recording in info["recordings"]:
        if recording["split"] == split:
            runs = recording["valid_runs"] if settings["skip_ik_failures"] else [[0, recording["rows"]]]
            for start, length in runs:
                for first in range(start, start + length - size + 1, stride):
                    yield recording, first, size


def main() -> int:
    model_path, info_path, dataset, eval_path = sys.argv[1:]
    info, report = (json.loads(Path(path).read_text()) for path in (info_path, eval_path))
    settings = info["settings"]
    onnx.checker.check_model(onnx.load(model_path), full_check=True)
    session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    context = int(metadata["left_context"])
    absolute, rows = 0.0, 0
    for recording, first, size in windows(info, report["split"]):
        with h5py.File(Path(dataset) / recording["path"]) as file:
            table = file[settings["layout"]["table"]][first : first + size]
        angles = table["joint_angles"].astype(np.float64)[context:]
        feed = {"emg": table["emg"].astype(np.float32)[None]}
        if settings["normalize_emg"] == "recording":
            statistics = recording["statistics"]["emg"]
            std = np.array(statistics["std"])
            divisor = np.where(std < 1e-6, 1.0, std + 1e-8)
            feed["emg_mean"] = np.array(statistics["mean"], np.float32)[None]
            feed["emg_std"] = divisor.astype(np.float32)[None]
        if "initial_pose" in {value.name for value in session.get_inputs()}:
            feed["initial_pose"] = angles[:1].astype(np.float32)
        (prediction,) = session.run(["joint_angles"], feed)
        valid = ~np.isclose(angles, 0).all(axis=1)
        if "initial_pose" in feed and not valid[0]:
            continue
        absolute += np.abs(prediction[0] - angles)[valid].sum()
        rows += int(valid.sum())
    mae = absolute / (rows * settings["joint_angles_channels"])
    found = report["metrics"]
    # A batch of several windows gives the same as one.
    batch = {name: np.repeat(value, 3, axis=0) if name in ("emg", "initial_pose") else value for name, value in feed.items()}
    repeated = session.run(["joint_angles"], batch)[0]
    spread = float(np.abs(repeated - prediction).max())
    if rows != found["rows"] or abs(mae - found["mae"]) > TOLERANCE or spread > TOLERANCE:
        print(f"onnxruntime: mae {mae} over {rows} rows, batch spread {spread}; eval: {found['mae']} over {found['rows']}")
        return 1
    print(f"ok: mae {mae:.6f} rad over {rows} rows, eval {found['mae']:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
