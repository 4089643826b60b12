"""Angles of an EMG stream by a model of `emg-train export RUN --streaming`. Needs numpy and onnxruntime."""
import numpy as np
import onnxruntime


def stream(model, emg, **inputs):
    """emg [rows, channels] in the recordings' units -> angles [rows - left_context, joints] in radians."""
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map
    chunk, context, lag = (int(about[name]) for name in ("chunk", "left_context", "lag"))
    shapes = {value.name: value.shape for value in session.get_inputs()}
    state = np.zeros(shapes["state"], np.float32)
    position = np.zeros(shapes["position"], np.int64)
    angles = []
    for start in range(0, len(emg) + lag, chunk):  # behind the end come the rows that lag
        rows = emg[start : start + chunk]
        padded = np.zeros((1, chunk, emg.shape[1]), np.float32)
        padded[0, : len(rows)] = rows
        feeds = {"emg": padded, "rows": np.array([len(rows)]), "state": state, "position": position, **inputs}
        new, state, position = session.run(["joint_angles", "next_state", "next_position"], feeds)
        angles.append(new[0])
    return np.concatenate(angles)[context + lag : len(emg) + lag]
