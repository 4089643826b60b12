"""Checks every figure of `emg-train eval`, by group and over users, with numpy from an exported model's predictions.

    check_metrics.py MODEL.onnx INFO_JSON DATASET EVAL_JSON [--emg2pose]

As check_export.py; with --emg2pose derivatives are expected multiplied by the rate once. Prints `ok: N figures`.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import onnxruntime
from check_export import windows

RATE = 2000.0
GROUPS = {"proximal": [0, 1, 4, 5, 8, 9, 12, 13, 16, 17], "mid": [2, 6, 10, 14, 18], "distal": [3, 7, 11, 15, 19]}
FINGERS = ["thumb", "index", "middle", "ring", "pinky"]


def predicted(session, info: dict, dataset: str, split: str):
    """(recording, predicted angles, true angles, valid) of each window."""
    context = int(session.get_modelmeta().custom_metadata_map["left_context"])
    for recording, first, size in windows(info, split):
        with h5py.File(Path(dataset) / recording["path"]) as file:
            table = file[info["settings"]["layout"]["table"]][first : first + size]
        std = np.array(recording["statistics"]["emg"]["std"])
        feed = {
            "emg": table["emg"].astype(np.float32)[None],
            "emg_mean": np.array(recording["statistics"]["emg"]["mean"], np.float32)[None],
            "emg_std": np.where(std < 1e-6, 1.0, std + 1e-8).astype(np.float32)[None],
        }
        angles = table["joint_angles"].astype(np.float64)[context:]
        (prediction,) = session.run(["joint_angles"], feed)
        yield recording, prediction[0].astype(np.float64), angles, ~np.isclose(angles, 0).all(axis=1)


def figures(parts: list, powers: list[float]) -> dict:
    errors = np.concatenate([(p - t)[valid] for _, p, t, valid in parts])
    targets = np.concatenate([t[valid] for _, _, t, valid in parts])
    sse, sst = (errors**2).sum(0), ((targets - targets.mean(0)) ** 2).sum(0)
    joint = np.degrees(np.abs(errors).mean(0))
    derivatives = []
    for order, factor in zip((1, 2, 3), powers):
        values = []
        for _, p, _, valid in parts:
            whole = np.lib.stride_tricks.sliding_window_view(valid, order + 1).all(axis=1)
            values.append(np.abs(np.diff(p, order, axis=0))[whole])
        derivatives.append(np.concatenate(values).mean() * factor)
    return {
        "rows": len(errors),
        "mse": (errors**2).mean(),
        "rmse": np.sqrt((errors**2).mean()),
        "mae": np.abs(errors).mean(),
        "rmse_deg": np.degrees(np.sqrt((errors**2).mean())),
        "mae_deg": np.degrees(np.abs(errors).mean()),
        "r2": 1 - sse.sum() / sst.sum(),
        "r2_per_joint": 1 - sse / sst,
        "mae_deg_per_joint": joint,
        "mae_deg_per_finger": [joint[4 * i : 4 * i + 4].mean() for i in range(5)],
        "mae_deg_per_group": [joint[joints].mean() for joints in GROUPS.values()],
        "smoothness": derivatives,
    }


def over_users(parts: list, powers: list[float]) -> dict:
    users = sorted({recording["user"] for recording, *_ in parts})
    own = [figures([part for part in parts if part[0]["user"] == user], powers) for user in users]
    columns = {name: [f[name] for f in own] for name in ("mae_deg", "rmse_deg", "r2")}
    columns |= {name: [f["smoothness"][i] for f in own] for i, name in enumerate(("velocity", "acceleration", "jerk"))}
    spread = {n: [np.mean(v), np.std(v, ddof=1) if len(v) > 1 else None] for n, v in columns.items()}
    return {"users": len(users)} | spread


def flat(value) -> list[float]:
    """The numbers of a figure, in order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in flat(part)]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [number for part in value for number in flat(part)]
    return [] if value is None or isinstance(value, str) else [float(value)]


def compare(where: str, found: dict, expected: dict) -> int:
    assert found.keys() == expected.keys(), (where, found.keys(), expected.keys())
    count = 0
    for name, value in expected.items():
        a, b = np.array(flat(found[name])), np.array(flat(value))
        # Predictions are float32 and not quite equal; what differs grows with every difference.
        tolerance = np.array({"smoothness": [1e-5, 1e-3, 3e-2], "acceleration": 1e-3, "jerk": 3e-2}.get(name, 1e-5))
        assert a.shape == b.shape and (np.abs(a - b) <= tolerance * np.maximum(np.abs(b), 1e-3)).all(), (where, name, a, b)
        count += a.size
    return count


def main() -> None:
    model, info, dataset, report = sys.argv[1:5]
    info, report = json.loads(Path(info).read_text()), json.loads(Path(report).read_text())
    powers = [RATE, RATE, RATE] if "--emg2pose" in sys.argv else [RATE, RATE**2, RATE**3]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = list(predicted(session, info, dataset, report["split"]))
    count = compare("all", report["metrics"], figures(parts, powers))
    count += compare("over users", report["over_users"], over_users(parts, powers))
    for label in ("user", "stage", "generalization"):
        names = sorted({recording[label] for recording, *_ in parts})
        groups = report[f"by_{label}"]
        assert [group["name"] for group in groups] == names, (label, groups)
        for group in groups:
            own = [part for part in parts if part[0][label] == group["name"]]
            assert group["windows"] == len(own)
            count += compare(f"{label} {group['name']}", group["metrics"], figures(own, powers))
            count += compare(f"{label} {group['name']} over users", group["over_users"], over_users(own, powers))
    print(f"ok: {count} figures")


if __name__ == "__main__":
    main()
