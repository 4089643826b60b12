#!/usr/bin/env python3
"""Cuts the windows of recordings by numpy and compares them with dumped ones.

    check_windows.py CASES_JSON DATASET

Prints `ok: N cases, M windows`.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

from check_cache import true_runs


def windows_of(emg: np.ndarray, angles: np.ndarray, case: dict, split: str):
    """EMG, angles and mask of each window of one recording: with padding, from the context on."""
    settings, context = case["settings"], case["context"]
    train = split == "train"
    size = settings["window_size" if train else "eval_window"]
    stride = settings["stride" if train else "eval_stride"]
    left, right = (0, 0) if split == "test" else settings["padding"]
    valid = ~np.isclose(angles, 0).all(axis=1)
    # Rows around the recording: EMG 0, mask 0.
    around = ((left, right), (0, 0))
    emg, angles, mask = np.pad(emg, around), np.pad(angles, around), np.pad(valid, around[0])
    runs = true_runs(valid) if settings["skip_ik_failures"] else [[0, len(valid)]]
    for first, length in runs:
        for start in range(first, first + length - size + 1, stride):
            rows = slice(start, start + left + size + right)
            targets = slice(start + context, rows.stop)
            usable = mask[targets].astype(np.float32)
            yield emg[rows], angles[targets] * usable[:, None], usable


def main() -> None:
    cases, dataset = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    total = 0
    for number, case in enumerate(cases):
        recordings = []
        for recording in case["recordings"]:
            with h5py.File(dataset / recording["path"]) as file:
                table = file["emg2pose/timeseries"][:]
            recordings.append((table["emg"], table["joint_angles"], recording["split"]))
        for dumped in case["dumped"]:
            split = dumped["split"]
            expected = [
                np.concatenate([part.astype(np.float32).ravel() for part in window])
                for emg, angles, of in recordings
                if of == split
                for window in windows_of(emg, angles, case, split)
            ]
            index = ["train", "val", "test"].index(split)
            assert len(expected) == dumped["windows"] == case["windows"][index], (number, split, len(expected), dumped)
            found = np.fromfile(dumped["path"], "<f4")
            if expected:
                assert np.array_equal(np.concatenate(expected), found), (number, split, case["settings"])
            else:
                assert not len(found), (number, split)
            total += len(expected)
    print(f"ok: {len(cases)} cases, {total} windows")


if __name__ == "__main__":
    main()
